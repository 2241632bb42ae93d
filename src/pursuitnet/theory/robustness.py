"""How much a signal may change before the guarantees for its sparse code fail, and where they are vacuous."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pursuitnet.dictionaries import Dictionary
from pursuitnet.problems.inputs import with_dictionary
from pursuitnet.problems.lasso import lasso
from pursuitnet.theory.inputs import coherence, finite, in_float64, nonnegative


class Guarantee(NamedTuple):
    """Numbers of a theorem, and where it is vacuous.

    Attributes:
        value: a radius, 0 where vacuous, or an error, ∞ where vacuous; in float64.
        vacuous: whether the theorem does not apply there.
    """

    value: Tensor
    vacuous: Bool[Tensor, " *shape"]

    def words(self) -> list[str]:
        """Return each number as text, or "vacuous"."""
        pairs = zip(self.value.flatten().tolist(), self.vacuous.flatten().tolist(), strict=True)
        return ["vacuous" if vacuous else f"{value:.3g}" for value, vacuous in pairs]


@torch.no_grad()
def encoder_gap(
    signal: Float[Tensor, "B channels *size"],
    code: Float[Tensor, "B code_channels *code_size"],
    dictionary: Dictionary,
    beta: Tensor | float,
    nonzeros: int,
    nonnegative_code: bool = False,
) -> Guarantee:
    """Return how much each signal may change, in ℓ₂, so that its optimal code is zero outside of the same s columns.

    With Γ* the optimum of (P1), r* = x − DΓ* is a firmly nonexpansive map of x, so |dⱼᵀr*| changes by ‖dⱼ‖·‖δ‖ at
    most, and γⱼ = 0 wherever it stays below β. A computed Γ with the absolute duality gap ε has the error
    ‖D(Γ − Γ*)‖ ≤ √(2ε). The radius is the (s + 1)-th smallest of

        ( β − |dⱼᵀr| ) / ‖dⱼ‖ − √(2ε)        (dⱼᵀr for Γ ≥ 0),

    the encoder gap of Sulam, Muthukumar and Arora (Adversarial robustness of supervised sparse coding, 2020) with the
    gap of the computed code certified. Vacuous where it is not above 0.

    Args:
        signal: x.
        code: Γ, such as ``solve`` returns; the closer to the optimum, the larger the radius.
        dictionary: D.
        beta: β ≥ 0, as for ``solve``.
        nonzeros: s ≥ 0, the number of columns that may be used; smaller than the size of the code.
        nonnegative_code: whether the code is restricted to Γ ≥ 0.

    Raises:
        ValueError: if the shapes do not match, a value is not finite, or s is not between 0 and the size of the code.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> D = pn.LinearDictionary(torch.eye(4, dtype=torch.float64))
        >>> x = torch.tensor([[3.0, 0.25, 0.0, 0.0]], dtype=torch.float64)
        >>> code = pn.solve(x, D, 1.0).code  # (2, 0, 0, 0)
        >>> pn.theory.encoder_gap(x, code, D, 1.0, nonzeros=1).words()  # β − 0.25
        ['0.75']
    """
    x, code = with_dictionary("the signal", signal, dictionary), with_dictionary("the code", code, dictionary)
    finite("the code", code)
    D = in_float64(dictionary)
    D.check_code(code, x.shape)
    size = code[0].numel()
    if not isinstance(nonzeros, int) or not 0 <= nonzeros < size:
        raise ValueError(f"nonzeros is {nonzeros}; expected a whole number from 0 to {size - 1}, below the code's size")
    problem = lasso(x.double(), D, beta.double() if isinstance(beta, Tensor) else beta, nonnegative_code)
    objective, gap, correlation = problem.certificate(D.split(code.double()))
    slack = [b - (d if nonnegative_code else d.abs()) for b, d in zip(problem.beta, correlation, strict=True)]
    distance = (D.join(tuple(slack)) / D.atom_norms(x.shape)).nan_to_num(posinf=math.inf, nan=math.inf)
    error = (2 * gap * objective).sqrt()
    radius = distance.flatten(1).kthvalue(nonzeros + 1, dim=1).values - error
    return Guarantee(radius.clamp(min=0), ~(radius > 0))


@torch.no_grad()
def layered_pursuit_bound(
    noise: Tensor | float, stripe_norms: Sequence[Tensor | float], coherences: Sequence[float]
) -> Guarantee:
    """Return ε₀ ∏_{k≤i} 7.5·√‖Γₖ‖₀,∞ˢ for every layer i, (layers, *B): a bound of layered basis pursuit's error.

    Where ‖Γₖ‖₀,∞ˢ ≤ ⅓(1 + 1/μ(Dₖ)) in every layer up to i and β of layer k is 4 times the error of its signal, the
    codes have their support inside the true one, and ‖Γ̂ᵢ − Γᵢ‖ in ℓ₂ over any patch is at most this (Papyan, Romano and
    Elad, Convolutional neural networks analyzed via convolutional sparse coding, 2017, Theorem 12, with the non-zeros
    of a patch bounded by those of a stripe). Romano, Aberdam, Sulam and Elad (2020) derive the stability of a
    classifier from it: its label does not change where a margin exceeds this bound. Atoms have unit norm. Vacuous from
    the first layer on in which the condition fails.

    Args:
        noise: ε₀, the largest ℓ₂ norm of the noise over a patch, one number or (B,).
        stripe_norms: ‖Γᵢ‖₀,∞ˢ of every layer, each one number or (B,).
        coherences: μ(Dᵢ) of every layer.

    Raises:
        ValueError: if a number is negative or not finite, μ exceeds 1, or there are not as many norms as coherences.

    Example:
        >>> import pursuitnet as pn
        >>> pn.theory.layered_pursuit_bound(0.1, [1, 4], [0.2, 0.2]).words()  # 4 > (1 + 1/0.2)/3
        ['0.75', 'vacuous']
    """
    if len(stripe_norms) != len(coherences) or not len(coherences):
        raise ValueError(
            f"there are {len(stripe_norms)} stripe norms and {len(coherences)} coherences; expected as many"
        )
    epsilon, *norms = torch.broadcast_tensors(
        nonnegative("noise", noise), *(nonnegative("a stripe norm", n) for n in stripe_norms)
    )
    mu = epsilon.new_tensor([coherence(m) for m in coherences]).view(-1, *[1] * epsilon.dim())
    stacked = torch.stack(norms)
    vacuous = (stacked > (1 + 1 / mu) / 3).cumsum(dim=0) > 0
    error = epsilon * (7.5 * stacked.sqrt()).cumprod(dim=0)
    return Guarantee(error.masked_fill(vacuous, math.inf), vacuous)

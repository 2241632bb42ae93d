"""Definition 1, the unsuccessfully reconstructed dimensions, and Theorem 1, how much [I D] lowers the objective."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pursuitnet.dictionaries import Dictionary, WithIdentity
from pursuitnet.problems.inputs import tensor_of, with_dictionary
from pursuitnet.prox.threshold import soft_threshold
from pursuitnet.theory.inputs import finite, in_float64, nonnegative


class BetterCode(NamedTuple):
    """A code of [I D], and how much lower its objective is than that of the code of D it was constructed from.

    Attributes:
        code: η (B, channels + atoms, …).
        drop: (B,), objective of D at Γ − objective of [I D] at η ≥ 0, in float64.
    """

    code: Tensor
    drop: Tensor


@torch.no_grad()
def unsuccessful(
    signal: Float[Tensor, "B channels *size"], reconstruction: Float[Tensor, "B channels *size"], beta: Tensor | float
) -> Bool[Tensor, "B channels *size"]:
    """Return where |ξ − x| > 2β, the dimensions whose reconstruction ξ = DΓ is unsuccessful (Definition 1).

    Args:
        signal: x.
        reconstruction: ξ.
        beta: β ≥ 0, one number or a tensor that broadcasts to the signal.

    Raises:
        ValueError: if the shapes do not match, β is negative, or a value is not finite.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> pn.theory.unsuccessful(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.9, 0.0]]), beta=0.25).tolist()
        [[False, True]]
    """
    signal, reconstruction = tensor_of("the signal", signal), tensor_of("the reconstruction", reconstruction)
    return _error(signal, reconstruction).abs() > 2 * _penalty(beta, signal)


@torch.no_grad()
def better_code(
    signal: Float[Tensor, "B channels *size"],
    code: Float[Tensor, "B atoms *size"],
    dictionary: Dictionary,
    beta: Tensor | float,
    shrink: bool = False,
) -> BetterCode:
    """Return the code η of [I D] that the proof of Theorem 1 constructs from a code Γ of D, and the objective's drop.

    With e = x − DΓ, η = (e on the unsuccessful dimensions, 0 elsewhere | Γ), and ½‖x − Dη‖² + β‖η‖₁ falls by
    Σ (½e² − β|e|) over the unsuccessful dimensions, which is positive unless there are none (then η = (0 | Γ)).

    The proof assumes that β is the same on the identity channels as on the others; only its value on the identity
    channels matters, as Γ does not change. The optimum for [I D] is at least as good as η, and e is not the best
    identity part for this Γ: that is S_β(e), which ``shrink`` uses instead; it is non-zero for every |e| > β and the
    drop is Σ ½·max(|e| − β, 0)².

    Args:
        signal: x.
        code: Γ, any code of D.
        dictionary: D, whose code has the size of its signal.
        beta: β ≥ 0 of the identity channels, one number or a tensor that broadcasts to the signal.
        shrink: use the best identity part for this Γ instead of the proof's.

    Raises:
        ValueError: if the shapes do not match, [I D] cannot be formed, β is negative, or a value is not finite.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> D = pn.LinearDictionary(torch.tensor([[0.1, 0.1], [0.1, 0.2], [0.2, 0.1]]))  # the example of Section V-B
        >>> better = pn.theory.better_code(torch.ones(1, 2), torch.zeros(1, 3), D, beta=1 / 3)
        >>> better.code.tolist(), round(float(better.drop), 4)
        ([[1.0, 1.0, 0.0, 0.0, 0.0]], 0.3333)
    """
    code = with_dictionary("the code", code, dictionary)
    signal = with_dictionary("the signal", signal, dictionary)
    finite("the code", code)
    with_identity, beta = WithIdentity(dictionary), _penalty(beta, signal)
    error = _error(signal, in_float64(dictionary).synthesize(code.double(), signal.shape))
    if shrink:
        identity, drop = soft_threshold(error, beta), (error.abs() - beta).clamp(min=0).square() / 2
    else:
        identity = error.where(error.abs() > 2 * beta, 0.0)
        drop = identity.square() / 2 - beta * identity.abs()
    return BetterCode(with_identity.join((identity.to(code.dtype), code)), drop.flatten(1).sum(dim=1))


def _error(signal: Tensor, reconstruction: Tensor) -> Tensor:
    """Return x − ξ in float64."""
    if signal.shape != reconstruction.shape:
        raise ValueError(
            f"the reconstruction has shape {tuple(reconstruction.shape)}; expected the signal's, {tuple(signal.shape)}"
        )
    finite("the signal", signal)
    finite("the reconstruction", reconstruction)
    return signal.double() - reconstruction.double()


def _penalty(beta: Tensor | float, signal: Tensor) -> Tensor:
    """Return β ≥ 0 in float64."""
    penalty = nonnegative("β", beta).to(signal.device)
    try:
        fits = np.broadcast_shapes(penalty.shape, signal.shape) == signal.shape  # PyTorch's would import SymPy
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"β has shape {tuple(penalty.shape)}; expected one number, or a shape that broadcasts to the signal's, "
            f"{tuple(signal.shape)}"
        )
    return penalty

"""The eigenvalues of DᵀD with and without the identity (Lemma 3), and β and b that depend on them (Section V-B)."""

from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from pursuitnet.dictionaries import CircularDictionary, Dictionary, WithIdentity
from pursuitnet.problems.inputs import check_dictionary, tensor_of
from pursuitnet.theory.inputs import finite, in_float64, nonnegative

Number = TypeVar("Number", float, Tensor)
Convention = Literal["ours", "paper"]

_FACTOR = {"ours": 1, "paper": 2}


@torch.no_grad()
def with_identity_spectrum(matrix: Float[Tensor, "m n"]) -> Float[Tensor, " m+n"]:
    """Return the eigenvalues of [I; A][I Aᵀ], Lemma 3: m zeros and the n values 1 + λ(AᵀA), ascending, in float64.

    A of size m × n is Dᵀ, ``dictionary.matrix(…).mT``. The product is BᵀB for B = [I Aᵀ] of size n × (m + n); its
    non-zero eigenvalues are those of BBᵀ = I + AᵀA. The paper states as many zeros as A has *columns*, and m values
    1 + λ(AAᵀ), which is true only for m = n.

    Raises:
        ValueError: unless A is a matrix of finite numbers.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> pn.theory.with_identity_spectrum(torch.tensor([[2.0, 0.0]])).tolist()  # A of 1 row: 1 zero
        [0.0, 1.0, 5.0]
    """
    matrix = tensor_of("A", matrix)
    if matrix.dim() != 2:
        raise ValueError(
            f"A has shape {tuple(matrix.shape)}; expected a matrix (m, n), such as dictionary.matrix(…).mT"
        )
    finite("A", matrix)
    m, n = matrix.shape
    spectrum = matrix.new_zeros(m + n, dtype=torch.float64)
    spectrum[m:] = 1
    singular = torch.linalg.svdvals(matrix.double()).flip(0)
    spectrum[m + n - len(singular) :] += singular.square()
    return spectrum


@torch.no_grad()
def lipschitz_interval(
    dictionary: Dictionary, signal_shape: Sequence[int] | None = None, steps: int = 50
) -> tuple[float, float]:
    """Return (lower, upper) with lower ≤ λmax(DᵀD) ≤ upper at this signal size, up to rounding, in float64.

    The lower end is the Rayleigh quotient ‖Dᵀv‖²/‖v‖² after ``steps`` steps of power iteration on DDᵀ, below λmax
    for every v. The upper end is ``dictionary.lipschitz_bound()``, proved for every signal size. For a
    CircularDictionary both are λmax itself, by the Fourier transform; [I D] adds 1 to both ends (Lemma 3).

    Args:
        dictionary: D or [I D].
        signal_shape: (B, channels, …) or (channels, …); B is ignored. Not needed for a matrix.
        steps: number of power iterations; more of them raise the lower end.

    Raises:
        ValueError: if steps is below 1 or the signal_shape is not one of the dictionary's.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> lower, upper = pn.theory.lipschitz_interval(pn.ConvDictionary(torch.ones(1, 1, 2)), (1, 50))
        >>> 3.9 < lower <= upper < 5
        True
    """
    check_dictionary(dictionary)
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps}; expected at least 1 step of power iteration")
    if isinstance(dictionary, WithIdentity):
        lower, upper = lipschitz_interval(dictionary.dictionary, signal_shape, steps)
        return 1 + lower, 1 + upper
    if isinstance(dictionary, CircularDictionary):
        return (dictionary.lipschitz(signal_shape),) * 2
    D, shape = in_float64(dictionary), (1, *dictionary._example(signal_shape))
    upper = float(D.lipschitz_bound())
    return min(_rayleigh(D, shape, steps), upper), upper


def beta_of_bias(bias: Number, lipschitz: float, convention: Convention = "ours") -> Number:
    """Return β = b·L, the penalty of the Lasso problem that a layer with bias b solves (Eqs. 1 and 2, Section V-B).

    "ours" has L = λmax(DᵀD), the smallest Lipschitz constant of the gradient of ½‖x − DΓ‖²; then [I D] instead of D
    adds 1 to L and b to β. The paper has L = 2·λmax, and [I D] adds 2 and 2b.

    Args:
        bias: b ≥ 0, the threshold of a step 1/L, which is subtracted: ReLU(z − b).
        lipschitz: λmax(DᵀD) in both conventions, such as ``dictionary.lipschitz(…)`` returns.
        convention: "ours" or "paper".

    Raises:
        ValueError: if b is negative, λmax is not positive, or the convention is unknown.

    Example:
        >>> import pursuitnet as pn
        >>> pn.theory.beta_of_bias(0.5, lipschitz=3.0), pn.theory.beta_of_bias(0.5, 3.0, convention="paper")
        (1.5, 3.0)
    """
    nonnegative("b", bias)
    return bias * _constant(lipschitz, convention)


def bias_of_beta(beta: Number, lipschitz: float, convention: Convention = "ours") -> Number:
    """Return b = β/L, the inverse of ``beta_of_bias``, where the arguments are described.

    Example:
        >>> import pursuitnet as pn
        >>> pn.theory.bias_of_beta(1.5, lipschitz=3.0)
        0.5
    """
    nonnegative("β", beta)
    return beta / _constant(lipschitz, convention)


def _constant(lipschitz: float, convention: Convention) -> float:
    """Return L."""
    if convention not in _FACTOR:
        raise ValueError(f"convention is {convention!r}; expected one of {', '.join(map(repr, _FACTOR))}")
    if not float(nonnegative("lipschitz", lipschitz)):
        raise ValueError(f"lipschitz is {lipschitz}; expected λmax(DᵀD) > 0, of a dictionary with a non-zero atom")
    return _FACTOR[convention] * lipschitz


def _rayleigh(D: Dictionary, shape: tuple[int, ...], steps: int) -> float:
    """Return ‖Dᵀv‖² for the unit v that power iteration reaches from a random signal."""
    device = D._reference_tensor().device
    v = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu").to(device)
    for _ in range(steps):
        image = D.synthesize(D.analyze(v / v.norm()), shape)
        if not image.any():  # D = 0, or no tap of it is inside the signal
            break
        v = image
    return float(D.analyze(v / v.norm()).square().sum())

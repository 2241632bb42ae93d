"""The number of non-zeros of a code, in total and in a stripe, and what follows from it: Lemmas 1 and 2."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from pursuitnet.dictionaries import CircularDictionary, ConvDictionary, Dictionary
from pursuitnet.dictionaries.inputs import kind_of
from pursuitnet.problems.inputs import tensor_of, with_dictionary
from pursuitnet.theory.inputs import coherence, finite, nonnegative, without_identity


def uniqueness_bound(mu: float) -> float:
    """Return ½(1 + 1/μ) of Lemma 1, ∞ for μ = 0: a code with fewer non-zeros is the sparsest of all codes of
    its x = DΓ, and the only one as sparse.

    By Papyan, Sulam and Elad (2017, the paper's [26]) a code of a convolutional D whose ``stripe_norm`` is below the
    bound is the only one with as small a stripe norm.

    Raises:
        ValueError: unless 0 ≤ μ ≤ 1.

    Example:
        >>> import pursuitnet as pn
        >>> pn.theory.uniqueness_bound(0.25)
        2.5
    """
    mu = coherence(mu)
    return (1 + 1 / mu) / 2 if mu else math.inf


def certified_unique(code: Float[Tensor, "B code_channels *code_size"], mu: float) -> Bool[Tensor, " B"]:
    """Return, for each example, whether ‖Γ‖₀ < ½(1 + 1/μ), so that Γ is the sparsest code of DΓ by Lemma 1.

    False proves nothing: Lemma 1 is sufficient, not necessary.

    Raises:
        ValueError: unless 0 ≤ μ ≤ 1, or if the code has values that are not finite.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> pn.theory.certified_unique(torch.tensor([[0.0, 3.0, 0.0], [1.0, 1.0, 1.0]]), mu=0.25).tolist()
        [True, False]
    """
    code = tensor_of("the code", code)
    finite("the code", code)
    return (code != 0).flatten(1).sum(dim=1) < uniqueness_bound(mu)


def stripe_norm(code: Float[Tensor, "B code_channels *code_size"], dictionary: Dictionary) -> Int[Tensor, " B"]:
    """Return ‖Γ‖₀,∞ˢ of Lemma 2 for each example: the largest number of non-zeros in a stripe.

    The stripe of a column of D is the part of the code whose columns overlap with it, itself included. An atom covers
    the n = dilation·(k − 1) + 1 cells from its first tap to its last, gaps and padding included, so the stripe of a
    position p contains all atoms at all positions q with |p − q|·stride < n along every axis: the paper's (2n − 1)m
    entries in 1-D at stride 1. At the end of a signal it is truncated; for a CircularDictionary it wraps around.

    For [I D] a column of I covers one cell, so the stripe of an atom also contains all channels of the identity part on
    the n cells that it covers. The stripe of a column of I lies within that of any atom that covers it, so it does not
    change the maximum. Atoms of other groups never overlap. The stripe of any other dictionary, a matrix, is the whole
    code.

    Raises:
        ValueError: if this is not a code of the dictionary, or has values that are not finite.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> D = pn.ConvDictionary(torch.ones(1, 1, 3), padding=1)
        >>> code = torch.zeros(2, 1, 9)
        >>> code[0, 0, [0, 8]] = code[1, 0, [3, 4]] = 1.0  # two atoms far apart, and two that overlap
        >>> pn.theory.stripe_norm(code, D).tolist()
        [1, 2]
    """
    code = with_dictionary("the code", code, dictionary)
    _check(code, dictionary)
    D = without_identity(dictionary)
    filled = code != 0
    if not isinstance(D, ConvDictionary):
        return filled.flatten(1).sum(dim=1)
    *identity, atoms = (part.unflatten(1, (D.groups, -1)).flatten(0, 1) for part in dictionary.split(filled))
    wraps = isinstance(D, CircularDictionary)
    if wraps:
        D.code_size(code.shape)  # raises for a code that is smaller than the filters
    half = [r // s for r, s in zip(D.reach, D.stride, strict=True)]
    counts = _in_window(atoms, half, half, wraps)
    if identity:  # the code has the signal's size, and the atom at p covers p − padding, …, p − padding + reach
        counts = counts + _in_window(
            identity[0], D.padding, [r - p for r, p in zip(D.reach, D.padding, strict=True)], wraps
        )
    return counts.view(len(code), -1).amax(dim=1)


def layered_error_bound(
    noise: Tensor | float, stripe_norms: Sequence[Tensor | float] | Tensor, coherences: Sequence[float]
) -> Float[Tensor, " layers *B"]:
    """Return ε₀² ∏_{k≤i} 4 / (1 − (2‖Γₖ‖₀,∞ˢ − 1)·μ(Dₖ)) of Lemma 2 for every layer i, in float64.

    It bounds ‖Γᵢ − Γ̂ᵢ‖₂² where ‖Γᵢ‖₀,∞ˢ ≤ ½(1 + 1/μ(Dᵢ)) in every layer up to i, and is ∞ from the first layer on in
    which that fails or the denominator is 0: the guarantee does not apply.

    Γ̂ here is NOT the output of the layered thresholding (Algorithm 1), as the paper states. In its source (Papyan,
    Romano and Elad, 2017, the paper's [25]) the bound is for the solution of the ℓ0 problem (the deep coding problem
    with ‖·‖₀,∞ˢ): codes that reproduce the noisy signal layer by layer, to within the noise, with ‖Γ̂ᵢ‖₀,∞ˢ no larger
    than ‖Γᵢ‖₀,∞ˢ. It assumes that the columns of every Dᵢ have unit norm, so none may be truncated at a border.

    Args:
        noise: ε₀ ≥ ‖E‖₂, one number or (B,).
        stripe_norms: ‖Γᵢ‖₀,∞ˢ of every layer, each one number or (B,).
        coherences: μ(Dᵢ) of every layer.

    Raises:
        ValueError: if a number is negative or not finite, μ exceeds 1, or there are not as many norms as coherences.

    Example:
        >>> import pursuitnet as pn
        >>> pn.theory.layered_error_bound(0.1, stripe_norms=[1, 1], coherences=[0.0, 0.5]).tolist()
        [0.04..., 0.32...]
    """
    for name, given in (("stripe_norms", stripe_norms), ("coherences", coherences)):
        if isinstance(given, str) or not hasattr(given, "__len__") or getattr(given, "ndim", 1) == 0:
            raise TypeError(f"{name} is {kind_of(given)}; expected one for each layer, as in [3, 2]")
    if len(stripe_norms) != len(coherences) or len(coherences) == 0:
        raise ValueError(
            f"got {len(stripe_norms)} stripe norms and {len(coherences)} coherences; expected one of each for a layer"
        )
    epsilon, *norms = torch.broadcast_tensors(
        nonnegative("noise", noise), *(nonnegative("a stripe norm", n) for n in stripe_norms)
    )
    mu = epsilon.new_tensor([coherence(m) for m in coherences])
    left = 1 - (2 * torch.stack(norms) - 1) * mu.view(-1, *[1] * epsilon.dim())
    return (epsilon**2 * (4 / left).cumprod(dim=0)).masked_fill((left <= 0).cumsum(dim=0) > 0, math.inf)


def _in_window(filled: Tensor, before: Sequence[int], after: Sequence[int], wraps: bool) -> Tensor:
    """Count (B, 1, *size) the non-zeros from ``before`` cells before each position to ``after`` cells after it."""
    if wraps:  # at most once around
        after = [min(a, n - 1 - b) for a, b, n in zip(after, before, filled.shape[2:], strict=True)]
    beyond = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
    counts = F.pad(filled.sum(dim=1, keepdim=True), beyond, mode="circular" if wraps else "constant")
    for axis, (b, a) in enumerate(zip(before, after, strict=True), 2):
        counts = counts.unfold(axis, b + a + 1, 1).sum(dim=-1)
    return counts


def _check(code: Tensor, dictionary: Dictionary) -> None:
    code_channels, dims = sum(dictionary.code_channels), dictionary.dims
    if code.dim() != dims + 2 or code.shape[1] != code_channels:
        sizes = f", and {dims} sizes" if dims else ""
        raise ValueError(
            f"the code has shape {tuple(code.shape)}; expected (B, {code_channels}{sizes}), a code of the dictionary"
        )
    finite("the code", code)

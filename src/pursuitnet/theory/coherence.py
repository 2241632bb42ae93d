"""The mutual coherence μ(D) of Lemma 1, exact at every image size without the matrix."""

import functools
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pursuitnet.dictionaries import CircularDictionary, ConvDictionary, Dictionary, ReflectingDictionary
from pursuitnet.problems.inputs import check_dictionary
from pursuitnet.theory.inputs import finite, in_float64, without_identity


@torch.no_grad()
def mutual_coherence(dictionary: Dictionary, signal_shape: Sequence[int] | None = None) -> float:
    """Return μ(D) = max over i ≠ j of |dᵢᵀdⱼ| / (‖dᵢ‖‖dⱼ‖), which the paper defines for unit columns (Lemma 1).

    Without a signal_shape the columns of a convolution are those in the interior of a large signal, and μ follows
    from the filters' cross-correlations at the lags that are a multiple of both the stride and the dilation. With
    one, they are the columns of ``dictionary.matrix(signal_shape)``, including filters truncated at the border, except
    those that are zero inside the signal. Both are exact up to rounding, in float64, and the second takes hardly longer
    for a large image than for a small one. A single column has μ = 0.

    For [I D] every tap of an atom meets a column of I: μ([I D]) ≥ max ‖dⱼ‖∞/‖dⱼ‖₂. "The identity matrices in
    MSD-CSC don't affect μ" (Section V-B) is therefore false.

    Args:
        dictionary: D or [I D]. One that is neither a convolution nor a matrix is measured by its explicit matrix, as
            is a ReflectingDictionary at a signal size.
        signal_shape: (B, channels, …) or (channels, …), B is ignored; or None.

    Raises:
        ValueError: if an atom is zero or not finite, or the signal is too small for the filters.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> kernel = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> mu = pn.theory.mutual_coherence(pn.ConvDictionary(kernel))  # Fig. 1B
        >>> dilated = pn.ConvDictionary(kernel, dilation=2)  # Fig. 1C, and the same on a larger image
        >>> [round(m, 4) for m in (mu, *(pn.theory.mutual_coherence(dilated, (1, n, n)) for n in (4, 5)))]
        [0.4667, 0.0, 0.4667]
    """
    check_dictionary(dictionary)
    inner = without_identity(dictionary)
    beside_identity = inner is not dictionary
    reflected = isinstance(inner, ReflectingDictionary) and signal_shape is not None
    if isinstance(inner, ConvDictionary) and not reflected:
        size = None if signal_shape is None else inner._example(signal_shape)[1:]
        mu = _of_filters(inner, size, beside_identity)
    else:
        mu = _of_matrix(in_float64(inner).matrix(signal_shape), beside_identity)
    return min(mu, 1.0)  # 1 + 1e-16 is rounding


def _of_matrix(D: Tensor, beside_identity: bool) -> float:
    D = _scaled(D.T)
    D = D / D.norm(dim=1, keepdim=True)
    mu = float((D @ D.T).abs().fill_diagonal_(0).max())
    return max(mu, float(D.abs().max())) if beside_identity else mu


def _of_filters(D: ConvDictionary, size: tuple[int, ...] | None, beside_identity: bool) -> float:
    """Return the largest cosine between a filter at a position and its neighbors, over all kinds of positions."""
    filters = D.dense_weight().double()
    weight = _scaled(filters.flatten(1)).view_as(filters)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[D.dims - 1]
    first = [k - 1 for k in weight.shape[2:]]  # of the 2k − 1 lags along an axis, the index of lag 0
    mu = 0.0
    for own, around, partners in _neighborhoods(D, size):
        columns = weight * own
        norms = _or_infinite(columns.flatten(1).norm(dim=1)).view(-1, *[1] * (D.dims + 1))
        # A tap that dᵢ and dⱼ share is inside the signal or outside of it for both, so it is enough to truncate dᵢ;
        # the other taps of dⱼ only affect its norm.
        products = convolve(columns, weight, padding=first)
        squares = convolve(around.unsqueeze(1), weight.square().sum(dim=1, keepdim=True))
        cosines = products / norms * (partners.unsqueeze(1) / _or_infinite(squares.sqrt())).amax(dim=0)
        cosines.diagonal()[tuple(first)] = 0  # a column and itself
        if size is not None and isinstance(D, CircularDictionary):
            cosines = _folded(cosines, D.dilation, size)
        mu = max(mu, float(cosines.abs().max()))
        if beside_identity:
            mu = max(mu, float((columns / norms).abs().max()))
    return mu


def _neighborhoods(D: ConvDictionary, size: tuple[int, ...] | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the neighborhoods of the filters' positions, in units of taps, once for each kind of position.

    A filter overlaps with filters up to k − 1 taps away, which reach over 3k − 2 taps. Two positions with the same set
    of these taps inside the signal, and the same set of these filters in D, have the same inner products; and since a
    signal is a product of its axes, so are the kinds of positions. Far from the border there is only one.

    Yields:
        own: (*k), 1 for the taps of the filter inside the signal, 0 for those outside.
        around: (T, *3k − 2), the same for the taps of all its neighbors; T kinds of positions have this own.
        partners: (T, *2k − 1), 1 for the neighbors that are columns of D.
    """
    borders = [None] * D.dims if size is None else [*zip(size, D.code_size((1, D.channels, *size)), strict=True)]
    for kinds in itertools.product(*(_along(D, axis, border) for axis, border in enumerate(borders))):
        own, around, partners = (functools.reduce(_product, vectors) for vectors in zip(*kinds, strict=True))
        yield own[0], around, partners


def _along(D: ConvDictionary, axis: int, border: tuple[int, int] | None) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return own (1, k), around and partners along one axis, for every own; border is (signal size, code size)."""
    k, stride, dilation = D.weight.shape[axis + 2], D.stride[axis], D.dilation[axis]
    taps = dilation * torch.arange(1 - k, 2 * k - 1, device=D.weight.device)
    lags = taps[: 2 * k - 1]
    around, partners = torch.ones_like(taps).bool()[None], (lags % stride == 0)[None]
    if border is not None and not isinstance(D, CircularDictionary):
        position = torch.arange(border[1], device=taps.device)[:, None]
        cells, neighbors = position * stride - D.padding[axis] + taps, position + lags // stride
        around = (cells >= 0) & (cells < border[0])
        partners = partners & (neighbors >= 0) & (neighbors < border[1])
    kinds = torch.cat([around, partners], dim=1).unique(dim=0).double()
    around, partners = kinds.split([len(taps), len(lags)], dim=1)
    owns, which = around[:, k - 1 : 2 * k - 1].unique(dim=0, return_inverse=True)
    return [(own[None], around[which == n], partners[which == n]) for n, own in enumerate(owns)]


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Return the outer products (TU, …, n) of each of T arrays (T, …) with each of U vectors (U, n)."""
    return torch.einsum("t...,un->tu...n", one, other).flatten(0, 1)


def _folded(cosines: Tensor, dilation: Sequence[int], size: Sequence[int]) -> Tensor:
    """Sum the lags (atoms, atoms, *2k − 1) that are the same on a torus."""
    for axis, (d, n) in enumerate(zip(dilation, size, strict=True), 2):
        lags = torch.arange(cosines.shape[axis], device=cosines.device) - cosines.shape[axis] // 2
        same, where = (d * lags % n).unique(return_inverse=True)
        shape = [*cosines.shape[:axis], len(same), *cosines.shape[axis + 1 :]]
        cosines = cosines.new_zeros(shape).index_add(axis, where, cosines)
    return cosines


def _scaled(atoms: Tensor) -> Tensor:
    """Return atoms (n, taps) scaled to a largest entry of 1, so that no square underflows."""
    finite("the dictionary", atoms)
    peak = atoms.abs().amax(dim=1, keepdim=True)
    if not bool(peak.all()):
        zeros = (peak.flatten() == 0).nonzero().flatten().tolist()
        raise ValueError(f"atoms {zeros} are zero; expected atoms with a direction, so remove these")
    return atoms / peak


def _or_infinite(norms: Tensor) -> Tensor:
    """Return norms with ∞ for 0: a zero column then has cosine 0 with every other."""
    return norms.masked_fill(norms == 0, torch.inf)

"""PyTorch's convolution and its adjoint, with another form where oneDNN, PyTorch's library on CPUs, is slow or wrong.

It takes as long for one atom as for four. There Dᵀx is one matrix product, with a row for each tap of the filter, and
the sum of its rows, each shifted by its tap: half to a quarter of the time, with its gradients.

It computes 16 channels of a result at a time, so that D, whose result is the signal, takes as long for one channel as
for 16: see ``blocks``.

On CPUs oneDNN (3.12, which is PyTorch 2.13's) computes a wrong gradient of the filters in bfloat16, and writes outside
of its memory, where they are dilated, the layout is channels-last, the code is wider than 28, and the channels are more
than 16 but not a multiple of 16. Dᵀ is also a transposed convolution with flipped filters, and D a convolution; in that
form atoms and channels change places, and it is as fast. Where the atoms have such a number too, single precision is
used.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pursuitnet.dictionaries import blocks
from pursuitnet.dictionaries.inputs import has_autocast

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
ADJOINTS = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
Axes = tuple[int, ...]


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which autocast is off on a device; a device such as meta has no autocast."""
    return torch.autocast(device.type, enabled=False) if has_autocast(device.type) else nullcontext()


def promote_half(weight: Tensor) -> Tensor:
    """Return a weight of half precision in single precision, which FFTs and singular values need."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def convolve(x: Tensor, weight: Tensor, stride: Axes, padding: Axes, dilation: Axes, groups: int = 1) -> Tensor:
    """Return the zero-padded convolution of x (B, channels, *) with filters (atoms, channels/groups, *)."""
    if _is_slow(x, weight, stride, padding, dilation, groups):
        taps, size = weight.shape[2:], _size(x, weight, padding, dilation)
        rows = weight[0].flip(1, 2).flatten(1)
        return F.fold(rows.mT @ x.flatten(2), size, taps, dilation, _flipped_padding(weight, padding, dilation))
    if x.requires_grad and blocks.are_faster(x, weight, stride, padding, dilation, groups):
        return blocks.convolve(x, weight, padding)
    if not _may_be_wrong(x, weight, stride, padding, dilation):
        return CONVOLUTIONS[len(stride) - 1](x, weight, None, stride, padding, dilation, groups)
    flipped_padding = _flipped_padding(weight, padding, dilation)
    if groups == 1 and _has_right_gradient(len(weight)) and min(flipped_padding) >= 0:
        return F.conv_transpose2d(x, weight.transpose(0, 1).flip(2, 3), None, 1, flipped_padding, 0, 1, dilation)
    return _in_single_precision(F.conv2d, x, weight, None, stride, padding, dilation, groups)


def adjoint(
    code: Tensor, weight: Tensor, stride: Axes, padding: Axes, spare: Axes, dilation: Axes, groups: int = 1
) -> Tensor:
    """Return the transposed convolution of a code (B, atoms, *), with ``spare`` more pixels at the end of each axis."""
    if _is_slow(code, weight, stride, padding, dilation, groups):
        rows, flipped_padding = weight[0].flip(1, 2).flatten(1), _flipped_padding(weight, padding, dilation)
        signal = rows @ F.unfold(code, weight.shape[2:], dilation, flipped_padding)
        return signal.unflatten(2, _size(code, weight, flipped_padding, dilation))
    if blocks.are_faster(code, weight, stride, padding, dilation, groups):
        return blocks.adjoint(code, weight, padding)
    if not _may_be_wrong(code, weight, stride, padding, dilation):
        return ADJOINTS[len(stride) - 1](code, weight, None, stride, padding, spare, groups, dilation)
    flipped_padding = _flipped_padding(weight, padding, dilation)
    if groups == 1 and _has_right_gradient(len(weight)) and min(flipped_padding) >= 0:
        return F.conv2d(code, weight.transpose(0, 1).flip(2, 3), None, 1, flipped_padding, dilation)
    return _in_single_precision(F.conv_transpose2d, code, weight, None, stride, padding, spare, groups, dilation)


def _is_slow(given: Tensor, weight: Tensor, stride: Axes, padding: Axes, dilation: Axes, groups: int) -> bool:
    """Return whether one atom is convolved on a CPU, in a form that ``fold`` and ``unfold`` have.

    With more taps than two for each channel, the rows outweigh the signal, in memory and in time.
    """
    one_atom = len(weight) == 1 and groups == 1 and len(stride) == 2 and max(stride) == 1
    if not one_atom or weight[0, 0].numel() > 2 * weight.shape[1] or torch.compiler.is_compiling():
        return False
    if given.device.type != "cpu" or given.dtype not in (torch.float32, torch.float64):
        return False
    return not torch.is_autocast_enabled("cpu") and min(_flipped_padding(weight, padding, dilation)) >= 0


def _size(given: Tensor, weight: Tensor, padding: Axes, dilation: Axes) -> Axes:
    """Return the size of a convolution's result."""
    axes = zip(given.shape[2:], weight.shape[2:], padding, dilation, strict=True)
    return tuple(n + 2 * p - d * (k - 1) for n, k, p, d in axes)


def _may_be_wrong(given: Tensor, weight: Tensor, stride: Axes, padding: Axes, dilation: Axes) -> bool:
    """Return whether oneDNN's gradient of the filters may be wrong; ``given`` is the signal or the code.

    The size is checked last: a program that is exported after checking it works at no other size.
    """
    if given.device.type != "cpu" or not torch.is_grad_enabled() or len(stride) != 2 or max(stride) > 1:
        return False
    cast = torch.is_autocast_enabled("cpu") and given.dtype != torch.float64
    if (torch.get_autocast_dtype("cpu") if cast else given.dtype) != torch.bfloat16:
        return False
    return max(dilation) > 1 and not _has_right_gradient(weight.shape[1]) and given.shape[-1] + 2 * padding[-1] > 28


def _has_right_gradient(channels: int) -> bool:
    return channels <= 16 or channels % 16 == 0


def _flipped_padding(weight: Tensor, padding: Axes, dilation: Axes) -> Axes:
    """Return the padding of the other form, with flipped filters."""
    return tuple(d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True))


def _in_single_precision(convolution: Callable[..., Tensor], x: Tensor, weight: Tensor, *others: Any) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return convolution(x.float(), weight.float(), *others).bfloat16()

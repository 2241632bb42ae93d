"""A convolution and its adjoint as PyTorch has them, but for one case in which oneDNN's gradient is wrong.

On CPUs oneDNN (3.12, which is PyTorch 2.13's) gets the gradient of the filters wrong in bfloat16, and writes outside of
its memory, where they are dilated, the layout is channels-last, the code is wider than 28, and the channels are more
than 16 but no multiple of 16. Dᵀ is also a transposed convolution with turned filters, and D a convolution; there the
atoms stand in the channels' place, and it is as fast. Where they do not fit either, single precision is used.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.amp import is_autocast_available
from torch.nn import functional as F

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
ADJOINTS = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
Axes = tuple[int, ...]


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which autocast is off on a device; one such as meta has none."""
    return torch.autocast(device.type, enabled=False) if is_autocast_available(device.type) else nullcontext()


def promote_half(weight: Tensor) -> Tensor:
    """Return a weight in single precision, where it is of half: Fourier and singular values need that."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def convolve(x: Tensor, weight: Tensor, stride: Axes, padding: Axes, dilation: Axes, groups: int = 1) -> Tensor:
    """Return the zero-padded convolution of x (B, channels, *) with filters (atoms, channels/groups, *)."""
    if not _wrong(x, weight, stride, padding, dilation):
        return CONVOLUTIONS[len(stride) - 1](x, weight, None, stride, padding, dilation, groups)
    turned = _turned(weight, padding, dilation)
    if groups == 1 and _fits(len(weight)) and min(turned) >= 0:
        return F.conv_transpose2d(x, weight.transpose(0, 1).flip(2, 3), None, 1, turned, 0, 1, dilation)
    return _in_single(F.conv2d, x, weight, None, stride, padding, dilation, groups)


def adjoint(
    code: Tensor, weight: Tensor, stride: Axes, padding: Axes, spare: Axes, dilation: Axes, groups: int = 1
) -> Tensor:
    """Return the transposed convolution of a code (B, atoms, *), with ``spare`` places more at the end of each axis."""
    if not _wrong(code, weight, stride, padding, dilation):
        return ADJOINTS[len(stride) - 1](code, weight, None, stride, padding, spare, groups, dilation)
    turned = _turned(weight, padding, dilation)
    if groups == 1 and _fits(len(weight)) and min(turned) >= 0:
        return F.conv2d(code, weight.transpose(0, 1).flip(2, 3), None, 1, turned, dilation)
    return _in_single(F.conv_transpose2d, code, weight, None, stride, padding, spare, groups, dilation)


def _wrong(given: Tensor, weight: Tensor, stride: Axes, padding: Axes, dilation: Axes) -> bool:
    """Return whether the gradient of the filters could be wrong; ``given`` is signal or code.

    The size comes last: an exported program that has asked for it serves no other sizes.
    """
    if given.device.type != "cpu" or not torch.is_grad_enabled() or len(stride) != 2 or max(stride) > 1:
        return False
    cast = torch.is_autocast_enabled("cpu") and given.dtype != torch.float64
    if (torch.get_autocast_dtype("cpu") if cast else given.dtype) != torch.bfloat16:
        return False
    return max(dilation) > 1 and not _fits(weight.shape[1]) and given.shape[-1] + 2 * padding[-1] > 28


def _fits(count: int) -> bool:
    return count <= 16 or count % 16 == 0


def _turned(weight: Tensor, padding: Axes, dilation: Axes) -> Axes:
    """Return the padding that the other form has."""
    return tuple(d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True))


def _in_single(convolution: Callable[..., Tensor], x: Tensor, weight: Tensor, *others: Any) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return convolution(x.float(), weight.float(), *others).bfloat16()

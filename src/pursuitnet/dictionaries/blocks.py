"""D of a signal of few channels on a CPU, computed for blocks of pixels.

oneDNN, PyTorch's library there, computes 16 channels of a result at a time. The signal DΓ of gray images has one, and
takes as long as one of 16. Here the pixels of a block, such as 4×4, are the channels of one convolution whose stride is
the block; the filters of each are those of D, shifted by the pixel's place in the block. It takes a third to an eighth
of the time for gray images, and half for color. The gradient of Dᵀx in x is a D too.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pursuitnet.utils.inplace import is_transformed

Axes = tuple[int, ...]

LANES = 16
"""Numbers in single precision that are computed at a time."""
SIDES = {2: 4, 3: 2}
"""Pixels of a block along each axis, by the number of axes; signals with one axis gain nothing."""
LARGEST_KERNEL = 16
"""Taps along an axis above which oneDNN convolves in another way, which is slower for blocks and faster for D."""
WORTH = 2**21
"""Number of products below which the filters of the blocks take longer to make than they gain."""


def are_faster(given: Tensor, weight: Tensor, stride: Axes, padding: Axes, dilation: Axes, groups: int) -> bool:
    """Return whether D of these filters is computed for blocks; ``given`` is the signal or the code."""
    if not fit(weight, stride, dilation, groups):
        return False
    if any(p >= k for p, k in zip(padding, weight.shape[2:], strict=True)):  # the code reaches beyond every window
        return False
    if given.device.type != "cpu" or given.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    if is_transformed() or torch._C._len_torch_dispatch_stack() > 0:  # as where operations are counted
        return False
    return given.shape[0] * given.shape[2:].numel() * weight.numel() >= WORTH


def fit(weight: Tensor, stride: Axes, dilation: Axes, groups: int) -> bool:
    """Return whether filters have the few channels, and otherwise the form, for which blocks are faster."""
    few = weight.dtype == torch.float32 and weight.shape[1] <= 3 and groups == 1 and len(stride) in SIDES
    kernel = weight.shape[2:]
    return few and min(kernel) >= 3 and max(kernel) <= LARGEST_KERNEL and max(stride) == max(dilation) == 1


def side(weight: Tensor) -> int:
    """Return the number of pixels of a block along each axis."""
    return SIDES[weight.dim() - 2] if weight.shape[1] <= 2 else 2


def products(weight: Tensor, positions: int) -> float:
    """Return how many products D takes for a code of so many positions, where channels that are computed count."""
    n, dims = side(weight), weight.dim() - 2
    lanes = LANES * math.ceil(weight.shape[1] * n**dims / LANES)
    return lanes / n**dims * len(weight) * math.prod(k + n - 1 for k in weight.shape[2:]) * positions


def convolve(x: Tensor, weight: Tensor, padding: Axes) -> Tensor:
    """Return Dᵀx of stride 1, whose gradient in x is computed for blocks."""
    return _Convolution.apply(x, weight, padding)  # type: ignore[no-untyped-call]


def adjoint(code: Tensor, weight: Tensor, padding: Axes) -> Tensor:
    """Return DΓ of stride 1, computed for blocks."""
    return _Adjoint.apply(code, weight, padding)  # type: ignore[no-untyped-call]


def _superposed(code: Tensor, weight: Tensor, padding: Axes) -> Tensor:
    dims, n, kernel = weight.dim() - 2, side(weight), weight.shape[2:]
    size = [m + k - 1 - 2 * p for m, k, p in zip(code.shape[2:], kernel, padding, strict=True)]
    # blocks begin before the signal if need be, so that they reach as far beyond the code at its start as at its end
    early = [(-m % n + 1) // 2 for m in size]
    beyond = [k - 1 - p + e for k, p, e in zip(kernel, padding, early, strict=True)]
    blocks = _convolution(code, _shifted_filters(weight, n), [n] * dims, beyond)
    pixels = blocks.unflatten(1, (weight.shape[1], *[n] * dims))
    signal = pixels.permute(0, 1, *[axis for d in range(2, 2 + dims) for axis in (d + dims, d)])
    for axis, (e, m) in enumerate(zip(early, size, strict=True), 2):
        signal = signal.flatten(axis, axis + 1).narrow(axis, e, m)
    return signal.contiguous()


def _shifted_filters(weight: Tensor, n: int) -> Tensor:
    """Return filters (channels·nᵈⁱᵐˢ, atoms, *kernel + n − 1): those of D at each place in a block."""
    axes = range(2, weight.dim())
    windows = F.pad(weight.flip(*axes).transpose(0, 1), [n - 1] * (2 * len(axes)))
    for axis in axes:
        windows = windows.unfold(axis, weight.shape[axis] + n - 1, 1)  # its axis is the place, and the last its taps
    return windows.flip(*axes).movedim(1, 1 + len(axes)).flatten(0, len(axes))


def _convolution(x: Tensor, weight: Tensor, stride: list[int], padding: list[int]) -> Tensor:
    one = [1] * len(stride)
    return torch.convolution(x, weight, None, stride, padding, one, False, [0] * len(stride), 1)


def _weight_gradient(x: Tensor, weight: Tensor, code: Tensor, padding: Axes) -> Tensor:
    """Return the gradient of ⟨Dᵀx, Γ⟩ in the filters; that of ``torch.nn.grad`` copies codes in channels-last."""
    one, zero, mask = [1] * len(padding), [0] * len(padding), [False, True, False]
    backward = torch.ops.aten.convolution_backward
    return backward(code, x, weight, None, one, padding, one, False, zero, 1, mask)[1]


class _Convolution(torch.autograd.Function):
    """Dᵀx, with the gradient ``_Adjoint`` in x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: Axes) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return _convolution(x, weight, [1] * len(padding), list(padding))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, weight), padding = ctx.saved_tensors, ctx.padding
        of_x = adjoint(gradient, weight, padding) if ctx.needs_input_grad[0] else None
        of_weight = _weight_gradient(x, weight, gradient, padding) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, None


class _Adjoint(torch.autograd.Function):
    """DΓ, with the gradient ``_Convolution`` in Γ."""

    @staticmethod
    def forward(ctx: Any, code: Tensor, weight: Tensor, padding: Axes) -> Tensor:
        ctx.save_for_backward(code, weight)
        ctx.padding = padding
        return _superposed(code, weight, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (code, weight), padding = ctx.saved_tensors, ctx.padding
        of_code = convolve(gradient, weight, padding) if ctx.needs_input_grad[0] else None
        of_weight = _weight_gradient(gradient, weight, code, padding) if ctx.needs_input_grad[1] else None
        return of_code, of_weight, None

"""Where a result may take the memory of an operand: all work in place asks here."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def reusable(tensor: Tensor, other: Tensor | None = None) -> Tensor | None:
    """Return a tensor as the place of a result (``out=``), or None where what it holds would be missed.

    All that a pursuit computes in place asks here. The answer is None where a gradient, a transform of ``torch.func``
    or forward differentiation looks on, and where the other operand would make a result of another type or shape.

    Args:
        tensor: an operand that nobody needs afterwards.
        other: the other operand; may be left out if it is a number, or one for each row and of the tensor's type.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return None
    fits = other is None or (other.dtype == tensor.dtype and other.shape == tensor.shape)
    return tensor if fits else None

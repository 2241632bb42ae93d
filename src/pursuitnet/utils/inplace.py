"""Whether a result may be written into the memory of an operand: the one rule of all in-place work."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def reusable(tensor: Tensor, other: Tensor | None = None) -> Tensor | None:
    """Return a tensor for ``out=`` if a result may overwrite it, or None if its values are still needed.

    It is None while gradients, a transform of ``torch.func``, forward-mode differentiation or compilation are active,
    and where the other operand would give the result another type or shape.

    Args:
        tensor: an operand that is not used afterwards.
        other: the other operand; may be left out if it is a number, or one per row and of the tensor's type.
    """
    if torch.is_grad_enabled() or is_transformed():
        return None
    fits = other is None or (other.dtype == tensor.dtype and other.shape == tensor.shape)
    return tensor if fits else None


def is_transformed() -> bool:
    """Return whether a transform of ``torch.func``, forward-mode differentiation or compilation is active."""
    if torch.compiler.is_compiling() or forward_ad._current_level >= 0:
        return True
    return torch._C._are_functorch_transforms_active()

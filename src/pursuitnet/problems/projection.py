"""Least squares over columns of D by conjugate gradients, and its residual."""

from collections.abc import Callable

import torch
from torch import Tensor

from pursuitnet.dictionaries import Dictionary


@torch.no_grad()
def conjugate_gradients(gram: Callable[[Tensor], Tensor], right: Tensor, most: int = 1000) -> Tensor:
    """Return the solution w of gram(w) = right, each example by itself, to about the square root of the rounding.

    Where columns depend on each other, gram maps some direction to zero up to rounding: an example stops before it.
    """
    dims, eps = tuple(range(1, right.dim())), torch.finfo(right.dtype).eps
    w, rest = torch.zeros_like(right), right.clone()
    direction, energy = rest, rest.square().sum(dims, keepdim=True)
    goal, active, largest = energy * eps**1.6, energy > 0, torch.zeros_like(energy)
    for _ in range(most):
        image = gram(direction)
        curvature = (direction * image).sum(dims, keepdim=True)
        slope = curvature / direction.square().sum(dims, keepdim=True).clamp(min=torch.finfo(right.dtype).tiny)
        largest = largest.maximum(slope)
        active = active & (energy > goal) & (slope > 100 * eps * largest)
        if not bool(active.any()):
            break
        a = torch.where(active, energy / curvature, 0.0)
        w, rest = w + a * direction, rest - a * image
        energy, last = rest.square().sum(dims, keepdim=True), energy
        direction = rest + torch.where(active, energy / last, 0.0) * direction
    return w


@torch.no_grad()
def projection_residual(dictionary: Dictionary, mask: Tensor, signal: Tensor, most: int = 200) -> Tensor:
    """Return the residual of the least-squares fit of a signal by some columns: its component orthogonal to them.

    Args:
        dictionary: D.
        mask: 1 for the columns, 0 for all others, in the shape of the code, (B, code_channels, …).
        signal: the signal to fit, (B, channels, …).
        most: maximum number of steps of conjugate gradients.
    """

    def gram(v: Tensor) -> Tensor:
        return mask * dictionary.analyze(dictionary.synthesize(v, signal.shape))

    fit = conjugate_gradients(gram, mask * dictionary.analyze(signal), most)
    return signal - dictionary.synthesize(fit, signal.shape)

"""A solution of (P1) made exact on its support."""

import torch
from torch import Tensor

from pursuitnet.dictionaries import Dictionary
from pursuitnet.problems.projection import conjugate_gradients


@torch.no_grad()
def polished(code: Tensor, x: Tensor, dictionary: Dictionary, beta: Tensor) -> Tensor:
    """Return the code that is optimal on the support and signs of a nearly optimal one, where such a code exists.

    On the support S with signs s the solution is linear: Γ_S += (D_SᵀD_S)⁻¹( D_Sᵀ(x − DΓ) − β·s ). Where that changes
    no sign, the new code is as exact as the rounding allows, and does not depend on the other examples of the batch. An
    example where it changes a sign keeps its code.

    Args:
        code: Γ, (B, code_channels, …).
        x: signals, (B, channels, …).
        dictionary: D.
        beta: β, which broadcasts against the code.
    """
    sign = code.sign()
    mask = sign.abs()

    def gram(v: Tensor) -> Tensor:
        return mask * dictionary.analyze(dictionary.synthesize(v, x.shape))

    gradient = mask * (dictionary.analyze(x - dictionary.synthesize(code, x.shape)) - beta * sign)
    new = code + conjugate_gradients(gram, gradient)
    kept = (new * sign >= 0).flatten(1).all(dim=1) & new.isfinite().flatten(1).all(dim=1)
    return torch.where(kept.view(-1, *[1] * (code.dim() - 1)), new, code)

"""A solution of (P1) made exact on the atoms that it uses."""

import torch
from torch import Tensor

from pursuitnet.dictionaries import Dictionary
from pursuitnet.problems.projection import conjugate_gradients


@torch.no_grad()
def polished(code: Tensor, x: Tensor, dictionary: Dictionary, beta: Tensor) -> Tensor:
    """Return the code that is optimal on the support of a nearly optimal one, where it stays on it.

    On the support S with signs s the solution is linear: Γ_S += (D_SᵀD_S)⁻¹( D_Sᵀ(x − DΓ) − β·s ). Where that turns no
    sign the new code is as exact as the rounding allows, whatever other examples the solver had beside it. An example
    where it turns one keeps its code.

    Args:
        code: Γ, (B, code_channels, …).
        x: signals, (B, channels, …).
        dictionary: D.
        beta: β, that broadcasts against the code.
    """
    sign = code.sign()
    mask = sign.abs()

    def gram(v: Tensor) -> Tensor:
        return mask * dictionary.analyze(dictionary.synthesize(v, x.shape))

    off = mask * (dictionary.analyze(x - dictionary.synthesize(code, x.shape)) - beta * sign)
    new = code + conjugate_gradients(gram, off)
    kept = (new * sign >= 0).flatten(1).all(dim=1) & new.isfinite().flatten(1).all(dim=1)
    return torch.where(kept.view(-1, *[1] * (code.dim() - 1)), new, code)

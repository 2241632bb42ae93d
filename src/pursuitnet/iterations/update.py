"""The one update of the package, Γ ← P_θ( anchor − c·Dᵀ( D·probe − x ) ).

A step of proximal gradient descent, used by layers, by sweeps over several layers and by the problems of ``solve``,
each with its own P.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from pursuitnet.dictionaries import Code, Dictionary
from pursuitnet.prox.step_size import Weight
from pursuitnet.utils.inplace import reusable

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Prox(Protocol[T_co]):
    """P_θ of a sum in parts."""

    def __call__(self, anchor: Code | None, update: Code, /, *, fresh: bool) -> T_co:
        """Return P_θ(anchor + update); a fresh update is not used elsewhere and may be overwritten."""


def proximal_step(
    D: Dictionary,
    x: Tensor,
    anchor: Code | None,
    probe: Code | None,
    P: Prox[T],
    c: Weight = 1.0,
    weight: Weight = 1.0,
    loss_slope: Callable[[Tensor], Tensor] | None = None,
) -> T:
    """Return P_θ( anchor + Dᵀ( c·(x − weight·D·probe) ) ).

    Dᵀ is linear, so c is applied to the residual, which is smaller than a code.

    Args:
        D: the dictionary.
        x: the signal (B, channels, …), of a shape that D has checked (``check_signal``).
        anchor: the code that is updated, in parts; None for zero.
        probe: where the residual is taken, in parts; None for zero.
        P: the threshold, with its own θ.
        c: the step.
        weight: of D·probe: 1, except in Eq. 5, where it is −c of the paper.
        loss_slope: the derivative of the data fit; that of ½‖x − DΓ‖² is the residual itself.
    """
    r = residual(D, x, probe, weight)
    r = r if loss_slope is None else loss_slope(r)
    if not (isinstance(c, float) and c == 1):
        r = torch.mul(r, c, out=None if r is x else reusable(r))
    update = D.analyze_parts(r)
    return P(anchor, update, fresh=all(part is not x for part in update))


def residual(D: Dictionary, x: Tensor, probe: Code | None, weight: Weight = 1.0) -> Tensor:
    """Return x − weight·D·probe: a new tensor, or x itself where the probe is zero."""
    if probe is None:
        return x
    synthesis = D.synthesize_parts(probe, x.shape)
    if isinstance(weight, float) and weight == 1:
        return torch.sub(x, synthesis, out=reusable(synthesis, x))
    synthesis = torch.mul(synthesis, -weight, out=reusable(synthesis))  # a sum's gradient needs no change of sign
    return torch.add(x, synthesis, out=reusable(synthesis, x))


def sums(anchor: Code | None, update: Code, fresh: bool = False) -> Code:
    """Return anchor + update, part by part; the memory of a fresh update is reused."""
    if anchor is None:
        return update
    pairs = zip(anchor, update, strict=True)
    return tuple(torch.add(a, u, out=reusable(u, a) if fresh else None) for a, u in pairs)

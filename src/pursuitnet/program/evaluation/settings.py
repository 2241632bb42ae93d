"""Use a network with other thresholds; ``with_unfolding`` does the same for the number of steps."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pursuitnet.multilayer import with_unfolding
from pursuitnet.prox.threshold import Threshold

__all__ = ["penalties", "with_thresholds", "with_unfolding"]


def penalties(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that hold β: of the atoms, and of the identity part if it has its own."""
    thresholds = [module for module in model.modules() if isinstance(module, Threshold)]
    weights = (weight for t in thresholds for weight in (t.atom_weight, t.identity_weight))
    return list({id(weight): weight for weight in weights if weight is not None}.values())


@contextmanager
def with_thresholds(model: nn.Module, factor: float) -> Iterator[None]:
    """Multiply every β of a network by a factor S ≥ 0, and restore the old values exactly at the end.

    Γ = P_θ( a·z + b ) in evaluation (``Threshold.eval_affine``), where a and b are batch normalization; θ is
    multiplied, in its own units:

    - without normalization θ = β·c, in units of the code: S·β is the Lasso's own β;
    - after normalization without learned scale and shift θ = β, in standard deviations of each channel over the
      training images: the channel's mean, b, does not change. In the units of z the threshold is at (θ − b)/a, so this
      moves it by (S − 1)·β standard deviations, and for S = 0 it is at the mean;
    - a bias of any sign (``free``) is multiplied too.

    If normalization has a learned shift (``affine``: the residual family) there is no β, and the shift is not a
    threshold: it has any sign and is added before the anchor. Such layers do not change.

    Raises:
        ValueError: for a negative factor, or a network without any β.
    """
    if not 0 <= factor < float("inf"):
        raise ValueError(f"threshold is {factor}; expected a number ≥ 0, which multiplies every β")
    weights = penalties(model)
    if not weights:
        raise ValueError(
            "the thresholds of this network are shifts of its batch normalization, and it has no β to multiply; "
            "expected an msd, msd_csc, feed_forward or ml_csc network, or norm none"
        )
    original = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight in weights:
                weight.mul_(factor)
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, original, strict=True):
                weight.copy_(value)

"""P and its step: the threshold, the normalization inside P, and the step size c."""

from pursuitnet.prox.noise import NoiseThreshold
from pursuitnet.prox.norms import BatchNorm
from pursuitnet.prox.step_size import AbsorbedStep, BoundedStep, FreeStep, Step
from pursuitnet.prox.threshold import IdentityPenalty, Threshold, nonnegative_threshold, soft_threshold

__all__ = [
    "AbsorbedStep",
    "BatchNorm",
    "BoundedStep",
    "FreeStep",
    "IdentityPenalty",
    "NoiseThreshold",
    "Step",
    "Threshold",
    "nonnegative_threshold",
    "soft_threshold",
]

"""Metrics of images against their targets."""

import importlib
import math

import torch
from torch import Tensor


def psnr(result: Tensor, target: Tensor, peak: float = 1.0) -> float:
    """Return 10·log₁₀(peak²/MSE) in dB; large but finite if the two are equal."""
    error = float((result.double() - target.double()).square().mean())
    return 10 * math.log10(peak**2 / max(error, 1e-12 * peak**2))


def ssim(result: Tensor, target: Tensor, peak: float = 1.0) -> float | None:
    """Return the mean structural similarity of (C, H, W), by scikit-image; None without it, or below 7×7 pixels."""
    try:
        metrics = importlib.import_module("skimage.metrics")
    except ImportError:
        return None
    if min(result.shape[1:]) < 7:
        return None
    pair = (image.cpu().numpy() for image in (result, target))
    return float(metrics.structural_similarity(*pair, data_range=peak, channel_axis=0))


def counts(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the number of pixels of each class that are predicted, labeled, and both: (3, classes)."""
    both = torch.bincount(labels[predicted == labels], minlength=classes)
    each = (torch.bincount(part.flatten(), minlength=classes) for part in (predicted, labels))
    return torch.stack([*each, both])


def dice(counted: Tensor) -> Tensor:
    """Return 2|A∩B| / (|A|+|B|) of each class; 1 if a class is neither predicted nor labeled."""
    predicted, labeled, both = counted.double()
    return torch.where(predicted + labeled > 0, 2 * both / (predicted + labeled).clamp(min=1), 1.0)


def iou(counted: Tensor) -> Tensor:
    """Return |A∩B| / |A∪B| of each class; 1 if a class is neither predicted nor labeled."""
    predicted, labeled, both = counted.double()
    union = predicted + labeled - both
    return torch.where(union > 0, both / union.clamp(min=1), 1.0)

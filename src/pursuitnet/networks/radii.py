"""``certify``: the label of every image, and a radius inside which it cannot change."""

import copy
import math
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pursuitnet.dictionaries.inputs import kind_of
from pursuitnet.networks.certified import (
    SMALLEST,
    Center,
    CertifiedNetwork,
    Downsample,
    PadChannels,
    Reflect,
    UnitLinear,
    UnitNorm,
)

EPS = torch.finfo(torch.float64).eps
ISOMETRIES = (Center, Downsample, PadChannels)
"""Maps that preserve distances; ``Center`` does in evaluation."""


class Certified(NamedTuple):
    """The result of ``certify``.

    Attributes:
        labels: the class with the largest logit, (B,).
        radii: ℓ₂ distance from the image inside which the label cannot change, (B,), in float64; 0 where nothing is
            certified.
    """

    labels: Int[Tensor, " B"]
    radii: Float[Tensor, " B"]


@torch.no_grad()
def certify(model: nn.Module, images: Float[Tensor, "B channels height width"], size: int = 250) -> Certified:
    """Return labels and certified ℓ₂ radii, in the units of the given images.

    Where f is 1-Lipschitz up to the last linear map, logit_y − logit_j falls by ‖w_y − w_j‖·‖δ‖ at most when the image
    changes by δ, so that the label is y for all ‖δ‖ below

        min_j (logit_y − logit_j) / ‖w_y − w_j‖.

    A layer with λmax of its scaled dictionary ≤ k is max(1, 2k − 1)-Lipschitz; the radius is divided by the product of
    these constants. Where the network scales images to unit norm, a radius ρ after that is ‖v‖·sin(2·arcsin(ρ/2)) for
    the image, with v the image minus its mean.

    All is computed in float64, and the certificate is that of the network in exact arithmetic: the possible rounding
    error is subtracted from every difference of logits, 8·N^1.5·ε·‖x‖ for a layer (every inner product of at most N
    numbers is off by N·ε of its absolute terms, N the numbers of signal or code, ε = 2⁻⁵²), about 1e-9. Where nothing
    remains, the radius is 0. In float32 logits differ by about 1e-6, so that a label may differ at the very end of its
    radius.

    Args:
        model: a network of ``create_model("certified_6", …)``, in any mode; it is not changed.
        images: as the network expects them.
        size: number of images at a time.

    Raises:
        TypeError: if model is not a module or images are not a tensor of floats.
        ValueError: for a network whose map need not be 1-Lipschitz, with the reason, and for values that are not
            finite.
    """
    network = _checked(model)
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else kind_of(images)
        raise TypeError(f"the images are {kind}; expected a tensor of floats (B, channels, height, width)")
    if not bool(images.isfinite().all()):
        raise ValueError("the images hold NaN or infinite values; expected finite ones")
    exact = copy.deepcopy(network).eval().double()  # in this order, so that c is that of the network in evaluation
    constant = lipschitz_constant(exact)
    parts = [_certify_batch(exact, part.double(), constant) for part in images.split(size)]
    return Certified(*(torch.cat(values) for values in zip(*parts, strict=True)))


def lipschitz_constant(model: nn.Module) -> float:
    """Return an upper bound of the Lipschitz constant up to the pooling, 1 up to rounding.

    Raises:
        ValueError: for a network whose layers need not be 1-Lipschitz, with the reason.
    """
    return math.prod(_constant(part) for part in _checked(model).features if isinstance(part, Reflect))


def _checked(model: nn.Module) -> CertifiedNetwork:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {kind_of(model)}; expected a network, such as create_model('certified_6')")
    if why := _why_not_lipschitz(model):
        raise ValueError(f"no radius can be certified: {why}; expected a network of create_model('certified_6', …)")
    return cast(CertifiedNetwork, model)


def _why_not_lipschitz(model: nn.Module) -> str | None:
    """Return why a network is not known to be 1-Lipschitz; None where it is."""
    if not isinstance(model, CertifiedNetwork):
        return f"the layers of a {type(model).__name__} have no Lipschitz constant known to be small"
    if not isinstance(model.head, UnitLinear) or model.num_classes < 2:
        return "it has no head of two classes or more"
    for name, part in model.features.named_children():
        if isinstance(part, Reflect):
            if why := part.layer.why_not_nonexpansive():
                return f"features.{name} need not be 1-Lipschitz, {why}"
        elif isinstance(part, UnitNorm):
            if name != "0":
                return f"features.{name} scales something else than the image to unit norm"
        elif not isinstance(part, ISOMETRIES):
            return f"features.{name} is a {type(part).__name__}, whose Lipschitz constant is not known"
    return None


def _constant(part: Reflect) -> float:
    """Return max(1, 2k − 1) with k ≥ λmax of c·DᵀD; 1 where the layer is solved."""
    if part.layer.unfolding == "solved":
        return 1.0
    k = float(torch.as_tensor(part.layer.step()[0])) * float(part.layer.dictionary.lipschitz_bound())
    return max(1.0, 2 * k - 1) * (1 + 4 * EPS)


def _certify_batch(network: CertifiedNetwork, images: Tensor, constant: float) -> tuple[Tensor, Tensor]:
    """Return labels and radii of a batch of images, with a network in float64."""
    x, allowance = images, images.new_zeros(len(images))
    for part in network.features:
        x, error = _apply_with_error(part, x)
        allowance = allowance + error * constant
    features = network.pooled(x)
    logits = network.head(features)
    if not bool(logits.isfinite().all()):
        raise ValueError("the logits of the network are not finite; its weights or the images are too large")
    allowance = allowance + _rounding(x)
    labels, weight = logits.argmax(dim=1), cast(UnitLinear, network.head).unit_weight()
    distances = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")[labels]
    margins = logits.gather(1, labels[:, None]) - logits
    radii = (margins - 2 * allowance[:, None] - 1e-12) / (distances * constant * (1 + 1e-12))
    radii = radii.scatter(1, labels[:, None], math.inf).amin(dim=1).clamp(min=0)
    return labels, _radii_before_unit_norm(images, radii) if isinstance(network.features[0], UnitNorm) else radii


def _apply_with_error(part: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the map of x, and a bound of its error: of rounding, plus 2·√(2·gap) where the layer is solved."""
    if not isinstance(part, Reflect) or part.layer.unfolding != "solved":
        return part(x), _rounding(x)
    solution = part.layer.solve(x)
    error = 2 * (2 * solution.gap * solution.objective).sqrt()
    return x - 2 * part.layer.reconstruct(solution.code, x.shape), error + _rounding(x)


def _rounding(x: Tensor) -> Tensor:
    """Return a bound of the rounding error of a map of x, 8·N^1.5·ε·‖x‖, (B,); codes are no longer than signals."""
    return 8 * x[0].numel() ** 1.5 * EPS * x.flatten(1).norm(dim=1)


def _radii_before_unit_norm(images: Tensor, radii: Tensor) -> Tensor:
    """Return how far an image may change so that its direction v/‖v‖ changes by a radius ρ at most.

    v + δ is rotated by arcsin(‖δ‖/‖v‖) at most, and the chord of an angle φ is 2·sin(φ/2).
    """
    norms = (images - images.mean(dim=(1, 2, 3), keepdim=True)).flatten(1).norm(dim=1)
    angle = 2 * (radii / 2).clamp(max=0.5**0.5).asin()
    return torch.minimum(norms * angle.sin() * (1 - 1e-12), (norms - SMALLEST)).clamp(min=0)

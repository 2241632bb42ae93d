"""What the page of a certified network shows besides: certified accuracy over the radius, and the fragile images."""

from typing import Any

from matplotlib.axes import Axes
from torch import Tensor

from pursuitnet.data import in_memory
from pursuitnet.networks import Network
from pursuitnet.networks.certified import CertifiedNetwork
from pursuitnet.program.evaluation.certification import Certification, certification
from pursuitnet.program.evaluation.certification_plot import draw_curve
from pursuitnet.program.report import pictures
from pursuitnet.program.train import Images

MOST_IMAGES = 1000
"""Test images, the first ones, that are certified for the page; ``evaluate --certify`` takes all."""

SIZE = (6.4, 3.2)
"""Of the curve, in inches."""


def certified_content(
    model: Network, images: Images, predicted: Tensor, classes: tuple[str, ...]
) -> dict[str, Any] | None:
    """Return what the section on certified accuracy shows; None for a network that is not a certified one.

    Args:
        model: the network, in evaluation mode.
        images: its data set.
        predicted: the predicted labels of the test images.
        classes: names of the classes, by label.
    """
    if not isinstance(model, CertifiedNetwork):
        return None
    pixels, labels = in_memory(images.test[0][:MOST_IMAGES]), images.test[1][:MOST_IMAGES]
    result = certification(model, pixels, labels, images.prepared, images.std)
    return {
        "curve": pictures.panels({_curve_in_words(result): lambda axes: _draw(axes, result)}, SIZE),
        "accuracy": result.accuracy,
        "units": result.units,
        "images": len(labels),
        "of": len(predicted),
        "fragile": [
            {
                "index": index,
                "label": classes[int(labels[index])],
                "radius": result.radii[index],
                "picture": pictures.mosaic(pictures.images(_unit_range(pixels[index : index + 1])), 1, 72),
            }
            for index in result.fragile
        ],
    }


def _draw(axes: Axes, result: Certification) -> None:
    draw_curve(axes, result, line=pictures.COOL, points=pictures.WARM, clean=pictures.INK)
    axes.spines[["left", "bottom"]].set_color(pictures.SOFT)
    axes.tick_params(colors=pictures.SOFT, labelcolor=pictures.INK)
    for label in (axes.xaxis.label, axes.yaxis.label, *axes.texts):
        label.set_color(pictures.INK)


def _curve_in_words(result: Certification) -> str:
    """Return the alternative text of the curve."""
    shares = ", ".join(f"{100 * share:.1f} % at {radius:.3g}" for radius, share in result.accuracy)
    return f"fraction of test images classified correctly and certified, falling over the ℓ₂ radius: {shares}"


def _unit_range(images: Tensor) -> Tensor:
    """Return uint8 images in [0, 1]; floats are that already."""
    return images if images.is_floating_point() else images / 255

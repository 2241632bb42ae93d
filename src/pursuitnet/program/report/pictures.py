"""Numbers as pictures inside a page: PNG mosaics and SVG elements of curves."""

import base64
import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor  # the curves of a page need no PyTorch

Pixels = NDArray[np.uint8]
"""RGBA tiles, (n, H, W, 4)."""

# Placeholders that the page's own colors replace, so that the curves follow its light and dark mode.
INK, SOFT, WARM, COOL = "#010203", "#010204", "#010205", "#010206"
NAMES = {INK: "var(--ink)", SOFT: "var(--line)", WARM: "var(--warm)", COOL: "var(--cool)"}
POSITIVE, NEGATIVE, LINE = (224, 122, 31), (49, 124, 204), (128, 128, 128, 80)


class Picture(NamedTuple):
    """An image of a page: a data URI and its size in CSS pixels."""

    uri: str
    width: int
    height: int


def images(values: "Tensor") -> Pixels:
    """Return opaque tiles of images (n, 1 or 3, H, W), clipped to [0, 1]."""
    unit = values.detach().cpu().clamp(0, 1).movedim(1, -1).numpy()
    color = np.broadcast_to(unit, (*unit.shape[:3], 3))
    return np.concatenate([_bytes(color), np.full_like(_bytes(color[..., :1]), 255)], axis=-1)


def signed(values: "Tensor") -> Pixels:
    """Return tiles of (n, 1 or 3, H, W), each on its own symmetric scale.

    One channel: positive warm, negative cool, zero transparent. Three channels: colors around a gray zero.
    """
    unit = values.detach().cpu()
    unit = unit / unit.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    return _colored(unit[:, 0].numpy()) if unit.shape[1] == 1 else images((unit + 1) / 2)


def maps(values: "Tensor") -> Pixels:
    """Return tiles of code maps (n, H, W), all on the scale of the largest value, zero transparent."""
    unit = values.detach().cpu()
    return _colored((unit / unit.abs().amax().clamp(min=1e-12)).numpy())


def mosaic(tiles: Pixels, columns: int, size: int = 44) -> Picture:
    """Return the tiles in rows of ``columns``, each about ``size`` CSS pixels wide, each in a frame."""
    count, height, width, _ = tiles.shape
    zoom = 2 * max(1, round(size / max(height, width)))  # two pixels of the file for one of the page
    columns = min(columns, count)
    rows = -(-count // columns)
    high, wide = height * zoom, width * zoom
    canvas = np.zeros((rows * (high + 8), columns * (wide + 8), 4), np.uint8)
    for i, tile in enumerate(tiles.repeat(zoom, axis=1).repeat(zoom, axis=2)):
        top, left = i // columns * (high + 8), i % columns * (wide + 8)
        canvas[top : top + high + 4, left : left + wide + 4] = LINE
        canvas[top + 2 : top + high + 2, left + 2 : left + wide + 2] = tile
    return _png(canvas[:-4, :-4])


def curves(records: Sequence[dict[str, Any]]) -> str:
    """Return losses and accuracies over the epochs as SVG elements; validation where any epoch has it."""
    losses = {"train_loss": ("training", COOL), "val_loss": ("validation", INK), "test_loss": ("test", WARM)}
    accuracies = {"val_accuracy": ("validation", INK), "test_accuracy": ("test", WARM)}
    psnr = any("test_psnr" in record for record in records)
    validated = any("val_accuracy" in record for record in records)
    title = "test PSNR in dB" if psnr else "accuracy" if validated else "test accuracy"

    def loss(axes: Axes) -> None:
        _lines(axes, records, losses)
        loss_axis(axes, [r[key] for r in records for key in losses if key in r], "loss", INK)

    def accuracy(axes: Axes) -> None:
        _lines(axes, records, {"test_psnr": ("test", WARM)} if psnr else accuracies)
        axes.set_title(title, loc="left", color=INK, fontsize=10.5)
        if not psnr:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))

    return panels({"loss after every epoch": loss, f"{title} after every epoch": accuracy})


def panels(drawings: Mapping[str, Callable[[Axes], None]], size: tuple[float, float] = (4.5, 3.0)) -> str:
    """Return drawings as SVG elements, next to each other where the page is wide and below each other where not.

    Args:
        drawings: by their alternative text, what draws one into its axes.
        size: of each in inches, for a font of 9.5 points.
    """
    elements = []
    # titles go to 1 anyway, but matplotlib would lay out the ticks to find that out
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "curves", "font.size": 9.5, "axes.titley": 1}):
        for label, draw in drawings.items():
            figure = Figure(figsize=size, layout="constrained")
            draw(figure.add_subplot())
            elements.append(element(figure, label))
    return f'<div class="panels">{"".join(elements)}</div>'


def element(figure: Figure, label: str) -> str:
    """Return a figure as an SVG element with an alternative text."""
    text = io.StringIO()
    for background in (figure.patch, *(axes.patch for axes in figure.axes)):
        background.set_visible(False)
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})  # type: ignore[no-untyped-call]  # savefig draws twice
    return inline(text.getvalue(), label)


def _lines(axes: Axes, records: Sequence[dict[str, Any]], series: dict[str, tuple[str, str]]) -> None:
    epochs = [record["epoch"] for record in records]
    style: dict[str, Any] = {"marker": "o" if len(records) <= 40 else "", "markersize": 3.2, "linewidth": 1.6}
    series = {key: value for key, value in series.items() if any(key in record for record in records)}
    for key, (label, color) in series.items():
        axes.plot(epochs, [record.get(key, math.nan) for record in records], color=color, label=label, **style)
    plain(axes, INK, SOFT)
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=INK)


def plain(axes: Axes, ink: str, soft: str) -> None:
    """Style axes for a curve over the epochs, without the frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(soft)
    axes.tick_params(colors=soft, labelcolor=ink, which="both")
    axes.grid(axis="y", color=soft, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("epoch", color=ink)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def loss_axis(axes: Axes, losses: list[float], title: str, ink: str) -> None:
    """Set the title of a loss, and a logarithmic scale if it falls far."""
    losses = [loss for loss in losses if math.isfinite(loss)]
    far = bool(losses) and min(losses) > 0 and max(losses) > 20 * min(losses)
    axes.set_title(f"{title}, logarithmic scale" if far else title, loc="left", color=ink, fontsize=10.5)
    if far:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def inline(svg: str, label: str) -> str:
    """Return an SVG file's element in the page's colors and fonts, without its own size and metadata."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{html.escape(label)}">', svg)
    svg = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 system-ui, sans-serif", svg)
    for placeholder, name in NAMES.items():
        svg = svg.replace(placeholder, name)
    return svg


def _colored(unit: NDArray[np.float32]) -> Pixels:
    """Return tiles of values in [−1, 1], (n, H, W): the sign as hue, the magnitude as opacity."""
    hue = np.where(unit[..., None] < 0, np.array(NEGATIVE, np.uint8), np.array(POSITIVE, np.uint8))
    return np.concatenate([hue, _bytes(np.abs(unit))[..., None]], axis=-1)


def _bytes(unit: NDArray[np.float32]) -> Pixels:
    return np.rint(unit * 255).astype(np.uint8)


def _png(canvas: Pixels) -> Picture:
    file = io.BytesIO()
    imsave(file, canvas, format="png", metadata={"Software": ""})
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return Picture(uri, round(canvas.shape[1] / 2), round(canvas.shape[0] / 2))

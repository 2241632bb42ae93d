"""Fig. 1: the matrices of a dilated convolution, and their mutual coherence by image size."""

from typing import Any

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pursuitnet.dictionaries import ConvDictionary
from pursuitnet.program.simulate.record import Result, caption, hide_spines
from pursuitnet.theory import mutual_coherence

KERNEL = ((1.0, 2.0), (3.0, 4.0))
SIZES, DILATIONS = range(4, 11), (1, 2, 3)
STYLES = {1: ("#c2410c", "o-", 9), 2: ("#1d4ed8", "s--", 6), 3: ("#047857", "^:", 6)}


def dictionary(dilation: int) -> ConvDictionary:
    """Return the D whose Dᵀ is the paper's Fˢ: the kernel [[1, 2], [3, 4]], valid, without padding."""
    return ConvDictionary(torch.tensor(KERNEL, dtype=torch.float64)[None, None], dilation=dilation)


def coherence(size: int, dilation: int) -> float:
    """Return μ(D) on an image of size × size."""
    return mutual_coherence(dictionary(dilation), (1, size, size))


def coherence_with_identity(size: int, dilation: int) -> float:
    """Return μ([I D]) on an image of size × size, from the explicit matrix; the convolution is valid."""
    D = dictionary(dilation).matrix((1, size, size)).detach()
    D = torch.cat([torch.eye(len(D), dtype=D.dtype), D / D.norm(dim=0)], dim=1)
    return float((D.T @ D).abs().fill_diagonal_(0).max())


def compute() -> Result:
    """Measure μ for every size and dilation, without and with the identity."""
    numbers: dict[str, Any] = {
        "figure": "fig1",
        "kernel": KERNEL,
        "sizes": list(SIZES),
        "mu": {s: [round(coherence(n, s), 6) for n in SIZES] for s in DILATIONS},
        "mu_with_identity": {s: [round(coherence_with_identity(n, s), 6) for n in SIZES] for s in DILATIONS},
    }
    return Result("fig1", numbers, {"fig1": picture(numbers)}, table(numbers))


def table(numbers: dict[str, Any]) -> str:
    """Return the numbers as Markdown."""
    sizes = numbers["sizes"]
    lines = ["| μ | " + " | ".join(f"{n}×{n}" for n in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for title, key in (("D", "mu"), ("[I D]", "mu_with_identity")):
        lines += [f"| {title}, s = {s} | {' | '.join(f'{v:.4f}' for v in numbers[key][s])} |" for s in DILATIONS]
    return "\n".join(lines)


def picture(numbers: dict[str, Any]) -> Figure:
    """Draw Fˢ on a 4×4 image for s = 1 and 2, and μ against the size of the image."""
    figure = Figure(figsize=(10.5, 5.2), layout="constrained")
    axes = figure.subplot_mosaic([["one", "right"], ["two", "right"]], width_ratios=(16, 13), height_ratios=(9, 4))
    one, two, right = axes["one"], axes["two"], axes["right"]
    for axis, s, letter in ((one, 1, "B"), (two, 2, "C")):
        _matrix(axis, dictionary(s).matrix((1, 4, 4)).detach().T)
        axis.set_title(f"Fig. 1{letter}: Fˢ on a 4×4 image, s = {s}, μ = {numbers['mu'][s][0]:.4f}", loc="left")
    for s in DILATIONS:
        color, style, size = STYLES[s]
        right.plot(numbers["sizes"], numbers["mu"][s], style, color=color, label=f"s = {s}", ms=size)
    right.set(xlabel="rows and columns of the image", ylabel="μ(D)", ylim=(-0.02, 0.6))
    right.set_title("the 0 comes from the small image", loc="left")
    right.legend(frameon=False, loc="lower right")
    hide_spines(right)
    caption(
        figure,
        "Kernel [[1, 2], [3, 4]], valid convolution; the rows of Fˢ are the columns of D. "
        "From an image of 2s + 1 rows and columns on, μ = 14/30 for every s.",
    )
    return figure


def _matrix(axis: Axes, values: Float[Tensor, "rows columns"]) -> None:
    """Draw a matrix as colored numbers."""
    axis.imshow(values.numpy(), cmap="Oranges", vmin=0, vmax=8)
    for row, column in values.nonzero().tolist():
        axis.text(column, row, f"{values[row, column]:.0f}", ha="center", va="center", fontsize=9)
    rows, columns = values.shape
    axis.set(xticks=[c - 0.5 for c in range(1, columns)], yticks=[r - 0.5 for r in range(1, rows)])
    axis.set(xlabel="pixels of the image", ylabel="positions of the kernel", xticklabels=[], yticklabels=[])
    axis.grid(color="0.85", lw=0.6)
    axis.tick_params(length=0)

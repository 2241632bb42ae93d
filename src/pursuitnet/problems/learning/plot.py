"""A picture of the atoms of a learned dictionary, sorted by use."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pursuitnet.dictionaries import ComposedDictionary, Dictionary
from pursuitnet.dictionaries.inputs import check_count
from pursuitnet.problems.learning.filters import filters_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@torch.no_grad()
def draw_atoms(dictionary: Dictionary, usage: Tensor, axes: "Axes | None", most: int) -> "Axes":
    """Draw the atoms that are used most; see ``Learned.plot``."""
    check_count("most", most, 1, "the number of atoms to draw")
    effective = dictionary.effective() if isinstance(dictionary, ComposedDictionary) else dictionary
    weight = filters_of(effective).weight.detach().cpu()
    if weight.dim() > 4 or (weight.dim() == 4 and weight.shape[1] not in (1, 3)):
        raise ValueError(
            f"the atoms have shape {tuple(weight.shape[1:])}; expected images of 1 or 3 channels, or signals"
        )
    atoms = weight[usage.cpu().argsort(descending=True, stable=True)[:most]]
    atoms = atoms / atoms.flatten(1).abs().amax(1).clamp(min=1e-12).view(-1, *[1] * (atoms.dim() - 1))
    if axes is None:
        from matplotlib.figure import Figure  # the library itself does not need it

        axes = Figure(figsize=(6, 6), layout="constrained").add_subplot()
    if atoms.dim() < 4:
        _draw_signals(axes, atoms.flatten(1))
    else:
        _draw_images(axes, atoms)
    axes.set_title(f"{len(atoms)} of {len(weight)} atoms, the most used first")
    return axes


def _draw_signals(axes: "Axes", atoms: Tensor) -> None:
    """Draw atoms (n, length) one below the other."""
    for row, atom in enumerate(atoms):
        axes.plot((atom / 2 - row).tolist(), color="#31518f", linewidth=1.2)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_images(axes: "Axes", atoms: Tensor) -> None:
    """Draw atoms (n, 1 or 3, H, W) in rows, with a line between them, in gray or in color."""
    count, channels, height, width = atoms.shape
    columns = max(1, round(count**0.5))
    rows = -(-count // columns)
    canvas = atoms.new_ones(rows * (height + 1) - 1, columns * (width + 1) - 1, channels)
    for i, atom in enumerate(atoms):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        canvas[top : top + height, left : left + width] = (atom.permute(1, 2, 0) + 1) / 2
    axes.imshow(canvas.squeeze(2).numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()

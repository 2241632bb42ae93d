"""Initial filters for learning: patches of the images."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pursuitnet.problems.learning.filters import Filters, norms_of, patch_energies, patches, with_weight


@torch.no_grad()
def from_patches(images: Sequence[Tensor], filters: Filters, atoms: int, seed: int = 0) -> Filters:
    """Return a dictionary of the same kind whose atoms are patches of the images, of mean 0 and norm 1.

    Patches are drawn with probability proportional to their energy, so that few are blank.

    Args:
        images: batches (B, channels, …), of any sizes.
        filters: a dictionary of the wanted kind and kernel size, with any atoms.
        atoms: number of atoms to draw.
        seed: seed of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    kernel = filters.weight.shape[1:]
    noise = torch.randn(atoms, *kernel, generator=generator).to(filters.weight) * 1e-3  # for blank patches
    drawn = []
    energies = [patch_energies(filters, x).cpu().double() for x in images]
    shares = torch.stack([e.sum() for e in energies])
    if float(shares.sum()) > 0:
        of = torch.multinomial(shares, atoms, replacement=True, generator=generator)
        for i, (x, energy) in enumerate(zip(images, energies, strict=True)):
            drawn.append(_draw_patches(x, filters, energy, int((of == i).sum()), generator))
    chosen = (torch.cat(drawn) if drawn else noise) + noise
    if chosen[0].numel() > 1:
        chosen = chosen - chosen.flatten(1).mean(1).view(-1, *[1] * (chosen.dim() - 1))
    return with_weight(filters, chosen / norms_of(chosen))


def _draw_patches(
    x: Tensor, filters: Filters, energy: Tensor, count: int, generator: torch.Generator
) -> Float[Tensor, "n channels *kernel"]:
    """Return ``count`` patches of one batch."""
    places = energy.shape[1]
    cumulative = energy.flatten().cumsum(0)  # torch.multinomial is limited to 2²⁴ categories
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    index = torch.searchsorted(cumulative, cumulative[-1] * uniform).clamp(max=energy.numel() - 1).to(x.device)
    return patches(filters, x, index % places, index // places)

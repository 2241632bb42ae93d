"""Where learning may start: filters cut out of the images."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pursuitnet.problems.learning.filters import Filters, norms_of, patch_energies, patches, with_weight


@torch.no_grad()
def from_patches(images: Sequence[Tensor], filters: Filters, atoms: int, seed: int = 0) -> Filters:
    """Return a dictionary of the same kind whose atoms are patches of the images, of mean 0 and norm 1.

    Patches are drawn with a probability that grows with their energy, so that few are blank.

    Args:
        images: batches (B, channels, …), of any sizes.
        filters: of the kind and the kernel that is wanted, with any atoms.
        atoms: how many to draw.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    kernel = filters.weight.shape[1:]
    found = [torch.randn(atoms, *kernel, generator=generator).to(filters.weight) * 1e-3]  # where patches are blank
    energies = [patch_energies(filters, x).cpu().double() for x in images]
    shares = torch.stack([e.sum() for e in energies])
    if float(shares.sum()) > 0:
        of = torch.multinomial(shares, atoms, replacement=True, generator=generator)
        for i, (x, energy) in enumerate(zip(images, energies, strict=True)):
            found.append(_drawn(x, filters, energy, int((of == i).sum()), generator))
    chosen = torch.cat(found[1:]) if len(found) > 1 else found[0]
    chosen = chosen + found[0]
    if chosen[0].numel() > 1:
        chosen = chosen - chosen.flatten(1).mean(1).view(-1, *[1] * (chosen.dim() - 1))
    return with_weight(filters, chosen / norms_of(chosen))


def _drawn(
    x: Tensor, filters: Filters, energy: Tensor, count: int, generator: torch.Generator
) -> Float[Tensor, "n channels *kernel"]:
    """Return so many patches of one batch."""
    places = energy.shape[1]
    where = energy.flatten().cumsum(0)  # torch.multinomial takes no more than 2²⁴ of them
    at = torch.searchsorted(where, where[-1] * torch.rand(count, generator=generator, dtype=torch.float64))
    at = at.clamp(max=energy.numel() - 1).to(x.device)
    return patches(filters, x, at % places, at // places)

"""The filter step for fixed codes, and the replacement of filters that are not used."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pursuitnet.problems.learning.filters import Filters, in_unit_ball, norms_of, patch_energies, patches
from pursuitnet.problems.learning.statistics import Quadratic, SufficientStatistics


class Form(Protocol):
    """A quadratic form ½⟨W, HW⟩ − ⟨B, W⟩.

    Attributes:
        cross: B.
        start: a vector for power iterations on H.
    """

    cross: Tensor
    start: Tensor

    def times(self, weight: Tensor) -> Tensor:
        """Return HW."""


@torch.no_grad()
def improved(weight: Tensor, sums: SufficientStatistics, steps: int, tol: float = 1e-4) -> Tensor:
    """Return filters with smaller ½⟨W, HW⟩ − ⟨B, W⟩ and ‖dⱼ‖ ≤ 1; see ``accelerated_projections``.

    Args:
        weight: W, (atoms, channels, *kernel) or (atoms, features).
        sums: sufficient statistics of the codes.
        steps: maximum number of steps.
        tol: stop when a step changes no atom by more than this norm.
    """
    W = weight.view_as(sums.cross)
    return accelerated_projections(W, Quadratic(sums), sums.energies, in_unit_ball, steps, tol).view(weight.shape)


@torch.no_grad()
def accelerated_projections(
    weight: Tensor,
    quadratic: Form,
    energies: Float[Tensor, " atoms"],
    project: Callable[[Tensor], Tensor],
    steps: int,
    tol: float = 1e-4,
) -> Tensor:
    """Return filters with smaller ½⟨W, HW⟩ − ⟨B, W⟩ in a set, by accelerated projected gradients with restarts.

    Each atom has its own step size, 1/(L‖Γⱼ‖²) with L ≥ λmax(S⁻¹HS⁻¹), S = diag ‖Γⱼ‖: rarely used atoms would
    otherwise hardly move. L is estimated, and doubled where a step shows that it is too small. Atoms that are not used
    stay unchanged.

    Args:
        weight: W, (atoms, channels, *kernel).
        quadratic: H and B.
        energies: ‖Γⱼ‖² of each atom.
        project: the projection onto the set, which need not be convex.
        steps: maximum number of steps.
        tol: stop when a step changes no atom by more than this norm.
    """
    used = energies > energies.amax() * torch.finfo(energies.dtype).eps
    if not bool(used.any()):
        return weight.clone()
    scale = torch.where(used, energies, torch.inf).view(-1, *[1] * (weight.dim() - 1))
    S = torch.where(used, energies, 1.0).view_as(scale)
    L = _estimated_lipschitz(quadratic, scale.rsqrt())
    W = project(weight)
    image = quadratic.times(W)
    first, image_first = W, image
    ahead, image_ahead, momentum = W, image, 1.0
    for _ in range(steps):
        while True:
            new = project(ahead - (image_ahead - quadratic.cross) / (L * scale))
            image_new, step = quadratic.times(new), new - ahead
            if float((step * (image_new - image_ahead)).sum()) <= 1.001 * L * float((S * step.square()).sum()):
                break
            L *= 2
        uphill = float((S * step * (new - W)).sum()) < 0
        grown = 1.0 if uphill else (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        push = 0.0 if uphill else (momentum - 1) / grown
        moved = float(norms_of(new - W).amax())
        ahead, image_ahead = new + push * (new - W), image_new + push * (image_new - image)
        W, image, momentum = new, image_new, grown
        if moved <= tol:
            break
    # on a set that is not convex momentum may end higher than it began
    lower = _value(quadratic, W, image) <= _value(quadratic, first, image_first)
    return W if lower else first.clone()


def _value(quadratic: Form, weight: Tensor, image: Tensor) -> float:
    """Return ½⟨W, HW⟩ − ⟨B, W⟩ with HW given."""
    return float((weight.double() * (0.5 * image - quadratic.cross).double()).sum())


def _estimated_lipschitz(quadratic: Form, scale: Tensor, rounds: int = 8) -> float:
    """Return about λmax(S⁻¹HS⁻¹), from below, by power iterations from a deterministic vector."""
    v = scale * quadratic.start
    largest = 1e-12
    for _ in range(rounds):
        v = v / v.norm().clamp(min=torch.finfo(v.dtype).tiny)
        image = scale * quadratic.times(scale * v)
        largest, v = max(largest, float((v * image).sum())), image
    return 1.05 * largest


@dataclass
class Unexplained:
    """The patches of the images with the largest residuals; no two of them overlap.

    Attributes:
        most: maximum number of patches to keep.
        least: smallest norm for which a patch is kept: β, below which an atom would not be used.
        energies: ‖·‖² of each, in decreasing order.
        patches: the residuals there, (n, channels, *kernel).
    """

    most: int
    least: float = 0.0
    energies: Float[Tensor, " n"] | None = None
    patches: Float[Tensor, "n channels *kernel"] | None = None

    @torch.no_grad()
    def add(self, filters: Filters, residual: Tensor) -> None:
        """Add the largest patches of the residuals of some images, (B, channels, …)."""
        energy = patch_energies(filters, residual).clone()
        largest: list[tuple[Tensor, Tensor]] = []
        rest = residual.clone(memory_format=torch.contiguous_format)
        for _ in range(min(self.most, 4 * len(residual))):
            example, place = divmod(int(energy.argmax()), energy.shape[1])
            one = torch.tensor([place], device=residual.device)
            if float(energy[example, place]) <= self.least**2:
                break
            which = torch.tensor([example], device=residual.device)
            largest.append((energy[example, place].clone(), patches(filters, rest, one, which)[0]))
            places, _ = filters.columns(one, residual.shape)
            rest[example].view(-1)[places[0]] = 0
            energy[example] = patch_energies(filters, rest[example : example + 1])[0]
        if largest:
            self._keep(torch.stack([e for e, _ in largest]), torch.stack([p for _, p in largest]))

    def _keep(self, energies: Tensor, patches: Tensor) -> None:
        if self.energies is not None and self.patches is not None:
            energies, patches = torch.cat([self.energies, energies]), torch.cat([self.patches, patches])
        order = energies.argsort(descending=True, stable=True)[: self.most]
        self.energies, self.patches = energies[order], patches[order]


@torch.no_grad()
def reseeded(weight: Tensor, dead: Bool[Tensor, " atoms"], worst: Unexplained) -> tuple[Tensor, Tensor]:
    """Return filters with dead ones replaced by the worst-explained patches, of norm 1, and the indices replaced."""
    atoms = dead.nonzero()[:, 0]
    if worst.patches is None or not len(atoms):
        return weight, atoms[:0]
    atoms = atoms[: len(worst.patches)]
    new = weight.clone()
    new[atoms] = worst.patches[: len(atoms)] / norms_of(worst.patches[: len(atoms)])
    return new, atoms

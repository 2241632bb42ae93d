"""The operator P_θ: soft or non-negative soft (= ReLU, Eq. 2), with or without batch normalisation.

The sign convention of the whole package lives here: θ = β·c ≥ 0 is *subtracted*. The paper writes ReLU(z − b) in
Eq. 2 and ReLU(z + b) in Algorithms 2 and 3.
"""

import copy
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pursuitnet.dictionaries import Code
from pursuitnet.norms import BatchNorm, in_evaluation, norms_of


def soft_threshold(z: Tensor, theta: Tensor | float) -> Tensor:
    """Return S_θ(z) = sign(z)·max(|z| − θ, 0), the proximal map of θ‖·‖₁ (Section II-C); θ broadcasts against z."""
    return z.sign() * (z.abs() - theta).relu_()


def nonnegative_threshold(z: Tensor, theta: Tensor | float) -> Tensor:
    """Return S⁺_θ(z) = max(z − θ, 0) = ReLU(z − θ), Eq. 2; θ broadcasts against z."""
    return (z - theta).relu_()


class IdentityPenalty(StrEnum):
    """What Σβ|Γ| puts on the identity part of a code of [I D].

    OWN: a β for each of its rows (Algorithms 2 and 3). SAME: one number for the whole code (Theorem 1). NONE: β = 0
    (Proposition 1). SIGNED: no threshold at all, for signals that have negative values, such as mean-subtracted
    images.
    """

    OWN = "own"
    SAME = "same"
    NONE = "none"
    SIGNED = "signed"


class Affine(NamedTuple):
    """P on one part of a code in evaluation, Γ = P_θ( scale·z + shift ), each (rows,); θ is None if nothing is cut."""

    scale: Tensor
    shift: Tensor
    theta: Tensor | None


class Threshold(nn.Module):
    """P_θ on a whole code, with θ = β·c computed in every call, so that it cannot fall out of step with c.

    Where a part is normalised first, c has cancelled and θ = β, in units of the part's own size. Without norm θ is in
    units of the signal, and layers that are stacked with it die (see ``PursuitLayer``).

    Args:
        rows: rows of each part of the code, ``dictionary.rows``.
        penalty: β of every row at the start; None for none, where a norm with ``affine`` has the threshold in its
            shift.
        identity: the penalty on the identity part, if the code has one.
        nonnegative: S⁺ instead of S.
        free: let β take any sign, as the paper's bias b; otherwise it is kept ≥ 0 (as |parameter|).
        norm: the batch normalisation, or None.
        steps: number of steps that have their own statistics: unfolding + 1.
    """

    def __init__(
        self,
        rows: tuple[int, ...],
        penalty: float | None = 0.01,
        identity: IdentityPenalty = IdentityPenalty.OWN,
        *,
        nonnegative: bool = True,
        free: bool = False,
        norm: BatchNorm | None = None,
        steps: int = 1,
    ) -> None:
        super().__init__()
        if penalty is not None and penalty < 0 and not free:
            raise ValueError(f"penalty is {penalty}; expected ≥ 0, or free=True for thresholds of any sign")
        self.rows, self.identity, self.free, self.norm = rows, identity, free, norm
        self.nonnegative = nonnegative
        own = len(rows) > 1 and identity is IdentityPenalty.OWN
        shared = len(rows) > 1 and identity is IdentityPenalty.SAME
        self.atom_weight = _filled(1 if shared else rows[-1], penalty)
        self.identity_weight = _filled(rows[0], penalty) if own else None
        self.norms = nn.ModuleList(norms_of(rows, norm) for _ in range(steps) if norm)

    @property
    def penalty(self) -> Tensor:
        """β of the atoms, (atoms,), or (1,) where one number serves the whole code."""
        return self._kept(self.atom_weight)

    @property
    def identity_penalty(self) -> Tensor:
        """β of the identity part, (channels,) or (1,): its own, the atoms', or zero."""
        return self.penalty if self.identity is IdentityPenalty.SAME else self._kept(self.identity_weight)

    def extend(self, steps: int) -> None:
        """Give each of so many steps statistics of its own, which begin as those of the last step there is."""
        while 0 < len(self.norms) < steps:
            self.norms.append(copy.deepcopy(self.norms[-1]))

    def scales(self) -> list[nn.Parameter]:
        """Return the learned scales of the normalisations with ``affine``."""
        return [norm.weight for norm in self.modules() if isinstance(norm, _BatchNorm) and norm.affine]

    def forward(
        self,
        anchor: Code | None,
        direction: Code,
        c: Tensor | float = 1.0,
        step: int = 0,
        sign: float = 1.0,
        *,
        spent: bool = False,
    ) -> Code:
        """Return P_θ(anchor + c·direction) in parts.

        Args:
            anchor: the code that is updated, or None for zero.
            direction: Dᵀ(x − D·probe), in parts.
            c: the step.
            step: 0 for the first step; chooses the statistics (the last ones serve all later steps).
            sign: −1 if the direction is given with the opposite sign, as the gradient.
            spent: nobody reads the direction afterwards, so that where no gradient does either, the code may take
                its place in memory.
        """
        spent = spent and not torch.is_grad_enabled()
        anchors = anchor or (None,) * len(direction)
        return tuple(
            self._part(i - len(direction), a, d, c, step, sign, spent)
            for i, (a, d) in enumerate(zip(anchors, direction, strict=True))
        )

    @torch.no_grad()
    def in_evaluation(self, c: Tensor | float = 1.0, step: int = 0) -> tuple[Affine, ...]:
        """Return what P does to each part of the code in evaluation, where a norm is a fixed affine map.

        Args:
            c: the step that the update is scaled with.
            step: which step's statistics, as in ``forward``.
        """
        return tuple(self._affine(part, c, step) for part in range(-len(self.rows), 0))

    def _affine(self, part: int, c: Tensor | float, step: int) -> Affine:
        norm, weight, theta = self._norm(part, step), self._weight(part), None
        one = next((p for p in (weight, *self.parameters(), *self.buffers()) if p is not None), torch.zeros(1))
        one = one.new_ones(self.rows[part])
        if weight is not None or (self.nonnegative and not self._signed(part)):
            theta = self._kept(weight).to(one) * (c if norm is None else 1.0) * one
        if isinstance(norm, _BatchNorm):
            return Affine(*in_evaluation(norm), theta)
        return Affine(one, 0 * one, theta)

    def _part(
        self,
        part: int,
        anchor: Tensor | None,
        direction: Tensor,
        c: Tensor | float,
        step: int,
        sign: float,
        spent: bool,
    ) -> Tensor:
        norm, place = self._norm(part, step), self.norm.on if self.norm else None
        given = None if spent else direction
        if norm is not None and place == "update":
            direction, c, sign = norm(moved(None, direction, c, sign, spent)), 1.0, 1.0
        z = moved(anchor, direction, c, sign, spent)
        if norm is not None and place == "sum":
            z = norm(z)
        if self._signed(part):
            return z
        weight = self._weight(part)
        if weight is not None:
            theta = self._kept(weight) * (c if norm is None else 1.0)
            theta = theta.to(z.dtype).view(-1, *[1] * (z.dim() - 2))
            if not self.nonnegative:
                return soft_threshold(z, theta)
            z = z - theta if z is given else z.add_(-theta)  # z is new, and no gradient needs it as it is
        if not self.nonnegative:
            return z
        return z.relu() if z is given else z.relu_()

    def _signed(self, part: int) -> bool:
        return part == -2 and self.identity is IdentityPenalty.SIGNED

    def _weight(self, part: int) -> nn.Parameter | None:
        """Return the parameter that holds β of a part; None where it has none."""
        if self._signed(part):
            return None
        return self.atom_weight if part == -1 or self.identity is IdentityPenalty.SAME else self.identity_weight

    def _norm(self, part: int, step: int) -> nn.Module | None:
        if not len(self.norms):
            return None
        norms = list(self.norms[min(step, len(self.norms) - 1)].children())
        return norms[part] if -part <= len(norms) else None

    def _kept(self, weight: Tensor | None) -> Tensor:
        if weight is None:
            return torch.zeros(1)
        # |weight| with slope 1 at 0, where that of abs is 0 and a β = 0 would never leave it
        return weight if self.free else torch.where(weight < 0, -weight, weight)


def moved(anchor: Tensor | None, direction: Tensor, c: Tensor | float, sign: float, spent: bool = False) -> Tensor:
    """Return anchor + sign·c·direction; the direction itself where that is all there is.

    A spent direction gives the sum its memory; no gradient may need it then.
    """
    if spent and anchor is not None and anchor.dtype == direction.dtype:
        scaled = isinstance(c, Tensor) or sign * c != 1
        return (direction.mul_(sign * c) if scaled else direction).add_(anchor)
    if isinstance(c, Tensor) and anchor is not None:
        if not c.requires_grad:
            return torch.addcmul(anchor, direction, c, value=sign)
        return (sign * c * direction).add_(anchor)  # a pass more here saves two in the backward pass of addcmul
    if isinstance(c, Tensor):
        return sign * c * direction
    if anchor is None:
        return direction if sign * c == 1 else sign * c * direction
    return torch.add(anchor, direction, alpha=sign * c)


def _filled(rows: int, penalty: float | None) -> nn.Parameter | None:
    return None if penalty is None else nn.Parameter(torch.full((rows,), float(penalty)))

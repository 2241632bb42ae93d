"""The operator P_θ: soft or non-negative soft (= ReLU, Eq. 2), with or without batch normalisation.

The sign convention of the whole package lives here: θ = β·c ≥ 0 is *subtracted*. The paper writes ReLU(z − b) in
Eq. 2 and ReLU(z + b) in Algorithms 2 and 3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pursuitnet.dictionaries import Code


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


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation inside P, with own statistics in every step.

    Attributes:
        on: "sum" normalises anchor − c·Dᵀ(…), "update" only −c·Dᵀ(…), before the anchor is added (He et al.'s place).
        affine: learned scale and shift, which then are the step and the threshold; otherwise θ = β in normalised
            units.
        identity: what happens to the identity part of a code of [I D]: "none", "batch", or "scale", which divides by
            the root mean square and subtracts nothing, so that nothing is clipped.
        momentum: weight of a batch in the running statistics that evaluation uses. They start at variance 1, while
            c·Dᵀx may be a thousand times smaller, so they had better forget quickly.
    """

    on: Literal["sum", "update"] = "sum"
    affine: bool = False
    identity: Literal["none", "scale", "batch"] = "none"
    momentum: float = 0.3


class Affine(NamedTuple):
    """P on one part of a code in evaluation, Γ = P_θ( scale·z + shift ), each (rows,); θ is None if nothing is cut."""

    scale: Tensor
    shift: Tensor
    theta: Tensor | None


class Threshold(nn.Module):
    """P_θ on a whole code, with θ = β·c computed in every call, so that it cannot fall out of step with c.

    Where a part is normalised first, c has cancelled and θ = β, in units of the part's own size.

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
        self.shrink = nonnegative_threshold if nonnegative else soft_threshold
        own = len(rows) > 1 and identity is IdentityPenalty.OWN
        shared = len(rows) > 1 and identity is IdentityPenalty.SAME
        self.atom_weight = _filled(1 if shared else rows[-1], penalty)
        self.identity_weight = _filled(rows[0], penalty) if own else None
        self.norms = nn.ModuleList(_norms(rows, norm) for _ in range(steps) if norm)

    @property
    def penalty(self) -> Tensor:
        """β of the atoms, (atoms,), or (1,) where one number serves the whole code."""
        return self._kept(self.atom_weight)

    @property
    def identity_penalty(self) -> Tensor:
        """β of the identity part, (channels,) or (1,): its own, the atoms', or zero."""
        return self.penalty if self.identity is IdentityPenalty.SAME else self._kept(self.identity_weight)

    def scales(self) -> list[nn.Parameter]:
        """Return the learned scales of the normalisations with ``affine``."""
        return [norm.weight for norm in self.modules() if isinstance(norm, _AnyNorm) and norm.affine]

    def forward(
        self, anchor: Code | None, direction: Code, c: Tensor | float = 1.0, step: int = 0, sign: float = 1.0
    ) -> Code:
        """Return P_θ(anchor + c·direction) in parts.

        Args:
            anchor: the code that is updated, or None for zero.
            direction: Dᵀ(x − D·probe), in parts.
            c: the step.
            step: 0 for the first step; chooses the statistics (the last ones serve all later steps).
            sign: −1 if the direction is given with the opposite sign, as the gradient.
        """
        anchors = anchor or (None,) * len(direction)
        return tuple(
            self._part(i - len(direction), a, d, c, step, sign)
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
        if isinstance(norm, _AnyNorm | _ScaleNorm):
            return Affine(*norm.in_evaluation(), theta)
        return Affine(one, 0 * one, theta)

    def _part(
        self, part: int, anchor: Tensor | None, direction: Tensor, c: Tensor | float, step: int, sign: float
    ) -> Tensor:
        norm, place = self._norm(part, step), self.norm.on if self.norm else None
        if norm is not None and place == "update":
            direction, c, sign = norm(_moved(None, direction, c, sign)), 1.0, 1.0
        z = _moved(anchor, direction, c, sign)
        if norm is not None and place == "sum":
            z = norm(z)
        if self._signed(part):
            return z
        weight = self._weight(part)
        if weight is None:
            return F.relu(z) if self.nonnegative else z
        theta = self._kept(weight) * (c if norm is None else 1.0)
        theta = theta.to(z.dtype).view(-1, *[1] * (z.dim() - 2))
        if z is direction or not self.nonnegative:
            return self.shrink(z, theta)
        return z.add_(-theta).relu_()  # z is new, and no gradient needs it

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


def _moved(anchor: Tensor | None, direction: Tensor, c: Tensor | float, sign: float) -> Tensor:
    """Return anchor + sign·c·direction; the direction itself where that is all there is."""
    if isinstance(c, Tensor) and anchor is not None:
        if not c.requires_grad:
            return torch.addcmul(anchor, direction, c, value=sign)
        return (sign * c * direction).add_(anchor)  # a pass more here saves two in the backward pass of addcmul
    if isinstance(c, Tensor):
        return sign * c * direction
    if anchor is None:
        return direction if sign * c == 1 else sign * c * direction
    return torch.add(anchor, direction, alpha=sign * c)


def _norms(rows: tuple[int, ...], norm: BatchNorm) -> nn.ModuleList:
    """Return the normalisations of one step, of the last part of the code or of all."""
    norms: list[nn.Module] = [_AnyNorm(rows[-1], affine=norm.affine, momentum=norm.momentum)]
    if len(rows) > 1 and norm.identity == "batch":
        norms.insert(0, _AnyNorm(rows[0], affine=norm.affine, momentum=norm.momentum))
    if len(rows) > 1 and norm.identity == "scale":
        norms.insert(0, _ScaleNorm(rows[0], momentum=norm.momentum))
    return nn.ModuleList(norms)


class _AnyNorm(_BatchNorm):
    """Batch normalisation over all axes but the second, for any number of them."""

    synchronised = False
    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, rows: int, *, affine: bool, momentum: float) -> None:
        super().__init__(rows, affine=affine, momentum=momentum)

    def forward(self, z: Tensor) -> Tensor:
        if not (self.synchronised and self.training):
            return super().forward(z)
        axes, wide = [i for i in range(z.dim()) if i != 1], (-1, *[1] * (z.dim() - 2))
        x = z.float()
        count = _summed(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = _summed(x.sum(axes)) / count
        x = x - mean.view(wide)
        variance = _summed(x.square().sum(axes)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        x = x * (variance + self.eps).rsqrt().view(wide)
        if self.affine:
            x = x * self.weight.view(wide) + self.bias.view(wide)
        return x.to(z.dtype)

    def in_evaluation(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift, (rows,) each, of the affine map that evaluation applies."""
        scale = (self.running_var + self.eps).rsqrt() * (self.weight if self.affine else 1.0)
        return scale, (self.bias if self.affine else 0.0) - scale * self.running_mean

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"the code has shape {tuple(input.shape)}; expected (B, rows, …)")


class _ScaleNorm(nn.Module):
    """Division by the root mean square of each row over the batch; evaluation divides by its running value."""

    synchronised = False
    mean_square: Tensor

    def __init__(self, rows: int, *, momentum: float, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("mean_square", torch.ones(rows))

    def in_evaluation(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift, (rows,) each, of the affine map that evaluation applies."""
        return (self.mean_square + self.eps).rsqrt(), torch.zeros_like(self.mean_square)

    def forward(self, z: Tensor) -> Tensor:
        square = self.mean_square
        if self.training:
            square = z.square().mean(dim=[i for i in range(z.dim()) if i != 1])
            if self.synchronised:
                share = float(len(z))
                square = _summed(square * share) / _summed(square.new_tensor(share))
            with torch.no_grad():
                self.mean_square.lerp_(square.to(self.mean_square.dtype), self.momentum)
        return z * (square + self.eps).rsqrt().to(z.dtype).view(-1, *[1] * (z.dim() - 2))


def synchronise(model: nn.Module) -> None:
    """Let the normalisations take their statistics from the batches of all processes together."""
    for module in model.modules():
        if isinstance(module, _AnyNorm | _ScaleNorm):
            module.synchronised = True


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Leave the running statistics as they are, while batches are normalised by their own."""
    norms = [module for module in model.modules() if isinstance(module, _AnyNorm | _ScaleNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms if isinstance(norm, _AnyNorm)]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for norm, count in zip((n for n in norms if isinstance(n, _AnyNorm)), counts, strict=True):
            norm.num_batches_tracked.copy_(count)


def _summed(value: Tensor) -> Tensor:
    """Return the sum over all processes; gradients flow."""
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(value)


def _filled(rows: int, penalty: float | None) -> nn.Parameter | None:
    return None if penalty is None else nn.Parameter(torch.full((rows,), float(penalty)))

"""The operator P_θ: soft or non-negative soft (= ReLU, Eq. 2), with or without batch normalization.

The sign convention of the whole package is: θ = β·c ≥ 0 is *subtracted*. The paper writes ReLU(z − b) in Eq. 2 and
ReLU(z + b) in Algorithms 2 and 3.
"""

import copy
import itertools
import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pursuitnet.dictionaries import Code
from pursuitnet.dictionaries.inputs import check_choice, check_count, check_kind, check_number, kind_of
from pursuitnet.prox.norms import BatchNorm, StepNorms, eval_affine
from pursuitnet.utils.inplace import is_transformed, reusable


def soft_threshold(z: Tensor, theta: Tensor | float) -> Tensor:
    """Return S_θ(z) = sign(z)·max(|z| − θ, 0), the proximal map of θ‖·‖₁ (Section II-C); θ broadcasts against z.

    z may also be an array or a list of numbers.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> pn.soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0).tolist()
        [-2.0, 0.0, 1.0]
    """
    z, theta = _tensor("z", z), theta if isinstance(theta, float) else _tensor("theta", theta)
    return _soft_threshold(z, theta)


def _soft_threshold(z: Tensor, theta: Tensor | float, out: Tensor | None = None) -> Tensor:
    """Return S_θ(z), in fewer passes over z where that is known to be right: they take as long as a convolution.

    Args:
        z: any floating-point tensor.
        theta: θ, which broadcasts against z.
        out: z itself, if the result may overwrite it.
    """
    if not _is_plain(z, theta):
        return z.sign() * (z.abs() - theta).relu_() if out is None else z.sign().mul_(z.abs_().sub_(theta).relu_())
    if not isinstance(theta, Tensor):
        return F.softshrink(z, theta)
    if torch.is_grad_enabled() and (z.requires_grad or theta.requires_grad):
        return _SoftThreshold.apply(z, theta)  # type: ignore[no-untyped-call]
    clamped = z.clamp(-theta, theta)
    return torch.sub(z, clamped, out=clamped if out is None else out)


def _is_plain(z: Tensor, theta: Tensor | float) -> bool:
    """Return whether θ ≥ 0 and z has the result's type and shape, on a CPU: other devices are not waited for."""
    if is_transformed() or z.device.type != "cpu" or not z.is_floating_point():
        return False
    if not isinstance(theta, Tensor):
        return theta >= 0
    # torch.broadcast_shapes would import SymPy
    sizes = zip(reversed(theta.shape), reversed(z.shape), strict=False)
    fits = theta.dtype == z.dtype and theta.dim() <= z.dim() and all(n in (1, m) for n, m in sizes)
    return fits and bool((theta >= 0).all())


class _SoftThreshold(torch.autograd.Function):
    """S_θ(z) = z − min(max(z, −θ), θ) for θ ≥ 0; only the code is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor) -> Tensor:
        clamped = z.clamp(-theta, theta)
        code = torch.sub(z, clamped, out=clamped)
        ctx.save_for_backward(code, theta)
        return code

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        code, theta = ctx.saved_tensors
        of_z: Tensor = torch.ops.aten.softshrink_backward(gradient, code, 0.0)  # zero where the code is
        of_theta = -(of_z * code.sign()).sum_to_size(theta.shape) if ctx.needs_input_grad[1] else None
        return of_z, of_theta


def nonnegative_threshold(z: Tensor, theta: Tensor | float) -> Tensor:
    """Return S⁺_θ(z) = max(z − θ, 0) = ReLU(z − θ), Eq. 2; θ broadcasts against z.

    z may also be an array or a list of numbers.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> pn.nonnegative_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0).tolist()
        [0.0, 0.0, 1.0]
    """
    z, theta = _tensor("z", z), theta if isinstance(theta, float) else _tensor("theta", theta)
    return (z - theta).relu_()


def _tensor(name: str, value: object) -> Tensor:
    """Return a tensor as it is, and an array or numbers as a tensor."""
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} is {kind_of(value)}; expected a tensor, or numbers") from error


class IdentityPenalty(StrEnum):
    """The penalty on the identity part of a code of [I D].

    OWN: a β for each of its channels (Algorithms 2 and 3). SAME: one number for the whole code (Theorem 1). NONE: β = 0
    (Proposition 1). SIGNED: no threshold at all, for signals with negative values, such as mean-subtracted images.
    """

    OWN = "own"
    SAME = "same"
    NONE = "none"
    SIGNED = "signed"


class Affine(NamedTuple):
    """P on one part of a code in evaluation, Γ = P_θ( scale·z + shift ); θ is None where P is the identity."""

    scale: Tensor
    shift: Tensor
    theta: Tensor | None


class Threshold(nn.Module):
    """P_θ on a whole code, with θ = β·c computed in every call, so that it always follows c.

    Where a part is normalized first, c cancels and θ = β, in normalized units. Without norm θ is in units of the
    signal, and stacked layers die (see ``PursuitLayer``).

    Args:
        code_channels: channels of each part of the code, ``dictionary.code_channels``.
        penalty: initial β of every channel; None for no β, where a norm with ``affine`` has the threshold in its shift.
        identity: the penalty on the identity part, if the code has one.
        nonnegative: S⁺ instead of S.
        free: let β take either sign, as the paper's bias b; otherwise it is kept ≥ 0 (as |parameter|).
        norm: the batch normalization, or None.
        steps: number of steps that have their own statistics: unfolding + 1.
        ridge: weight ρ ≥ 0 of ½·ρ·‖Γ‖² beside Σβ|Γ|, without norm: P_θ is divided by 1 + c·ρ. The layer is then a
            step on an elastic net, whose optimum is unique and changes smoothly with the signal and the weights.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> P = pn.Threshold((2,), penalty=0.5)
        >>> [part.tolist() for part in P(None, (torch.tensor([[3.0, -1.0]]),), c=0.5)]  # θ = β·c
        [[[2.75, 0.0]]]
    """

    def __init__(
        self,
        code_channels: tuple[int, ...],
        penalty: float | None = 0.01,
        identity: IdentityPenalty = IdentityPenalty.OWN,
        *,
        nonnegative: bool = True,
        free: bool = False,
        norm: BatchNorm | None = None,
        steps: int = 1,
        ridge: float = 0.0,
    ) -> None:
        super().__init__()
        code_channels = _checked_channels(code_channels)
        check_number("ridge", ridge, "a number ≥ 0, the weight of ½‖Γ‖²")
        if not 0 <= ridge < math.inf or (ridge and norm is not None):
            raise ValueError(f"ridge is {ridge} and norm {norm}; expected ridge ≥ 0, and 0 with a norm")
        if penalty is not None:
            check_number("penalty", penalty, "a number, β of every channel, or None")
        check_choice("identity", identity, list(IdentityPenalty))
        if norm is not None:
            check_kind("norm", norm, BatchNorm, "such as BatchNorm()")
        check_count("steps", steps, 1, "the number of steps that have their own statistics")
        identity = IdentityPenalty(identity)
        if penalty is not None and penalty < 0 and not free:
            raise ValueError(f"penalty is {penalty}; expected ≥ 0, or free=True for thresholds of either sign")
        self.code_channels, self.identity, self.free, self.norm = code_channels, identity, free, norm
        self.nonnegative, self.ridge = nonnegative, float(ridge)
        own = len(code_channels) > 1 and identity is IdentityPenalty.OWN
        shared = len(code_channels) > 1 and identity is IdentityPenalty.SAME
        self.atom_weight = _penalty_parameter(1 if shared else code_channels[-1], penalty)
        self.identity_weight = _penalty_parameter(code_channels[0], penalty) if own else None
        self.norms = StepNorms(code_channels, norm, steps)

    def extra_repr(self) -> str:
        beta = self.penalty.detach()
        shown = "on meta" if beta.is_meta else f"{float(beta.min()):.3g}…{float(beta.max()):.3g}"
        parts = [f"code_channels={self.code_channels}", f"β={'none' if self.atom_weight is None else shown}"]
        if len(self.code_channels) > 1:
            parts.append(f"identity={self.identity.value}")
        parts += ["nonnegative"] * self.nonnegative + ["free"] * self.free
        parts += [f"ridge={self.ridge:g}"] if self.ridge else []
        return ", ".join([*parts, f"norm={self.norm}"] if self.norm else parts)

    @property
    def penalty(self) -> Tensor:
        """β of the atoms, (atoms,), or (1,) where one number is for the whole code."""
        return self._beta(self.atom_weight)

    @property
    def identity_penalty(self) -> Tensor:
        """β of the identity part, (channels,) or (1,): its own, the atoms', or zero."""
        return self.penalty if self.identity is IdentityPenalty.SAME else self._beta(self.identity_weight)

    def extend(self, steps: int) -> None:
        """Give each of ``steps`` steps its own statistics; those of new steps begin as copies of the last ones."""
        while 0 < len(self.norms) < steps:
            self.norms.append(copy.deepcopy(self.norms[-1]))

    def scales(self) -> list[nn.Parameter]:
        """Return the learned scales of the normalizations with ``affine``."""
        return [norm.weight for norm in self.modules() if isinstance(norm, _BatchNorm) and norm.affine]

    def forward(
        self, anchor: Code | None, update: Code, c: Tensor | float = 1.0, step: int = 0, *, fresh: bool = False
    ) -> Code:
        """Return P_θ(anchor + update) in parts.

        Args:
            anchor: the code that is updated, or None for zero.
            update: c·Dᵀ(x − D·probe), in parts.
            c: the step, for θ = β·c.
            step: 0 for the first step; chooses the statistics (all later steps use the last ones).
            fresh: whether the update is used nowhere else, so that the code may overwrite it (see
                ``utils.inplace.reusable``).
        """
        code = []
        for part, (a, u) in enumerate(zip(anchor or (None,) * len(update), update, strict=True), -len(update)):
            z = self.norms.normalized_sum(part, step, a, u, reusable(u, a) if fresh else None)
            # the identity part of an update is the residual, which the gradient of the atoms still needs
            reuse = z is not u or (fresh and (part == -1 or reusable(u) is not None))
            code.append(self.prox(part, z, self.theta(part, c, step), inplace=reuse))
        return tuple(part / (1 + c * self.ridge) for part in code) if self.ridge else tuple(code)

    def prox(self, part: int, z: Tensor, theta: Tensor | None, *, inplace: bool = False) -> Tensor:
        """Return P_θ(z) of one part of a code.

        Args:
            part: −1 for the atoms, −2 for an identity part.
            z: (B, code_channels, …).
            theta: θ, as ``theta`` returns it, or (B, code_channels).
            inplace: whether z is used nowhere else, so that the result may overwrite it.
        """
        if theta is None and self.nonnegative and not self._signed(part):
            return z.relu_() if inplace else z.relu()
        if theta is None:
            return z
        theta = theta.to(z.dtype).view(*theta.shape, *[1] * (z.dim() - 2))
        if not self.nonnegative:
            return _soft_threshold(z, theta, reusable(z) if inplace else None)
        # the gradient of a sum needs no pass over the code to change its sign
        return torch.add(z, -theta, out=reusable(z) if inplace else None).relu_()

    def theta(self, part: int, c: Tensor | float = 1.0, step: int = 0) -> Tensor | None:
        """Return θ of one part, (code_channels,) or (1,): β·c, or β where a norm has canceled c; None without β."""
        weight = self._beta_parameter(part)
        if weight is None:
            return None
        return self._beta(weight) * (c if self.norms.of(part, step) is None else 1.0)

    @torch.no_grad()
    def eval_affine(self, c: Tensor | float = 1.0, step: int = 0) -> tuple[Affine, ...]:
        """Return P on each part of the code in evaluation, where a norm is a fixed affine map.

        Args:
            c: the step that the update is scaled by.
            step: the step whose statistics are used, as in ``forward``.
        """
        return tuple(self._affine(part, c, step) for part in range(-len(self.code_channels), 0))

    def _affine(self, part: int, c: Tensor | float, step: int) -> Affine:
        norm, theta = self.norms.of(part, step), self.theta(part, c, step)
        own = next((t for t in (theta, *self.parameters(), *self.buffers()) if t is not None), torch.zeros(1))
        ones = own.new_ones(self.code_channels[part])
        if theta is not None or (self.nonnegative and not self._signed(part)):
            theta = ones * (0.0 if theta is None else theta)
        if isinstance(norm, _BatchNorm):
            return Affine(*eval_affine(norm), theta)
        return Affine(ones, 0 * ones, theta)

    def _signed(self, part: int) -> bool:
        return part == -2 and self.identity is IdentityPenalty.SIGNED

    def _beta_parameter(self, part: int) -> nn.Parameter | None:
        """Return the parameter that holds β of a part; None where it has none."""
        if self._signed(part):
            return None
        return self.atom_weight if part == -1 or self.identity is IdentityPenalty.SAME else self.identity_weight

    def _beta(self, weight: Tensor | None) -> Tensor:
        """Return β from its parameter, kept ≥ 0 unless β is free; zero without a parameter."""
        if weight is None:
            return next(itertools.chain(self.parameters(), self.buffers()), torch.zeros(1)).new_zeros(1)
        # |weight| with gradient 1 at 0; that of abs is 0 there, so that β = 0 would never change
        return weight if self.free else torch.where(weight < 0, -weight, weight)


def _checked_channels(code_channels: object) -> tuple[int, ...]:
    """Return the channels of each part of a code of one or two parts, as a tuple."""
    if (
        not isinstance(code_channels, Sequence)
        or len(code_channels) not in (1, 2)
        or not all(isinstance(n, int) for n in code_channels)
    ):
        raise TypeError(
            f"code_channels is {code_channels!r}; expected the channels of each part of the code, as "
            "dictionary.code_channels gives them: (atoms,), or (channels, atoms) with an identity part"
        )
    return tuple(code_channels)


def _penalty_parameter(code_channels: int, penalty: float | None) -> nn.Parameter | None:
    return None if penalty is None else nn.Parameter(torch.full((code_channels,), float(penalty)))

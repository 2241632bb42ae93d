"""Batch normalization inside P, with own statistics in every step."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalization inside P, with own statistics in every step.

    Attributes:
        on: "sum" normalizes anchor − c·Dᵀ(…), "update" only −c·Dᵀ(…), before the anchor is added (He et al.'s place).
        affine: learned scale and shift, which then are the step and the threshold; otherwise θ = β in normalized
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


class StepNorms(nn.ModuleList):
    """The normalizations of every step; the last ones serve all later steps. Empty without any.

    Args:
        rows: rows of each part of the code.
        norm: which normalization, or None.
        steps: number of steps that have their own statistics.
    """

    def __init__(self, rows: tuple[int, ...], norm: BatchNorm | None, steps: int) -> None:
        super().__init__(norms_of(rows, norm) for _ in range(steps) if norm)
        self.on = norm.on if norm else None

    def of(self, part: int, step: int) -> nn.Module | None:
        """Return what normalizes a part of the code, −1 for the atoms and −2 for an identity part, in a step."""
        if not len(self):
            return None
        norms = list(self[min(step, len(self) - 1)].children())
        return norms[part] if -part <= len(norms) else None

    def normalized_sum(
        self, part: int, step: int, anchor: Tensor | None, update: Tensor, place: Tensor | None
    ) -> Tensor:
        """Return anchor + update, with the sum or the update normalized; place: of the sum in memory, or None."""
        norm = self.of(part, step)
        if norm is not None and self.on == "update":
            update = norm(update)
        z = update if anchor is None else torch.add(anchor, update, out=place)
        return norm(z) if norm is not None and self.on == "sum" else z


def norms_of(rows: tuple[int, ...], norm: BatchNorm) -> nn.ModuleList:
    """Return the normalizations of one step, of the last part of the code or of all."""
    norms: list[nn.Module] = [RowNorm(rows[-1], affine=norm.affine, momentum=norm.momentum)]
    if len(rows) > 1 and norm.identity == "batch":
        norms.insert(0, RowNorm(rows[0], affine=norm.affine, momentum=norm.momentum))
    if len(rows) > 1 and norm.identity == "scale":
        norms.insert(0, ScaleNorm(rows[0], momentum=norm.momentum))
    return nn.ModuleList(norms)


class RowNorm(_BatchNorm):
    """Batch normalization over all axes but the second, for any number of them."""

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

    def eval_affine(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift, (rows,) each, of the affine map that evaluation applies."""
        scale = (self.running_var + self.eps).rsqrt() * (self.weight if self.affine else 1.0)
        return scale, (self.bias if self.affine else 0.0) - scale * self.running_mean

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"the code has shape {tuple(input.shape)}; expected (B, rows, …)")


class ScaleNorm(nn.Module):
    """Division by the root mean square of each row over the batch; evaluation divides by its running value."""

    synchronised = False
    mean_square: Tensor

    def __init__(self, rows: int, *, momentum: float, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("mean_square", torch.ones(rows))

    def eval_affine(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift, (rows,) each, of the affine map that evaluation applies."""
        return (self.mean_square + self.eps).rsqrt(), torch.zeros_like(self.mean_square)

    def forward(self, z: Tensor) -> Tensor:
        if not self.training:
            return _scaled(z, self.mean_square, self.eps)
        if self.synchronised:
            share = float(len(z))
            square = _summed(_mean_square(z) * share) / _summed(z.new_tensor(share))
            scaled = _scaled(z, square, self.eps)
        elif torch.compiler.is_compiling():  # which fuses the plain formula by itself
            square = _mean_square(z)
            scaled = _scaled(z, square, self.eps)
        else:
            scaled, square = _ByRootMeanSquare.apply(z, self.eps)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.mean_square.lerp_(square.to(self.mean_square.dtype), self.momentum)
        return scaled


def _mean_square(z: Tensor) -> Tensor:
    """Return the mean square of each row over the batch and all places, (rows,)."""
    return z.square().mean(dim=[i for i in range(z.dim()) if i != 1])


def _scaled(z: Tensor, square: Tensor, eps: float) -> Tensor:
    """Return z / √(square + eps), row by row."""
    return z * (square + eps).rsqrt().to(z.dtype).view(-1, *[1] * (z.dim() - 2))


class _ByRootMeanSquare(torch.autograd.Function):
    """z ↦ z·ρ and m, for m the mean square of each row and ρ = 1/√(m + eps); nothing flows back from m.

    The gradient is ρ·g − z·ρ³·⟨g, z⟩ with the mean over the row: four passes over memory instead of nine.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        square = _mean_square(z)
        return _scaled(z, square, eps), square

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[1])
        ctx.eps = inputs[1]
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
        z, square = ctx.saved_tensors
        if torch.is_grad_enabled():  # this is to be differentiated once more, and ρ with it
            square = _mean_square(z)
        wide = (-1, *[1] * (z.dim() - 2))
        rho = (square.to(torch.promote_types(z.dtype, torch.float32)) + ctx.eps).rsqrt()
        along = (gradient * z).mean(dim=[i for i in range(z.dim()) if i != 1])
        first = gradient * rho.to(z.dtype).view(wide)
        return first.addcmul_(z, (along * rho**3).to(z.dtype).view(wide), value=-1), None


def synchronise(model: nn.Module) -> None:
    """Let the normalizations take their statistics from the batches of all processes together."""
    for module in model.modules():
        if isinstance(module, RowNorm | ScaleNorm):
            module.synchronised = True


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Leave the running statistics as they are, while batches are normalized by their own."""
    norms = [module for module in model.modules() if isinstance(module, RowNorm | ScaleNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms if isinstance(norm, RowNorm)]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for norm, count in zip((n for n in norms if isinstance(n, RowNorm)), counts, strict=True):
            norm.num_batches_tracked.copy_(count)


def _summed(value: Tensor) -> Tensor:
    """Return the sum over all processes; gradients flow."""
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(value)

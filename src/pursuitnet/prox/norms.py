"""Batch normalization inside P, with separate statistics in every step."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn.modules.batchnorm import _BatchNorm

from pursuitnet.dictionaries.inputs import check_choice


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalization inside P, with separate statistics in every step.

    Attributes:
        on: "sum" normalizes anchor − c·Dᵀ(…), "update" only −c·Dᵀ(…), before the anchor is added (as He et al. do).
        affine: learned scale and shift, which then are the step and the threshold; otherwise θ = β in normalized
            units.
        identity: normalization of the identity part of a code of [I D]: "none", "batch", or "scale", which divides by
            the root mean square and subtracts nothing, so that nothing is clipped.
        momentum: weight of a batch in the running statistics that evaluation uses. They start at variance 1, while
            c·Dᵀx may be a thousand times smaller, so a large momentum is better.
        eps: added to the variance or mean square. Channels whose variance is not well above it stay too small: c·Dᵀx
            of random filters has about 1e-4 times the variance of x.
    """

    on: Literal["sum", "update"] = "sum"
    affine: bool = False
    identity: Literal["none", "scale", "batch"] = "none"
    momentum: float = 0.3
    eps: float = 1e-5

    def __post_init__(self) -> None:
        check_choice("on", self.on, ("sum", "update"))
        check_choice("identity", self.identity, ("none", "scale", "batch"))


class StepNorms(nn.ModuleList):
    """The normalizations of every step; all later steps use those of the last one. Empty without normalization.

    Args:
        code_channels: channels of each part of the code.
        norm: the kind of normalization, or None.
        steps: number of steps that have their own statistics.
    """

    def __init__(self, code_channels: tuple[int, ...], norm: BatchNorm | None, steps: int) -> None:
        super().__init__(norms_of(code_channels, norm) for _ in range(steps) if norm)
        self.on = norm.on if norm else None

    def of(self, part: int, step: int) -> nn.Module | None:
        """Return the normalization of a part of the code, −1 for the atoms and −2 for an identity part, in a step."""
        if not len(self):
            return None
        norms = list(self[min(step, len(self) - 1)].children())
        return norms[part] if -part <= len(norms) else None

    def normalized_sum(self, part: int, step: int, anchor: Tensor | None, update: Tensor, out: Tensor | None) -> Tensor:
        """Return anchor + update, with the sum or the update normalized; the sum is written to ``out`` if given."""
        norm = self.of(part, step)
        if norm is not None and self.on == "update":
            update = norm(update)
        z = update if anchor is None else torch.add(anchor, update, out=out)
        return norm(z) if norm is not None and self.on == "sum" else z


def norms_of(code_channels: tuple[int, ...], norm: BatchNorm) -> nn.ModuleList:
    """Return the normalizations of one step, of the last part of the code or of all."""
    norms: list[nn.Module] = [ChannelNorm(code_channels[-1], affine=norm.affine, momentum=norm.momentum, eps=norm.eps)]
    if len(code_channels) > 1 and norm.identity == "batch":
        norms.insert(0, ChannelNorm(code_channels[0], affine=norm.affine, momentum=norm.momentum, eps=norm.eps))
    if len(code_channels) > 1 and norm.identity == "scale":
        norms.insert(0, RunningRMSNorm(code_channels[0], momentum=norm.momentum, eps=norm.eps))
    return nn.ModuleList(norms)


class ChannelNorm(_BatchNorm):
    """Batch normalization over all axes but the second, for any number of axes."""

    synchronized = False
    momentum: float | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, code_channels: int, *, affine: bool, momentum: float | None, eps: float = 1e-5) -> None:
        super().__init__(code_channels, eps, momentum, affine)

    def forward(self, z: Tensor) -> Tensor:
        if self.training and not self.synchronized and z.numel() == z.shape[1]:
            raise ValueError(
                f"a batch with one value per channel, {tuple(z.shape)}, has no variance to normalize by; expected more "
                "examples in training, or evaluation mode, or a threshold without norm"
            )
        if not (self.synchronized and self.training):
            return super().forward(z)
        axes, by_channel = _all_but_channels(z), (-1, *[1] * (z.dim() - 2))
        x = z.to(torch.promote_types(z.dtype, torch.float32))
        count = _sum_over_processes(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = _sum_over_processes(x.sum(axes)) / count.clamp(min=1)
        x = x - mean.view(by_channel)
        variance = _sum_over_processes(x.square().sum(axes)) / count.clamp(min=1)
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += count > 0
                weight = _batch_weight(self) * (count > 0).to(mean.dtype)
                self.running_mean.lerp_(mean, weight)
                self.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), weight)
        x = x * (variance + self.eps).rsqrt().view(by_channel)
        if self.affine:
            x = x * self.weight.view(by_channel) + self.bias.view(by_channel)
        return x.to(z.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"the code has shape {tuple(input.shape)}; expected (B, code_channels, …)")


class RunningRMSNorm(_BatchNorm):
    """Division by the root mean square of each channel over the batch; evaluation divides by its running value.

    It works like a batch normalization with PyTorch's own tools (``update_bn``, momentum None, an empty batch,
    forward-mode differentiation), except ``SyncBatchNorm``, which would subtract means: use ``synchronize`` for several
    processes.
    """

    synchronized = False
    momentum: float | None
    mean_square: Tensor
    num_batches_tracked: Tensor

    def __init__(self, code_channels: int, *, momentum: float | None, eps: float = 1e-5) -> None:
        super().__init__(code_channels, eps, momentum, affine=False, track_running_stats=False)
        del self.running_mean, self.running_var
        self.register_buffer("mean_square", torch.ones(code_channels))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long), persistent=False)
        self.track_running_stats = True

    def __getattr__(self, name: str) -> Any:
        if name in ("running_mean", "running_var"):
            raise AttributeError(
                f"a RunningRMSNorm has no {name}, as it subtracts nothing, so that no batch normalization of PyTorch "
                "can replace it; for statistics of several processes call pursuitnet.prox.norms.synchronize(model) "
                "instead of convert_sync_batchnorm"
            )
        return super().__getattr__(name)

    def reset_running_stats(self) -> None:
        """Reset the running mean square to 1, and the count of batches to 0."""
        if "mean_square" in self._buffers:
            self.mean_square.fill_(1)
            self.num_batches_tracked.zero_()

    def forward(self, z: Tensor) -> Tensor:
        if not self.training and self.track_running_stats:
            return _scaled(z, self.mean_square, self.eps)
        if self.synchronized and self.training:
            count = _sum_over_processes(self.mean_square.new_tensor(float(z.numel() // z.shape[1])))
            square = _sum_over_processes(z.square().sum(_all_but_channels(z), dtype=count.dtype)) / count.clamp(min=1)
            self._update_running_stats(square, count > 0)
            return _scaled(z, square, self.eps)
        if torch.compiler.is_compiling():  # the compiler fuses the plain formula by itself
            square = _mean_square(z)
            scaled = _scaled(z, square, self.eps)
        else:
            scaled, square = _ByRootMeanSquare.apply(z, self.eps)  # type: ignore[no-untyped-call]
        if self.training and z.numel():  # the mean over an empty batch is NaN
            self._update_running_stats(square)
        return scaled

    @torch.no_grad()
    def _update_running_stats(self, square: Tensor, seen: Tensor | Literal[True] = True) -> None:
        if self.track_running_stats:
            self.num_batches_tracked += seen
            square = square.to(self.mean_square.dtype)
            self.mean_square.lerp_(square, _batch_weight(self) * (seen if seen is True else seen.to(square.dtype)))

    def _load_from_state_dict(self, *arguments: Any) -> None:
        nn.Module._load_from_state_dict(self, *arguments)  # that of _BatchNorm requires num_batches_tracked


def eval_affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return scale and shift, (code_channels,) each, of the affine map that a normalization is in evaluation.

    Args:
        norm: a ChannelNorm, a RunningRMSNorm, or a batch normalization by which PyTorch has replaced a ChannelNorm.

    Raises:
        ValueError: if it keeps no running statistics, so that evaluation is no fixed map.
    """
    if not norm.track_running_stats:
        raise ValueError(f"{norm} keeps no running statistics; expected some, so that evaluation is a fixed map")
    if isinstance(norm, RunningRMSNorm):
        return (norm.mean_square + norm.eps).rsqrt(), torch.zeros_like(norm.mean_square)
    scale = (norm.get_buffer("running_var") + norm.eps).rsqrt() * (norm.weight if norm.affine else 1.0)
    return scale, (norm.bias if norm.affine else 0.0) - scale * norm.get_buffer("running_mean")


def _all_but_channels(z: Tensor) -> list[int]:
    return [i for i in range(z.dim()) if i != 1]


def _batch_weight(norm: _BatchNorm) -> float:
    """Return the weight of a batch in the running statistics; with momentum None all batches weigh the same."""
    return 1 / float(norm.num_batches_tracked or 1) if norm.momentum is None else norm.momentum


def _mean_square(z: Tensor) -> Tensor:
    """Return the mean square of each channel over the batch and all places, (code_channels,)."""
    return z.square().mean(dim=_all_but_channels(z))


def _scaled(z: Tensor, mean_square: Tensor, eps: float) -> Tensor:
    """Return z / √(mean_square + eps), channel by channel."""
    if mean_square.dtype == torch.float16:
        eps = max(eps, 1e-7)  # float16 has no smaller numbers
    return z * (mean_square + eps).rsqrt().to(z.dtype).view(-1, *[1] * (z.dim() - 2))


class _ByRootMeanSquare(torch.autograd.Function):
    """z ↦ z·ρ and m, for m the mean square of each channel and ρ = 1/√(m + eps); m has no gradient.

    The gradient is ρ·g − z·ρ³·⟨g, z⟩ with the mean over the channel: four passes over memory instead of nine. The
    Jacobian is symmetric, so the same formula serves forward-mode differentiation.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        square = _mean_square(z)
        return _scaled(z, square, eps), square

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[1])
        ctx.save_for_forward(inputs[0], output[1])
        ctx.eps = inputs[1]
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
        z, square = ctx.saved_tensors
        # for second derivatives, ρ must be differentiable too
        if torch.is_grad_enabled() or unpack_dual(z).tangent is not None:
            square = _mean_square(z)
        return _by_jacobian(z, square, ctx.eps, gradient), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> tuple[Tensor, None]:
        z, _square = ctx.saved_tensors
        return _by_jacobian(z, _mean_square(z), ctx.eps, tangent), None


def _by_jacobian(z: Tensor, mean_square: Tensor, eps: float, direction: Tensor) -> Tensor:
    """Return ρ·g − z·ρ³·⟨g, z⟩ for a direction g, with the mean over each channel."""
    by_channel = (-1, *[1] * (z.dim() - 2))
    rho = (mean_square.to(torch.promote_types(z.dtype, torch.float32)) + eps).rsqrt()
    along = (direction * z).mean(dim=_all_but_channels(z))
    first = direction * rho.to(z.dtype).view(by_channel)
    return first.addcmul_(z, (along * rho**3).to(z.dtype).view(by_channel), value=-1)


def synchronize(model: nn.Module) -> None:
    """Make all normalizations use the statistics of the batches of all processes together."""
    for module in model.modules():
        if isinstance(module, ChannelNorm | RunningRMSNorm):
            module.synchronized = True


@contextmanager
def frozen_running_stats(model: nn.Module) -> Iterator[None]:
    """Keep the running statistics unchanged, while batches are normalized by their own statistics."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.get_buffer("num_batches_tracked").clone() for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            norm.get_buffer("num_batches_tracked").copy_(count)


def _sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum over all processes; gradients flow."""
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(value)

"""Gradient checkpointing: memory for the backward pass, paid for with computing again."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pursuitnet.norms import still
from pursuitnet.solvers.unfolding import Again


def again_of(module: nn.Module) -> Again | None:
    """Return how a module's own steps are called where it is to compute them again; None where it keeps them."""
    needed = module.training and torch.is_grad_enabled() and module.grad_checkpointing
    return partial(again, module) if needed else None


def again(module: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module, and once more in the backward pass, which leaves running statistics alone."""
    contexts = partial(_contexts, module)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the forward pass and of its repetition."""
    return nullcontext(), still(module)

"""Gradient checkpointing: what the backward pass computes again instead of keeping it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from pursuitnet.prox.norms import frozen_running_stats

S = TypeVar("S")
Recompute = Callable[..., Any]
"""Calls a function with arguments so that the backward pass calls it again, instead of keeping what it computed."""


def checkpointed_scan(
    chain: Sequence[Callable[..., S]],
    state: S,
    recompute: Recompute | None = None,
    given: tuple[Any, ...] = (),
    segment: int = 1,
) -> S:
    """Return what the functions of a chain make of a state, one after another.

    Args:
        chain: the functions (state, *given) → state.
        state: what the first one is handed.
        recompute: if there is one, the backward pass needs memory for about log₂ n states of a chain of n instead of
            all, and computes a function up to log₂ n times again, half as often on average (recursive bisection:
            Griewank, 1992).
        given: what all functions are handed besides; a tensor bound into a function would be kept with it.
        segment: of how many functions in a row all is kept once the backward pass has come to them.
    """
    if recompute is not None and len(chain) > segment:
        middle = len(chain) // 2
        state = recompute(checkpointed_scan, chain[:middle], state, recompute, given, segment)
        return checkpointed_scan(chain[middle:], state, recompute, given, segment)
    for function in chain:
        state = function(state, *given)
    return state


def recompute_of(module: nn.Module) -> Recompute | None:
    """Return how a module's own steps are called where it is to compute them again; None where it keeps them."""
    needed = module.training and torch.is_grad_enabled() and module.grad_checkpointing
    return partial(recompute, module) if needed else None


def recompute(module: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module, and once more in the backward pass, which leaves running statistics alone."""
    leaves, structure = tree_flatten(arguments)  # only tensors that it is handed one by one are let go in turn

    def call(*leaves: Any) -> Any:
        return function(*tree_unflatten(leaves, structure))

    contexts = partial(_contexts, module)
    return checkpoint(call, *leaves, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the forward pass and of its repetition."""
    return nullcontext(), frozen_running_stats(module)

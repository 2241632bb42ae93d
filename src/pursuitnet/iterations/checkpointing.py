"""Gradient checkpointing: the backward pass computes activations again instead of keeping them."""

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
"""Calls a function with arguments so that the backward pass calls it again instead of keeping its activations."""


def checkpointed_scan(
    chain: Sequence[Callable[..., S]],
    state: S,
    recompute: Recompute | None = None,
    given: tuple[Any, ...] = (),
    segment: int = 1,
) -> S:
    """Apply the functions of a chain to a state, one after another, and return the last state.

    Args:
        chain: the functions (state, *given) → state.
        state: the initial state.
        recompute: if given, the backward pass needs memory for about log₂ n states of a chain of n instead of all, and
            computes a function up to log₂ n times again, half as often on average (recursive bisection: Griewank,
            1992).
        given: further arguments of all functions; a tensor bound into a function would be kept with it.
        segment: number of functions in a row whose activations are all kept when the backward pass reaches them.
    """
    if recompute is not None and len(chain) > segment:
        middle = len(chain) // 2
        state = recompute(checkpointed_scan, chain[:middle], state, recompute, given, segment)
        return checkpointed_scan(chain[middle:], state, recompute, given, segment)
    for function in chain:
        state = function(state, *given)
    return state


def recompute_of(module: nn.Module) -> Recompute | None:
    """Return ``recompute`` for the steps of a module that checkpoints them; None where it keeps activations."""
    needed = module.training and torch.is_grad_enabled() and module.grad_checkpointing
    return partial(recompute, module) if needed else None


def recompute(module: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module, and again in the backward pass, which does not change running statistics."""
    leaves, structure = tree_flatten(arguments)  # checkpoint frees only tensors that are arguments of their own

    def call(*leaves: Any) -> Any:
        return function(*tree_unflatten(leaves, structure))

    contexts = partial(_contexts, module)
    return checkpoint(call, *leaves, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the forward pass and of its recomputation."""
    return nullcontext(), frozen_running_stats(module)

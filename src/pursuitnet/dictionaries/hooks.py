"""Hooks on a dictionary: those that compute weights are run, and those that would never be called are refused."""

import copy
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

M = TypeVar("M", bound=nn.Module)


def run_hooks(dictionary: nn.Module, inputs: tuple[Any, ...] = ()) -> None:
    """Run the forward pre-hooks of a dictionary, in which ``nn.utils.prune`` and the like compute the weights.

    Dictionaries are used through ``analyze`` and ``synthesize``, never through ``forward``; layers and ``solve`` call
    this first.

    Args:
        dictionary: D; hooks of its submodules run too.
        inputs: (signal,), for the hooks; without it only those of ``torch.nn.utils`` run, which need none.

    Raises:
        ValueError: for a hook that has no effect on a dictionary.
    """
    for module in dictionary.modules():
        if module._forward_hooks:
            raise ValueError(
                f"a forward hook is registered on a {type(module).__name__}, whose forward is never called; "
                "register it on the layer that contains it"
            )
        for key, hook in list(module._forward_pre_hooks.items()):
            if not inputs and not isinstance(hook, BasePruningMethod | SpectralNorm | WeightNorm):
                continue
            kwargs: tuple[dict[str, Any], ...] = ({},) if key in module._forward_pre_hooks_with_kwargs else ()
            if hook(module, inputs, *kwargs) is not None:
                raise ValueError(
                    f"a forward pre-hook of a {type(module).__name__} returned new inputs, which a dictionary ignores; "
                    "register it on the layer that contains it"
                )


def detached_copy(module: M) -> M:
    """Return a deep copy of a module, also where a hook has set a weight that is not a leaf of the graph."""
    tensors = [value for m in module.modules() for value in vars(m).values() if isinstance(value, Tensor)]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in tensors if not value.is_leaf})


def float64_copy(dictionary: M) -> M:
    """Return a copy of a dictionary that computes in float64, with the weights that its hooks compute."""
    copied = detached_copy(dictionary).double().eval()
    run_hooks(copied)
    return copied

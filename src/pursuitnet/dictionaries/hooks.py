"""Hooks on a dictionary: those that compute weights run, and what would never run is refused."""

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
    this before they do.

    Args:
        dictionary: with the modules in it.
        inputs: (signal,), for the hooks; without it only those of ``torch.nn.utils`` run, which need none.

    Raises:
        ValueError: for a hook that cannot do here what it does elsewhere.
    """
    for module in dictionary.modules():
        if module._forward_hooks:
            raise ValueError(
                f"a forward hook is registered on a {type(module).__name__}, whose forward is never called; "
                "register it on the layer around it"
            )
        for key, hook in list(module._forward_pre_hooks.items()):
            if not inputs and not isinstance(hook, BasePruningMethod | SpectralNorm | WeightNorm):
                continue
            named: tuple[dict[str, Any], ...] = ({},) if key in module._forward_pre_hooks_with_kwargs else ()
            if hook(module, inputs, *named) is not None:
                raise ValueError(
                    f"a forward pre-hook of a {type(module).__name__} returned new inputs, which a dictionary does not "
                    "take from there; register it on the layer around it"
                )


def detached_copy(module: M) -> M:
    """Return a deep copy of a module, also of one that a hook has given a weight with a gradient."""
    held = [value for m in module.modules() for value in vars(m).values() if isinstance(value, Tensor)]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in held if not value.is_leaf})


def float64_copy(dictionary: M) -> M:
    """Return a copy of a dictionary that computes in float64, with the weights that its hooks compute."""
    copied = detached_copy(dictionary).double().eval()
    run_hooks(copied)
    return copied

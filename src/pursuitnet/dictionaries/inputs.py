"""Checks of the weights and signals that a dictionary is given, each with a message of one sentence."""

import functools
from collections.abc import Callable, Collection, Sequence
from numbers import Real
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.amp import is_autocast_available

P = ParamSpec("P")
S = TypeVar("S")
ALWAYS_AUTOCAST = ("cpu", "cuda")
"""Types of device that have autocast in every PyTorch; asking for others cannot be compiled in PyTorch 2.6."""
IMAGE_AS_TENSOR = "for a PIL image, torch.as_tensor(numpy.array(image)).movedim(-1, 0)[None].float() / 255"


def as_weight(weight: object, shape: str) -> Tensor:
    """Return the weight of a dictionary as a tensor: an array or a nested list is copied into one.

    Args:
        weight: a tensor, an array or a nested list of floats.
        shape: the expected shape, for the message.

    Raises:
        TypeError: for anything else.
    """
    tensor = weight
    try:
        if isinstance(weight, np.ndarray):
            tensor = torch.tensor(weight.astype(weight.dtype.newbyteorder("=")))
        elif isinstance(weight, Sequence) and not isinstance(weight, str):
            tensor = torch.tensor(weight)
    except (TypeError, ValueError):  # of strings, objects, lists of unequal length
        tensor = None
    if not isinstance(tensor, Tensor):
        raise TypeError(f"weight is {kind_of(weight)}; expected a tensor of floats, {shape}")
    if not tensor.is_floating_point():
        raise TypeError(f"weight holds {tensor.dtype}; expected floats: convert it with .float()")
    return tensor


def kind_of(value: object) -> str:
    """Return a short description of a value for a message: a plain value itself, otherwise its type or shape."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Tensor | np.ndarray):
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} of shape {tuple(value.shape)}"
    if isinstance(value, str | int | float | None):
        return repr(value)
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def check_kind(name: str, value: object, kind: type, example: str) -> None:
    """Raise TypeError unless a value is an instance of a class; the message gives an example of one."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {kind_of(value)}; expected a {kind.__name__}, {example}")


def check_number(name: str, value: object, expected: str) -> None:
    """Raise TypeError unless a value is a number, or a tensor of one number; ``expected`` ends the message."""
    one = isinstance(value, Tensor) and value.numel() == 1
    if not (one or isinstance(value, Real)) or isinstance(value, bool):
        raise TypeError(f"{name} is {kind_of(value)}; expected {expected}")


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raise ValueError unless a value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(repr(str(choice)) for choice in choices)
        raise ValueError(f"{name} is {kind_of(value)}; expected one of {listed}")


def check_count(name: str, value: object, least: int, expected: str) -> None:
    """Raise ValueError unless a value is an integer ≥ ``least``; ``expected`` ends the message."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; expected an integer ≥ {least}, {expected}")


def check_shape(value: object) -> None:
    """Raise TypeError unless this is the shape of a signal."""
    if not isinstance(value, Sequence) or not all(isinstance(size, (int, torch.SymInt)) for size in value):
        raise TypeError(f"signal_shape is {kind_of(value)}; expected the shape of a signal, as signal.shape")


def check_tensor(signal: object, weight: Tensor | None = None) -> None:
    """Raise TypeError unless this is a tensor, and ValueError unless it holds floats of the weight's type.

    Under autocast, floats of any type are accepted.
    """
    if not isinstance(signal, Tensor):
        raise TypeError(
            f"the signal is {kind_of(signal)}; expected a tensor of floats (B, channels, …): for an array or a "
            f"list, torch.as_tensor(array).float(); {IMAGE_AS_TENSOR}"
        )
    dtype = torch.get_default_dtype() if weight is None else weight.dtype
    if not signal.is_floating_point():
        raise ValueError(
            f"the signal holds {signal.dtype}; expected {dtype}: convert it with {_cast(dtype)}, and an image of 0…255 "
            f"with {_cast(dtype)} / 255"
        )
    if weight is not None and not is_autocast_on(signal.device.type):
        check_same_type(signal, dtype)


def has_autocast(device: str) -> bool:
    """Return whether a type of device has autocast; some, such as meta, do not."""
    return device in ALWAYS_AUTOCAST or is_autocast_available(device)


def is_autocast_on(device: str) -> bool:
    """Return whether autocast is enabled on a type of device."""
    return has_autocast(device) and torch.is_autocast_enabled(device)


def check_same_type(signal: Tensor, dtype: torch.dtype) -> None:
    """Raise ValueError unless a signal has the number type of the dictionary."""
    if signal.dtype != dtype:
        raise ValueError(
            f"the signal is {signal.dtype}, the dictionary {dtype}; convert one, as in signal{_cast(dtype)}"
        )


def _cast(dtype: torch.dtype) -> str:
    """Return the call that converts a tensor to a type."""
    return {torch.float32: ".float()", torch.float64: ".double()"}.get(dtype, f".to({dtype})")


def takes_weight(
    example: str,
) -> Callable[[Callable[Concatenate[S, Tensor, P], None]], Callable[Concatenate[S, Tensor, P], None]]:
    """Make a dictionary's constructor refuse sizes, which PyTorch's layers take, before Python counts the arguments.

    Args:
        example: a correct call, for the message.
    """

    def decorate(init: Callable[Concatenate[S, Tensor, P], None]) -> Callable[Concatenate[S, Tensor, P], None]:
        @functools.wraps(init)
        def checked(self: S, weight: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> None:
            if isinstance(weight, int):
                raise TypeError(
                    f"weight is {weight}; unlike a layer of PyTorch, a {type(self).__name__} takes the atoms "
                    f"themselves and not their sizes: {example}"
                )
            init(self, weight, *args, **kwargs)

        return checked

    return decorate

"""Checks of signals, codes and dictionaries that a user passes: their kind, number type and device."""

from typing import Any

import torch
from torch import Tensor

from pursuitnet.dictionaries import Dictionary
from pursuitnet.dictionaries.inputs import IMAGE_AS_TENSOR, check_same_type, check_tensor, kind_of


def with_dictionary(name: str, value: Any, dictionary: Any) -> Tensor:
    """Return a signal or a code as a tensor on the dictionary's device, after checking the kind of both.

    Args:
        name: name of the value in messages, such as "the signal".
        value: a tensor, an array or nested lists of numbers.
        dictionary: D.

    Raises:
        TypeError: if one of the two is of another kind; the message names it.
    """
    if isinstance(value, Dictionary) and not isinstance(dictionary, Dictionary):
        raise TypeError(f"{name} is {kind_of(value)} and the dictionary {kind_of(dictionary)}; swap the two")
    check_dictionary(dictionary)
    return tensor_of(name, value, dictionary._reference_tensor())


def check_dictionary(value: Any, name: str = "the dictionary") -> None:
    """Raise TypeError unless this is a dictionary."""
    if isinstance(value, type) and issubclass(value, Dictionary):
        raise TypeError(f"{name} is {kind_of(value)}; expected an object, as {value.__name__}(weight) makes one")
    if not isinstance(value, Dictionary):
        raise TypeError(
            f"{name} is {kind_of(value)}; expected a Dictionary, such as pn.ConvDictionary(weight) or "
            "pn.LinearDictionary(weight)"
        )


def tensor_of(name: str, value: Any, like: Tensor | None = None) -> Tensor:
    """Return a tensor as it is, and an array or nested lists of numbers as a tensor.

    Args:
        name: name of the value in messages.
        value: a tensor, an array or nested lists of numbers.
        like: a tensor whose device an array gets, and whose dtype Python's numbers get; by default the CPU and
            PyTorch's own dtype.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(value, Tensor):
        return value
    device = torch.device("cpu") if like is None else like.device
    expected = f"{name} is {kind_of(value)}; expected a tensor, or an array of numbers"
    expected += f": {IMAGE_AS_TENSOR}" if hasattr(value, "__array_interface__") else ""
    if isinstance(value, (str, bytes, type, Dictionary)) or value is None:
        raise TypeError(expected)
    try:
        tensor = torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(expected) from error
    untyped = isinstance(value, (list, tuple, float)) and tensor.is_floating_point()
    if untyped and like is not None and like.is_floating_point():
        return torch.as_tensor(value, dtype=like.dtype, device=device)
    return tensor


def check_types(signal: Tensor, dictionary: Dictionary) -> None:
    """Raise ValueError unless a signal and a dictionary are of one number type, float32 or float64, on one device."""
    weight = next(dictionary.parameters(), signal)
    check_tensor(signal, weight)
    check_same_type(signal, weight.dtype)  # under autocast too
    if signal.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"signal and dictionary are {signal.dtype}, too coarse for a duality gap; convert both, as in "
            "signal.float() and dictionary.float()"
        )
    if signal.device != weight.device:
        raise ValueError(
            f"the signal is on {signal.device}, the dictionary on {weight.device}; move one, as in "
            f"signal.to({str(weight.device)!r})"
        )

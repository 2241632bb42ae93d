"""What the estimators check of their parameters and examples, one sentence each."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pursuitnet.dictionaries.inputs import kind_of

FILTERS = "filters (n_components, channels, *kernel)"


def check_integers(**values: Any) -> None:
    """Raise ValueError unless these are integers ≥ 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected an integer ≥ 1")


def check_beta(beta: Any, zero: bool) -> None:
    """Raise ValueError unless β is a number > 0, or ≥ 0 if it may be zero."""
    number = isinstance(beta, Real) and not isinstance(beta, bool)
    if not number or not (beta >= 0 if zero else beta > 0):
        raise ValueError(f"beta is {beta!r}; expected a number {'≥' if zero else '>'} 0")


def check_one_size(X: Any) -> None:
    """Raise ValueError if examples in a list have different sizes, which scikit-learn's own message does not say."""
    if not isinstance(X, list | tuple):
        return
    shapes = {np.shape(example) for example in X if hasattr(example, "shape")}
    if len(shapes) > 1:
        raise ValueError(
            f"the examples have {len(shapes)} sizes, such as {' and '.join(map(str, sorted(shapes)[:2]))}; expected "
            "one: crop them, or use pursuitnet.learn, which takes a list of batches of different sizes"
        )


def kernel_of(kernel_size: int | None, sizes: Sequence[int]) -> list[int]:
    """Return the size of filters along each axis: by default 3, or that of a smaller example.

    Raises:
        ValueError: for anything but an integer ≥ 1 that is not larger than an example.
    """
    if kernel_size is None:
        return [min(3, n) for n in sizes]
    check_integers(kernel_size=kernel_size)
    if any(kernel_size > n for n in sizes):
        raise ValueError(f"kernel_size is {kernel_size}, and an example has size {tuple(sizes)}; expected at most that")
    return [int(kernel_size)] * len(sizes)


def weight_of(dictionary: Any, shape: str, dims: int) -> Tensor:
    """Return atoms that were given as an array.

    Args:
        dictionary: the array.
        shape: what is expected, for the message.
        dims: number of its axes.

    Raises:
        ValueError: for anything but numbers in so many axes.
    """
    try:
        weight = torch.from_numpy(np.array(dictionary, dtype=float))
    except (TypeError, ValueError):
        weight = torch.empty(0)
    if weight.dim() != dims:
        raise ValueError(f"dictionary is {kind_of(dictionary)}; expected {shape}, {dims} axes, or one of pursuitnet")
    return weight

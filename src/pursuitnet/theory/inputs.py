"""Checks and conversions of the arguments of the theory's functions."""

from numbers import Real

import torch
from torch import Tensor

from pursuitnet.dictionaries import Dictionary, WithIdentity
from pursuitnet.dictionaries.hooks import float64_copy
from pursuitnet.dictionaries.inputs import kind_of
from pursuitnet.problems.inputs import tensor_of


def nonnegative(name: str, value: object) -> Tensor:
    """Return numbers in float64; raise ValueError if one is negative, infinite or NaN."""
    numbers = number(name, value).double()
    bad = numbers[~((numbers >= 0) & numbers.isfinite())]
    if len(bad):
        raise ValueError(f"{name} is {float(bad[0])}; expected a finite number ≥ 0, so correct it first")
    return numbers


def coherence(value: float) -> float:
    """Return μ; raise ValueError unless 0 ≤ μ ≤ 1."""
    if isinstance(value, Dictionary) or not isinstance(value, (Real, Tensor)):
        raise TypeError(f"μ is {kind_of(value)}; expected a number between 0 and 1, such as mutual_coherence returns")
    if not 0 <= float(value) <= 1:
        raise ValueError(f"μ is {value}; expected a number between 0 and 1, such as mutual_coherence returns")
    return float(value)


def number(name: str, value: object) -> Tensor:
    """Return numbers as a tensor, Python's in float64 and on the CPU; raise TypeError for anything else."""
    if isinstance(value, bool):
        raise TypeError(f"{name} is {value}; expected a number ≥ 0")
    return tensor_of(name, value, torch.empty(0, dtype=torch.float64, device="cpu"))


def finite(name: str, values: Tensor) -> None:
    """Raise ValueError if a value is infinite or NaN."""
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name} has infinite or undefined values; expected finite ones, so correct these first")


def in_float64(dictionary: Dictionary) -> Dictionary:
    """Return a copy of a dictionary that computes in float64; the original is not changed."""
    return float64_copy(dictionary)


def without_identity(dictionary: Dictionary) -> Dictionary:
    """Return D of [I D], and any other dictionary itself."""
    return dictionary.dictionary if isinstance(dictionary, WithIdentity) else dictionary

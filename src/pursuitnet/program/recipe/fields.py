"""Fields of a recipe as Python, JSON, TOML and YAML write them, in the types that the recipe declares."""

import reprlib
from contextlib import suppress
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pursuitnet.utils.nearest import did_you_mean
from pursuitnet.utils.records import fits

RENAMED = {"drops": "milestones", "fill": "padding_mode", "standardise": "normalize", "valid_images": "val_images"}
"""Former names of fields; recipes that have them can still be read."""

_EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", Path: "a path"}


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Return the declared type of every field of a dataclass."""
    return get_type_hints(cls)


def converted_fields(values: object, types: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the fields of a table with values of the declared types.

    Raises:
        ValueError: for a field that does not exist, with the nearest that does, and for a value of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{source} is {reprlib.repr(values)}; expected a table of fields, such as epochs = 30")
    fields = {str(RENAMED.get(name, name)): value for name, value in values.items()}
    for name in fields:
        if name not in types:
            near = did_you_mean(name, types, f"; the fields are {', '.join(types)}")
            raise ValueError(f"{source} has the unknown field {reprlib.repr(name)}{near}")
    try:
        return {name: as_type(types[name], value, name) for name, value in fields.items()}
    except TypeError as error:
        raise ValueError(f"{source} has {error}") from error


def as_type(kind: Any, value: Any, name: str) -> Any:
    """Return a value of Python, JSON, TOML or YAML as a field's type has it, or raise TypeError."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Union or origin is UnionType:
        if value is None and NoneType in inside:
            return None
        return _as_one_of([each for each in inside if each is not NoneType], value, name)
    if origin is Literal and value in inside:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(as_type(inside[0], v, name) for v in value)
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)  # of NumPy too
    if kind is float and _is_float(value):
        return float(value)
    if (kind is bool and isinstance(value, bool)) or (kind is str and isinstance(value, str)):
        return value
    if name == "sigma" and isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"
    if name == "dilations" and isinstance(value, list | tuple | range):
        return ",".join(map(str, value))
    raise TypeError(f"{name} = {reprlib.repr(value)}; expected {_expected(kind)}")


def _as_one_of(kinds: list[Any], value: Any, name: str) -> Any:
    """Return a value as the first of several types that it fits, or raise TypeError with all of them."""
    if len(kinds) == 1:
        return as_type(kinds[0], value, name)
    for kind in kinds:
        with suppress(TypeError):
            return as_type(kind, value, name)
    raise TypeError(f"{name} = {reprlib.repr(value)}; expected {' or '.join(map(_expected, kinds))}")


def _expected(kind: Any) -> str:
    """Return what a type expects, in words."""
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    return _EXPECTED.get(kind, "a list of numbers")


def _is_float(value: object) -> bool:
    """Return whether a value is a real number that a float holds; infinities and NaN are."""
    return isinstance(value, Real) and fits(value if isinstance(value, int) else float(value), float, finite=False)

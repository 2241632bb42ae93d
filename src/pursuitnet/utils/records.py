"""Files of records and settings, read and checked: UTF-8 text, JSON, TOML or YAML, values of the expected types.

Every error names the file. Imports nothing heavy.
"""

import json
import reprlib
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Kind = type | None | tuple["Kind", ...] | list["Kind"]
"""Kind of a value: a type, None, a tuple of alternatives, or a list of kinds, one for each entry of a list."""

Kinds = Mapping[str, Kind]

RENAMED = {"optimiser": "optimizer", "valid_loss": "val_loss", "valid_accuracy": "val_accuracy"}
"""Numbers by the names that they had once."""


def text_of(path: Path, name: str | None = None) -> str:
    """Return the text of a file in UTF-8, with or without a byte-order mark.

    Args:
        path: the file.
        name: its name in error messages; by default the path.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(
            f"{name or path} is damaged or not in UTF-8 (can't decode byte 0x{byte:02x} at {error.start}); "
            "expected a text file in UTF-8"
        ) from error


def settings_of(path: Path, what: str) -> Any:
    """Return the content of a file in JSON (.json), TOML (.toml) or YAML (any other suffix).

    Args:
        path: the file.
        what: its kind for error messages, such as "a recipe".

    Raises:
        OSError: if it cannot be read.
        ValueError: if it cannot be parsed.
    """
    import yaml

    text, kind = text_of(path), path.suffix.lower()
    try:
        if kind == ".json":
            return json.loads(text)
        return tomllib.loads(text) if kind == ".toml" else yaml.load(text, _loader())
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read as {what}: it is nested too deeply") from error
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as {what}: {' '.join(str(error).split()):.300}") from error


def _loader() -> Any:
    """Return YAML's safe loader with the numbers of YAML 1.2: 1e-5 is a number, and 12:30:00 is not."""
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    number = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+\Z"), [*"-+0123456789"])
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"(?:{number})\Z"), [*"-+.0123456789"])
    Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(str(node.value)))
    return Loader


def record_of(path: Path, needed: Kinds, more: Kinds | None = None, *, name: str | None = None) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: the file.
        needed: keys that it must have, with the kinds of their values.
        more: keys that it may have, with the kinds of their values.
        name: its name in error messages; by default the path.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged.
    """
    name = name or str(path)
    return checked(text_of(path, name), needed, more or {}, name)


def checked(text: str, needed: Kinds, more: Kinds, name: str) -> dict[str, Any]:
    """Return the object of a JSON text, if its values are of these kinds; see ``record_of``."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{name} is damaged: it is nested too deeply (recursion)") from error
    except ValueError as error:
        raise ValueError(f"{name} is damaged: {error}") from error
    return fitting(value, needed, more, name)


def fitting(record: Any, needed: Kinds, more: Kinds, name: str) -> dict[str, Any]:
    """Return a value, if it is an object with values of these kinds; see ``record_of``."""
    if not isinstance(record, dict):
        raise ValueError(f"{name} is damaged: it holds no object")
    record = {RENAMED.get(key, key): value for key, value in record.items()}
    for key, kind in {**{key: kind for key, kind in more.items() if key in record}, **needed}.items():
        if not fits(record.get(key), kind, finite=key in needed):
            raise ValueError(f"{name} is damaged: {key} is {reprlib.repr(record.get(key))}")
    return record


def fits(value: object, kind: Kind, *, finite: bool = True) -> bool:
    """Return whether a JSON value is of a kind; a Boolean is not a number, and an integer is also a float."""
    if isinstance(kind, tuple):
        return any(fits(value, each, finite=finite) for each in kind)
    if isinstance(kind, list):
        return isinstance(value, list) and len(value) == len(kind) and all(map(fits, value, kind))
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return abs(value) <= sys.float_info.max or (isinstance(value, float) and not finite)
    return value is None if kind is None else isinstance(value, kind) and (kind is bool or not isinstance(value, bool))

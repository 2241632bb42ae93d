"""The error for an unknown name."""

from collections.abc import Iterable

from pursuitnet.utils.nearest import did_you_mean


def require_known(kind: str, value: str, known: Iterable[str]) -> None:
    """Raise ValueError, with the known values and the nearest one, unless `value` is one of them."""
    known = tuple(known)
    if value not in known:
        raise ValueError(f"unknown {kind} {value!r}: known are {', '.join(known)}{did_you_mean(value, known)}")

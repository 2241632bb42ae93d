"""What is said of a name that is not known."""

import difflib
from collections.abc import Iterable


def require_known(kind: str, value: str, known: Iterable[str]) -> None:
    """Raise ValueError, with the known values and the nearest of them, unless `value` is one of them."""
    known = tuple(known)
    if value not in known:
        close = difflib.get_close_matches(str(value).lower(), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown {kind} {value!r}: known are {', '.join(known)}{hint}")

"""How large a network may be: beyond is a slip of the keyboard, to be said before memory is taken. Loads no PyTorch."""

import reprlib

MOST = {"depth": 10_000, "width": 65_536, "unfolding": 10_000}
"""The largest number of each."""

MOST_WEIGHTS = 10**10
"""Of one network: 40 GB in float32."""


def check_number(what: str, value: int | None) -> None:
    """Raise ValueError if a number of a network is above what it may be."""
    if value is not None and value > MOST.get(what, value):
        raise ValueError(f"{what} is {reprlib.repr(value)}; expected at most {MOST[what]:,}")


def check_depth(model: str) -> None:
    """Raise ValueError if the number at the end of a network's name, such as 6 in msd_csc_6, is above that."""
    check_number("depth", depth_of(model))


def depth_of(model: str) -> int | None:
    """Return the number at the end of a network's name, if it has one."""
    digits = model.rpartition("_")[2].lstrip("0")
    return int(digits[:100]) if digits.isdecimal() else None  # more digits than Python converts change nothing


def check_weights(count: int, width: int) -> None:
    """Raise ValueError if a network would have too many weights.

    Args:
        count: about so many would be in its dictionaries and its head.
        width: that they come from.
    """
    if count > MOST_WEIGHTS:
        raise ValueError(
            f"the network would have about {min(count, 10**99):.1e} weights; expected at most {MOST_WEIGHTS:.0e}: "
            f"lower its width, which is {reprlib.repr(width)}, or its depth"
        )

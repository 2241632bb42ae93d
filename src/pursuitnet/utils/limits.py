"""Limits on the size of a network: larger numbers are typing errors, refused before memory is allocated.

Imports no PyTorch.
"""

import reprlib

MOST = {"depth": 10_000, "width": 65_536, "unfolding": 10_000, "downsamples": 10}
"""The largest allowed value of each number."""

MOST_WEIGHTS = 10**10
"""The most weights of one network: 40 GB in float32."""


def check_number(what: str, value: int | None) -> None:
    """Raise ValueError if a number of a network is above its limit."""
    if value is not None and value > MOST.get(what, value):
        raise ValueError(f"{what} is {reprlib.repr(value)}; expected at most {MOST[what]:,}")


def check_depth(model: str) -> None:
    """Raise ValueError if the depth at the end of a network's name, such as 6 in msd_csc_6, is above its limit."""
    check_number("depth", depth_of(model))


def depth_of(model: str) -> int | None:
    """Return the depth at the end of a network's name, if it has one."""
    digits = model.rpartition("_")[2].lstrip("0")
    return int(digits[:100]) if digits.isdecimal() else None  # 100 digits are above the limit in any case


def check_weights(count: int, width: int) -> None:
    """Raise ValueError if a network would have too many weights.

    Args:
        count: about how many weights its dictionaries and its head would have.
        width: the width that they follow from.
    """
    if count > MOST_WEIGHTS:
        raise ValueError(
            f"the network would have about {min(count, 10**99):.1e} weights; expected at most {MOST_WEIGHTS:.0e}: "
            f"lower its width, which is {reprlib.repr(width)}, or its depth"
        )

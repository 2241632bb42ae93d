"""The handwritten digits that come with scikit-learn."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from pursuitnet.data.files import Split

CLASSES = tuple("0123456789")


def read(root: Path | None, split: str, fetch: bool = False) -> Split:
    """Return the 1,797 handwritten digits of scikit-learn, 8x8, 0..16 scaled to 0..255; every fifth is for testing.

    Source: Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI repository (1998).
    """
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ImportError(
            "digits are read from scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    digits = _once(load_digits)
    images = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(digits.target).to(torch.int64)
    chosen = (torch.arange(len(labels), device=labels.device) % 5 == 0) == (split == "test")
    return images[chosen], labels[chosen]


@cache  # scikit-learn reads them from text
def _once(read: Callable[[], Any]) -> Any:
    return read()

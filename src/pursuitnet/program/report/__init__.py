"""Self-contained pages: a run while it trains, a finished run and its layers, and a comparison of runs.

The functions are imported on first use: only the page of a finished run needs PyTorch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pursuitnet.program.report.compare import write_comparison
    from pursuitnet.program.report.images import write_images
    from pursuitnet.program.report.page import write
    from pursuitnet.program.report.progress import write_progress

_HOME = {"write": "page", "write_images": "images", "write_progress": "progress", "write_comparison": "compare"}
__all__ = ["write", "write_comparison", "write_images", "write_progress"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)

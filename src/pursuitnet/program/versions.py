"""What results depend on besides the recipe: versions, and the commit of the package."""

import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from pursuitnet.utils.version import __version__


def versions(*more: str) -> dict[str, str | None]:
    """Return the versions of the package, PyTorch, NumPy, Python and more packages, and the commit of the package."""
    return {
        "pursuitnet": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        **{name: metadata.version(name) for name in more},
        "python": sys.version.split()[0],
        "commit": commit(),
    }


@cache  # a process has loaded one package, whatever its checkout holds later
def commit() -> str | None:
    """Return the commit of the package's own checkout, with "+changes" where it has some; None outside of one."""
    here = Path(__file__)
    commands = (
        ["git", "ls-files", "--error-unmatch", here.name],  # a checkout may merely contain an installed package
        ["git", "rev-parse", "HEAD"],
        ["git", "status", "--porcelain", "--", ".."],
    )
    try:
        outputs = [
            subprocess.check_output(c, cwd=here.parent, stderr=subprocess.DEVNULL, errors="replace") for c in commands
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return outputs[1].strip() + ("+changes" if outputs[2].strip() else "")

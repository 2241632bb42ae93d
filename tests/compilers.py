"""PyTorch's own compiler, as users have it: it writes C++ and has it compiled, which takes its time."""

import os
import shutil

import pytest

COMPILER = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("g++", "clang++"))), None)


def real_compiler(test):
    """Mark a test that compiles with inductor."""
    for mark in (
        pytest.mark.slow,
        pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler"),
        pytest.mark.filterwarnings("default"),  # of the compiler's own insides
    ):
        test = mark(test)
    return test

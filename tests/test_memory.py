"""The program keeps the memory that tensors free, so that the next ones do not pay for its pages again."""

import resource
import sys

import pytest
from programs import finished

from pursuitnet.program.commands.apply import apply
from pursuitnet.utils.memory import keep_freed_memory

PROBE = """
import resource
from pursuitnet.utils.memory import keep_freed_memory
kept = keep_freed_memory()
for turn in range(10):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * 16_000_000 for _ in range(3)], b"x" * 64_000_000
    del blocks
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 8 * (3 * 16_000_000 + 64_000_000) // resource.getpagesize()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library is another one")
def test_freed_memory_is_used_again_without_new_pages_unless_the_user_says_otherwise():
    kept, faults = finished("-c", PROBE).stdout.split()
    assert kept == "True" and int(faults) < 0.1 * PAGES
    chosen = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    kept, faults = finished("-c", PROBE, env=chosen).stdout.split()
    assert kept == "False" and int(faults) > 0.9 * PAGES


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library is another one")
def test_only_large_blocks_are_returned_where_images_may_be_larger_than_memory():
    probe = PROBE.replace("kept = keep_freed_memory()", "kept = keep_freed_memory() and keep_freed_memory(large=False)")
    kept, faults = finished("-c", probe).stdout.split()
    assert kept == "True" and 0.9 < int(faults) / (PAGES * 64 / 112) < 1.15


@pytest.mark.parametrize(
    "environment",
    [
        {"MALLOC_MMAP_THRESHOLD_": "1"},
        {"MALLOC_MMAP_MAX_": "9"},
        {"GLIBC_TUNABLES": "glibc.malloc.check=1:glibc.pthread.rseq=0"},
    ],
)
def test_settings_of_the_user_stay(environment):
    assert not keep_freed_memory(environment)


def test_an_environment_that_is_none_is_refused():
    with pytest.raises(TypeError, match="environment is 3; expected a mapping"):
        keep_freed_memory(3)


def test_apply_bounds_its_memory_and_returns_large_blocks(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("pursuitnet.utils.memory.keep_freed_memory", lambda **options: calls.append(options))
    with pytest.raises(Exception, match="missing"):
        apply(tmp_path / "missing", [tmp_path / "image.png"], out=tmp_path / "out")
    assert calls == [{"large": False}]

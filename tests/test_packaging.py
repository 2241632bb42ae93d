"""What pyproject.toml promises, and where else it is said."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the repository, not the package")
TOOLS = ("dev", "docs")
"""Extras of those who work on the package, whose versions are no promise to its users."""


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def parts(version):
    """(3, 1) of 3.1 and of 3.1.0, which are the same."""
    return tuple(map(int, re.findall(r"\d+", re.sub(r"(\.0)+$", "", version))))


def versions(entries, sign):
    return {canonical(name): parts(v) for name, v in (entry.split(sign) for entry in entries if sign in entry)}


def pinned(name):
    return versions((ROOT / name).read_text(encoding="utf-8").splitlines(), "==")


def test_the_lowest_versions_that_are_tested_are_those_that_are_promised():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [entries for name, entries in project["optional-dependencies"].items() if name not in TOOLS]
    promised = versions(sum(extras, project["dependencies"]), ">=")
    tested = pinned("constraints-lowest.txt")
    assert {name: tested.get(name) for name in promised} == promised


def test_every_version_that_the_checks_run_with_is_one_that_is_promised():
    used, lowest = pinned("constraints.txt"), pinned("constraints-lowest.txt")
    assert not {name for name in used.keys() & lowest.keys() if used[name] < lowest[name]}

"""The Python examples of README and CONTRIBUTING run as they are printed."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_examples_run(page):
    text = (ROOT / page).read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert examples
    names: dict[str, object] = {"__name__": page}
    for example in examples:
        exec(compile(example, page, "exec"), names)


def test_readme_example_gives_the_shapes_it_prints():
    names: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0], names)
    assert [tuple(names[n].shape) for n in ("logits", "code", "restored")] == [(8, 10), (8, 19, 32, 32), (8, 3, 32, 32)]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_command_of_a_page_is_a_target(page):
    """As make itself sees it: without running anything, which a target that does not exist fails."""
    commands = set(re.findall(r"(?:^ {4}|`)make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE))
    assert "check" in commands
    for target in sorted(commands):
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_continuous_integration_runs_what_the_readme_says():
    text = (ROOT / "README.md").read_text()
    told = [
        re.search(pattern, text)[1] for pattern in (r"run all its tests:\n\n {4}(.+)\n", r"is built by `(make \w+)`")
    ]
    ran = [
        line for line in (ROOT / ".ci" / "run").read_text().splitlines() if not line.startswith(("#", "set ", "cd "))
    ]
    assert ran == told

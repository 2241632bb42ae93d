"""The Python examples of README, CONTRIBUTING and a page run as they are printed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/imaging.md"])
def test_examples_run(page):
    text = (ROOT / page).read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert examples
    names: dict[str, object] = {"__name__": page}
    for example in examples:
        exec(compile(example, page, "exec"), names)


def test_readme_has_its_example_within_the_first_forty_lines():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert "restored = layer.reconstruct" in "\n".join(lines[:40])


def test_readme_example_gives_the_shapes_it_prints():
    names: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0], names)
    assert [tuple(names[n].shape) for n in ("logits", "code", "restored")] == [(8, 10), (8, 19, 32, 32), (8, 3, 32, 32)]


def test_ci_runs_the_test_command_of_the_readme():
    command = "make check"
    assert f"\n    {command}\n" in (ROOT / "README.md").read_text()
    assert command in (ROOT / ".ci" / "run").read_text()

"""The documentation says what is so: its Python runs, its commands exist, every public name has its place."""

import ast
import doctest
import importlib
import operator
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import torch

import pursuitnet as pn
import pursuitnet.sklearn
from pursuitnet.program.cli import app

ROOT = Path(__file__).parents[1]
DOCS, SOURCE = ROOT / "docs", ROOT / "src"
pytestmark = pytest.mark.skipif(not (DOCS / "conf.py").is_file(), reason="needs the repository, not the package")

PAGES = [
    DOCS / "index.md",
    DOCS / "start.md",
    *sorted(p for part in ("guide", "coming-from") for p in (DOCS / part).glob("*.md")),
]
COMPARED = sorted((DOCS / "coming-from").glob("[!i]*.md"))
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
WITH_DOCTESTS = sorted(p for p in SOURCE.rglob("*.py") if ">>> " in p.read_text(encoding="utf-8"))
MOST_LINES = 60


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def here(page):
    """The code in the last column of every table of a page."""
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = re.split(r"(?<!\\)\|", line.strip().strip("|")) if line.startswith("|") else []
        yield from re.findall(r"`([^`]+)`", cells[-1]) if len(cells) > 1 else ()


def run(code, page, names):
    exec(compile(code, name_of(page), "exec"), names)


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in p.read_text(encoding="utf-8")], ids=name_of)
def test_the_python_of_a_page_runs_and_so_does_each_line_of_its_tables(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    first, *others = blocks(page, "python")
    run(first, page, names)
    if page in COMPARED:
        for code in here(page):
            if not code.startswith("pursuitnet "):
                run(code, page, names)
    for block in others:
        run(block, page, names)


def test_the_tables_of_other_libraries_have_lines_of_ours():
    assert {p.stem for p in COMPARED} == {"sporco", "scikit-learn", "sdnet", "msd", "timm"}
    for page in COMPARED:
        assert sum("pn." in code for code in here(page)) >= 5, page


def commands(page):
    """The lines of a page that call the program, in blocks and in the last column of tables."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()] + list(here(page))
    return [line for line in lines if line.startswith("pursuitnet ")]


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=name_of)
def test_the_commands_of_a_page_are_understood(page):
    for line in commands(page):
        words = shlex.split(line)[1:]
        command, bound, *_ = app.parse_args(words, exit_on_error=False, print_error=False)
        assert command.__name__ == words[0] and bound is not None, line


@pytest.mark.parametrize("path", WITH_DOCTESTS, ids=name_of)
def test_examples_in_docstrings(path):
    name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    failed, tried = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    assert tried and not failed


@pytest.mark.parametrize("name", ["solve", "PursuitLayer", "ConvDictionary", "create_model", "inspect", "Recipe"])
def test_the_main_names_have_an_example(name):
    assert ">>> " in getattr(pn, name).__doc__


@pytest.mark.parametrize("name", [n for n in pn.theory.__all__ if not isinstance(getattr(pn.theory, n), type)])
def test_every_function_of_the_theory_has_an_example(name):
    assert ">>> " in getattr(pn.theory, name).__doc__


PUBLIC = [n for n in pn.__all__ if n not in ("data", "theory")] + [
    f"{module.__name__.removeprefix('pursuitnet.')}.{name}"
    for module in (pn.theory, pn.data, pursuitnet.sklearn)
    for name in module.__all__
]


def documented():
    """The names that the reference documents, in full below the package."""
    for page in (DOCS / "reference").glob("*.md"):
        module = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if found := re.match(r"\.\. currentmodule:: (\S+)", line):
                module = found[1] + "."
            elif found := re.match(r"\.\. (?:auto\w+|data):: ([\w.]+)", line):
                name = found[1] if found[1].startswith("pursuitnet.") else module + found[1]
                yield name.removeprefix("pursuitnet.")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_in_the_reference(name):
    assert name in set(documented())


def test_what_the_reference_names_exists():
    for name in documented():
        pkgutil.resolve_name(f"pursuitnet.{name}")


def test_the_numbers_of_the_white_box_are_called_as_its_guide_says():
    told = re.findall(r"^\| (`[^|]+`) \|", (DOCS / "guide" / "white-box.md").read_text(encoding="utf-8"), re.MULTILINE)
    names = re.findall(r"`([\w.]+)`", " ".join(told))
    assert len(names) >= 10
    layer = pn.inspect(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU()), torch.rand(2, 1, 5, 5)).layers[0]
    for name in names:
        operator.attrgetter(name)(layer)


def test_the_gallery_is_large_and_its_scripts_are_short():
    assert len(EXAMPLES) >= 12
    for path in EXAMPLES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < MOST_LINES, path
        assert "plt.show()" in text and ast.get_docstring(ast.parse(text)), path
        for block in text.split("# %%"):  # the gallery takes a figure as it is at the end of a block
            assert block.count("plt.subplots(") == block.count("plt.show()"), path


RESULTS = sorted(p for p in DOCS.glob("*.md") if p.stem not in ("index", "start", "glossary", "models", "releasing"))


@pytest.mark.parametrize("page", RESULTS, ids=name_of)
def test_a_page_of_results_has_a_guide(page):
    """It is named, with how to read it, on the page of the paper, and links to a guide itself."""
    listed = (DOCS / "paper" / "index.md").read_text(encoding="utf-8").partition("how to read them")[2]
    assert f"(../{page.name}):" in listed
    assert re.search(r"\]\((guide|paper)/[\w-]+\.md", page.read_text(encoding="utf-8"))


def test_the_integration_builds_what_contributing_says():
    told = " ".join((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    assert "integration runs `make docs`," in told
    assert "\nmake docs\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_glossary_has_forty_terms_at_most_each_once():
    rows = re.findall(r"^\| (.+?) \|", (DOCS / "glossary.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    terms = [term for row in rows for term in row.split(", ")]
    assert 30 < len(rows) <= 40 and len(set(terms)) == len(terms)

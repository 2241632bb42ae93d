"""The folder listing states the thesis: the core knows nothing of the program, and no module imports in a circle."""

import ast
import builtins
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

import pursuitnet
from pursuitnet.program.run_folder import RunFolder

ROOT = Path(pursuitnet.__file__).parent
CORE = (
    "starts",
    "utils",
    "dictionaries",
    "prox",
    "iterations",
    "layer",
    "multilayer",
    "networks",
    "problems",
    "theory",
)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree_of(path)))


def imported(tree: ast.AST) -> Iterator[str]:
    """What a module imports when it is loaded: not inside functions, and not for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:  # a name, or a module of that package
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module
        else:
            yield from imported(node)


def loaded(name: str, path: Path) -> Iterator[str]:
    """What is loaded with a module: what it imports, and the packages that those lie in, unless it lies in them too."""
    for other in imported(tree_of(path)):
        parts = other.split(".")
        for depth in range(2, len(parts) + 1):
            place = ".".join(parts[:depth])
            if place in MODULES and not f"{name}.".startswith(f"{place}."):
                yield place


def graph() -> dict[str, set[str]]:
    return {name: set(loaded(name, path)) for name, path in MODULES.items()}


def everywhere(path: Path) -> set[str]:
    """Every module of the package that a file names in an import, wherever it stands."""
    nodes = nodes_of(path)
    return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def test_the_listing_is_short_and_begins_with_the_three_factors():
    entries = {path.name for path in ROOT.iterdir() if path.name != "__pycache__"}
    assert len(entries) <= 15
    assert {"starts.py", "dictionaries", "iterations", "prox", "layer.py", "multilayer.py", "networks"} <= entries


@pytest.mark.parametrize("part", [*CORE, "data"])
def test_the_core_knows_nothing_of_the_program(part):
    for name, path in MODULES.items():
        if name.split(".")[1:2] == [part]:
            assert not [other for other in everywhere(path) if other.startswith("pursuitnet.program")], name


def test_no_module_imports_in_a_circle():
    done, edges = set[str](), graph()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " → ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in sorted(edges[name] - {name}):
                visit(other, (*above, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def texts(path: Path) -> Iterator[str]:
    """Every string in a module's code: docstrings, and those that stand alone below a name, are not code."""
    alone = {id(node.value) for node in nodes_of(path) if isinstance(node, ast.Expr)}
    for node in nodes_of(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value


def test_the_errors_and_warnings_that_docstrings_name_exist():
    sources = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}
    nodes = [node for path in MODULES.values() for node in nodes_of(path)]
    known = {node.id for node in nodes if isinstance(node, ast.Name)} | set(dir(builtins)) | set(dir(torch.nn))
    known |= {node.name for node in nodes if isinstance(node, ast.ClassDef | ast.alias)}
    known |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    for name, source in sources.items():
        gone = set(re.findall(r"\b[A-Z]\w+(?:Error|Warning|Norm)\b", source)) - known
        assert not gone, f"{name} speaks of {', '.join(sorted(gone))}, which does not exist"


def test_the_files_of_a_run_have_one_owner():
    owner = "pursuitnet.program.run_folder"
    files = {path.name for path in vars(RunFolder("run")).values() if path.suffix}
    assert {"recipe.json", "metrics.jsonl", "model.safetensors", "report.html"} <= files
    name = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, sorted(files)))})(?![\w.]\w)")
    found = {module: named for module, path in MODULES.items() if (named := name.findall(" ".join(texts(path))))}
    assert files == set(found.pop(owner, ()))
    assert not found, "only run_folder.py names the files of a run; take them from RunFolder"


def test_shapes_are_not_compared_by_a_function_that_imports_sympy():
    """torch.broadcast_shapes does, which takes a third of a second and 36 MB; NumPy's has the same rule."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
    used = [name for name, text in texts.items() if "torch.broadcast_shapes(" in text]
    assert not used


def test_output_is_written_whole_in_one_place():
    for name, path in MODULES.items():
        if name.startswith("pursuitnet.program.") and name != "pursuitnet.program.writable":
            called = {node.attr for node in nodes_of(path) if isinstance(node, ast.Attribute)}
            assert not called & {"write_text", "write_bytes"}, f"{name}: writable.write_whole leaves no half a file"


def test_the_public_names_are_the_same_to_type_checkers_and_at_run_time():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    checked = {alias.name: node.module for node in imports for alias in node.names}
    loaded = {name: f"pursuitnet.{home}" for name, home in pursuitnet._HOME.items()}
    assert checked == {**loaded, **dict.fromkeys(pursuitnet._MODULES, "pursuitnet")}

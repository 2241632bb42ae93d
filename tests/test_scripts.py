"""The scripts in experiments/ and benchmarks/: each answers --help at once, and its page is what it prints."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from programs import LoadedPython, finished

from pursuitnet.program.apply.files import Settings, apply_to_files

ROOT = Path(__file__).parents[1]
FOLDERS = [ROOT / "experiments", ROOT / "benchmarks"]
pytestmark = pytest.mark.skipif(not all(f.is_dir() for f in FOLDERS), reason="needs the repository, not the package")
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in folder.glob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)


def loaded(path, monkeypatch):
    """A script as a module, without running it."""
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files():
    """What is there, with size and time: --help must not touch any of it."""
    kept = [ROOT / "docs", *FOLDERS]
    return {p: p.stat().st_mtime_ns for f in kept for p in f.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


HELP = """
import contextlib, io, json, runpy, sys
told = {}
for script in sys.argv[1:]:
    sys.argv, text = [script, "--help"], io.StringIO()
    sys.path.insert(0, script.rpartition("/")[0])
    try:
        with contextlib.redirect_stdout(text):
            runpy.run_path(script, run_name="__main__")
        code = "went on"
    except SystemExit as end:
        code = end.code
    told[script] = code, text.getvalue()
print(json.dumps(told))
"""
"""Asks one script after the other, in one process that imports PyTorch once."""


def test_every_script_answers_help_and_writes_nothing(tmp_path):
    before = files()
    paths = [str(ROOT / script) for script in SCRIPTS]
    done = finished("-c", HELP, *paths, cwd=tmp_path, kind=LoadedPython)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told) >= 10 and set(told) == set(paths)
    for script, (code, text) in told.items():
        assert code == 0 and text.startswith("usage: "), (script, code, text[:200])
    assert files() == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_writes_where_it_is_told(script):
    """A script that writes takes --out."""
    text = (ROOT / script).read_text()
    if "write_text(" in text or "savefig(" in text:
        assert '"--out"' in text or "add_out(" in text


def test_results_of_benchmarks_are_kept_each_and_the_newest_is_shown(tmp_path, monkeypatch):
    records = loaded(ROOT / "benchmarks" / "records.py", monkeypatch)
    with pytest.raises(FileNotFoundError, match="run the benchmark with --record"):
        records.newest("x", tmp_path)
    one = {**records.about("cpu"), "machine": "Some (R) CPU @ 2.00GHz", "commit": "0" * 40 + "+changes", "found": 1}
    later = {**one, "time": "2031-01-01T00:00:00+00:00", "machine": "another", "found": 3}
    paths = [records.keep("x", result, tmp_path) for result in (later, one, {**one, "found": 2})]
    assert [json.loads(path.read_text())["found"] for path in paths] == [3, 1, 2] and len(set(paths)) == 3
    assert paths[0].name == "20310101T000000-another-000000000000.json"
    assert paths[2].stem == f"{paths[1].stem}-2" and "-some-r-cpu-2-00ghz-" in paths[1].name
    assert records.newest("x", tmp_path) == later


def test_every_result_of_a_benchmark_says_when_where_and_of_what_it_is():
    paths = sorted((ROOT / "benchmarks" / "results").rglob("*.json"))
    assert {path.parent.name for path in paths} >= {"networks", "growth", "gpu", "sparse_coding"}
    for path in paths:
        result = json.loads(path.read_text())
        assert {"time", "machine", "torch", "commit"} <= set(result), path
        assert path.name.startswith(result["time"][:19].replace("-", "").replace(":", "")), path


def test_solve_on_a_device_is_cut_to_time_and_kept_as_it_comes(monkeypatch, tmp_path):
    gpu, out = loaded(ROOT / "benchmarks" / "gpu.py", monkeypatch), tmp_path / "gpu.json"
    arguments = ["--device", "cpu", "--part", "solve", "--size", "16", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments, "--tol", "0.05"])
    gpu.main()
    for found in json.loads(out.read_text())["solve"].values():
        assert found["cpu"]["converged"] and found["cpu"]["gap"] <= 0.05 and found["cpu"]["seconds"] > 0
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments, "--tol", "1e-9", "--limit", "0"])
    gpu.main()
    for found in json.loads(out.read_text())["solve"].values():
        assert found["cpu"]["steps"] <= gpu.PACE and not found["cpu"]["converged"] and found["cpu"]["gap"] > 1e-9
    so_far = gpu.solve("cpu", 16, 0.05, 1.0)
    assert not next(so_far)["FISTA"]  # which comes later


def test_losses_beside_another_library_are_in_the_units_of_the_targets(monkeypatch, tmp_path):
    pairs, folder = loaded(ROOT / "experiments" / "msd_pairs.py", monkeypatch), tmp_path / "pairs"
    made = [(image, 3 * target - 1) for image, target in pairs.shapes(32, 4, np.random.default_rng(0))]
    for part, some in (("train", made[:3]), ("test", made[3:])):
        pairs.write(some, folder / part)
    arguments = argparse.Namespace(depth=2, epochs=1, lr=0.02, seed=0, unfolding=1, plain=False)
    (epoch,) = pairs.train_pursuitnet("msdnet", folder, arguments)
    np.save(tmp_path / "image.npy", made[3][0])
    list(
        apply_to_files(tmp_path / "pursuitnet-msdnet-1-epochs", [tmp_path / "image.npy"], tmp_path / "out", Settings())
    )
    result = np.load(tmp_path / "out" / "image.npy")
    assert epoch.loss == pytest.approx(float(np.mean((result - made[3][1]) ** 2)), rel=1e-5)


def told_by_depth(module):
    return module.table(json.loads(module.RECORD.read_text())["results"])


def told_by_stacks(module):
    return module.table(json.loads(module.RECORD.read_text()))


def told_by_reduced_pursuit(module):
    return module.table(json.loads(module.RECORD.read_text()))


def told_by_reduced_network(module):
    return module.table(json.loads(module.RESULTS.read_text()))


def told_by_networks(module):
    rows = module.records.newest("networks")["rows"]
    return "\n".join([*module.HEADER.splitlines(), *map(module.line, rows)])


def told_by_sparse_coding(module):
    return module.table(module.records.newest("sparse_coding")["curves"]).partition("\n\n")[0]


def told_by_solvers_grid(module):
    return module.table(list(module.records.newest("solvers_grid")["cells"].values()))


PAGES = {
    "experiments/depth.py": ("depth.md", told_by_depth),
    "experiments/reduced_pursuit.py": ("solving.md", told_by_reduced_pursuit),
    "experiments/reduced_network.py": ("speed.md", told_by_reduced_network),
    "experiments/stacks.py": ("trainability.md", told_by_stacks),
    "experiments/read_networks.py": (
        "guide/white-box.md",
        lambda module: module.table(json.loads(module.RECORD.read_text())),
    ),
    "experiments/msd_pairs.py": (
        "guide/imaging.md",
        lambda module: module.table(json.loads(module.RECORD.read_text())),
    ),
    "experiments/learned_dictionaries.py": (
        "guide/learning.md",
        lambda module: module.table(json.loads(module.RECORD.read_text())),
    ),
    "experiments/segment.py": ("guide/imaging.md", lambda module: module.table(json.loads(module.RECORD.read_text()))),
    "experiments/trainability.py": ("trainability.md", lambda module: module.table()),
    "benchmarks/networks.py": ("speed.md", told_by_networks),
    "benchmarks/sparse_coding.py": ("solving.md", told_by_sparse_coding),
    "benchmarks/solvers_grid.py": ("solving.md", told_by_solvers_grid),
}


@pytest.mark.parametrize("script", PAGES)
def test_a_page_holds_the_table_that_its_script_prints(script, monkeypatch):
    page, told = PAGES[script]
    lines = set((ROOT / "docs" / page).read_text().splitlines())
    table = told(loaded(ROOT / script, monkeypatch)).splitlines()
    assert len(table) > 3
    missing = [line for line in table if line not in lines]
    assert not missing, missing

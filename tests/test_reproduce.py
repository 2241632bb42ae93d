"""Tables from a ledger: cells, keys, records, plans, and runs that survive crashes, budgets and killed workers."""

import importlib.util
import io
import json
import os
import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from threading import Event

import pytest
import torch
from programs import start_loaded
from rich.console import Console

import pursuitnet as pn
from pursuitnet.program import cli, reproduce, train
from pursuitnet.program.lock import is_locked, run_lock
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.reproduce import cells, figures, jobs, ledger, plan, program, tables, throughput
from pursuitnet.program.reproduce.cells import Cell
from pursuitnet.program.runs import running

TINY = Recipe(model="msd_csc_3", width=2, epochs=2, train_images=64, test_images=40, batch_size=32, device="cpu")
CELLS = (
    Cell("MSD-CSC, ISTA", 3, replace(TINY, unfolding=1), 50.0),
    Cell("MSD-CSC, ISTA", 3, replace(TINY, unfolding=2), None),
)
MEASURED = {"train_loss": 1.0, "test_accuracy": 0.5, "seconds": 9.0, "images_per_second": 123.0}
WHOLE = {
    "epochs": [{**MEASURED, "epoch": 1}, {**MEASURED, "epoch": 2}],
    "parameters": 12_345,
    "flops_per_image": 2_000_000,
    "machine": "abacus",
}
TIMES = ("seconds", "images_per_second", "data", "forward", "backward", "optimizer", "peak_memory_mb")


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Two tiny cells on the digits, in the place of Table III."""
    monkeypatch.setitem(cells.TABLES, "table3", lambda: CELLS)
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # as many as here
    start_loaded(monkeypatch, jobs)
    return reproduce.Options("table3", device="cpu", ledger=tmp_path / "ledger", runs=tmp_path / "runs")


def job_of(run, options, deadline=None):
    return jobs.Job(run.recipe, run.key, str(options.ledger), str(options.runs), deadline)


def curves(entry):
    return [{name: value for name, value in epoch.items() if name not in TIMES} for epoch in entry["epochs"]]


@pytest.fixture(scope="module")
def assert_same_as_uninterrupted(tmp_path_factory):
    """Compare the ledger's only run with the same one that nothing came in between of, trained once for all tests."""
    known = {}

    def compare(options, run):
        if run.key not in known:
            folder = tmp_path_factory.mktemp("whole")
            jobs.run_job(jobs.Job(run.recipe, run.key, str(folder / "ledger"), str(folder / "runs")))
            (known[run.key],) = ledger.Ledger(folder / "ledger").entries()
        (entry,) = ledger.Ledger(options.ledger).entries()
        assert curves(entry) == curves(known[run.key])

    return compare


# cells


def test_the_tables_have_the_papers_cells():
    assert len(cells.table2()) == 4 * 6 * 3 and len(cells.table3()) == 16 * 3
    paper = {(c.method, c.layers, c.unfolding, c.recipe.data): c.paper for c in (*cells.table2(), *cells.table3())}
    assert paper["Res-CSC", 110, 0, "cifar100"] == 73.13 and paper["plain", 218, 0, "svhn"] is None
    assert paper["MSD-CSC, FISTA", 12, 2, "svhn"] == 96.35 and paper["feed-forward", 6, 0, "cifar10"] == 82.16
    assert len({ledger.key(c.recipe, "x") for c in (*cells.table2(), *cells.table3())}) == 72 + 48
    for cell in cells.table2():
        assert (cell.recipe.epochs, cell.recipe.lr, cell.recipe.warmup) == (200, 0.1, float(cell.layers >= 110))
    assert {(c.recipe.epochs, c.recipe.lr) for c in cells.table3()} == {(150, 0.05)}


def test_the_ablation_changes_one_choice_at_a_time_and_every_network_of_it_exists():
    for cell in cells.ablation():
        model = pn.create_model(cell.recipe.model, **{**cell.recipe.choices(), "width": 2})
        assert model(torch.rand(2, 3, 9, 9)).shape == (2, 10)
        first = next(c for c in cells.ablation() if c.recipe.model == cell.recipe.model)
        assert len(cell.recipe.differs(first.recipe)) <= 2
    assert len({str(ledger.identity(c.recipe)) for c in cells.ablation()}) == len(cells.ablation())


def test_the_table_of_precision_trains_each_network_in_both_formats_and_changes_nothing_else():
    medium = cells.cells_of("precision", "medium")
    assert [(c.recipe.model, c.recipe.precision) for c in medium] == [
        (model, number_format) for model in ("resnet_20", "msd_csc_6") for number_format in ("float32", "bfloat16")
    ]
    assert medium[0].recipe.differs(medium[1].recipe) == medium[2].recipe.differs(medium[3].recipe) == ["precision"]
    assert {c.seeds for c in medium} == {5} and {c.recipe.epochs for c in medium} == {4}


def test_the_figures_are_parts_of_the_tables():
    assert set(cells.fig7()) < set(cells.table2()) and set(cells.fig8()) < set(cells.table3())
    at = {(c.method, c.layers) for c in cells.fig7()}
    assert {("plain", 20), ("plain", 56), ("ResNet", 218), ("Res-CSC", 32)} <= at and ("ResNet", 20) not in at


def test_the_small_scale_is_on_cifar10_alone_and_beside_no_number_of_the_paper():
    small = cells.cells_of("table2", "small")
    assert len(small) == 24 and {c.paper for c in small} == {None}
    assert {c.recipe.train_images for c in small} == {cells.SCALES["small"]["train_images"]}
    assert not {ledger.key(c.recipe, "x") for c in small} & {ledger.key(c.recipe, "x") for c in cells.table2()}


def test_the_medium_scale_is_one_short_cycle_on_all_of_cifar10():
    medium = cells.cells_of("tables", "medium")
    assert {(c.recipe.epochs, c.recipe.lr, c.recipe.schedule, c.recipe.padding_mode) for c in medium} == {
        (4, 0.2, "onecycle", "reflect")
    }
    assert {(c.recipe.train_images, c.recipe.test_images, c.paper) for c in medium} == {(None, None, None)}
    assert {(c.recipe.model, c.recipe.solver, c.unfolding): c.seeds for c in medium} == {
        **{(name, None, 0): 5 for name in ("plain_20", "res_csc_simplified_20", "resnet_20", "res_csc_20")},
        **{(name, None, 0): 3 for name in ("plain_56", "resnet_56", "res_csc_56")},
        **{(name, None, 0): 5 for name in ("feed_forward", "msdnet_6")},
        **{(name, *how): 5 for name in ("ml_csc", "msd_csc_6") for how in (("ista", 1), ("ista", 2), ("fista", 2))},
    }


def test_shallow_networks_come_first_and_every_cell_has_its_own_number_of_runs():
    deep, shallow = (
        Cell("ResNet", layers, replace(TINY, model=f"resnet_{layers}"), None, seeds)
        for layers, seeds in ((56, 2), (20, 3))
    )
    order = [(run.cell.layers, run.recipe.seed) for run in plan.planned_runs([deep, shallow], None, None)]
    assert order == [(20, 0), (20, 1), (20, 2), (56, 0), (56, 1)]
    assert len(plan.planned_runs([deep, shallow], 1, None)) == 2


# the ledger


def test_a_changed_recipe_or_data_set_has_another_key_and_another_machine_has_not():
    changed = {
        "data": "svhn", "val_images": 1, "train_images": 3, "test_images": 3, "shift": 1, "flip": True,
        "padding_mode": "reflect", "normalize": True, "model": "msd_csc_6", "unfolding": 1, "solver": "ista",
        "sweep": "layer", "norm": "none", "step": "free", "identity": "same", "width": 3, "epochs": 3,
        "batch_size": 3, "lr": 1.0, "momentum": 0.1, "nesterov": False, "weight_decay": 1.0, "decay_all": True,
        "label_smoothing": 0.1, "schedule": "steps", "milestones": (0.1,), "warmup": 0.0, "seed": 1,
        "precision": "float16", "sync_norm": True, "penalty": "free", "dilations": "block",
        "balance": "sampler", "class_weights": (1.0, 2.0), "init": "run", "freeze_backbone": True,
        "margin": 0.5, "temperature": 2.0, "unit_norm": True, "corner": "res_csc", "boundary": "reflect",
        "init_dictionary": "atoms", "downsamples": 2,
    }  # fmt: skip
    of_folders = {"image_size", "skip_broken", "white_level"}
    of_images = {"task", "sigma", "patch", "optimizer"}
    assert set(changed) | set(ledger.MACHINE_FIELDS) | of_folders | of_images == {f.name for f in fields(Recipe)}
    keys = [ledger.key(replace(TINY, **{name: value}), "x") for name, value in changed.items()]
    assert len({*keys, ledger.key(TINY, "x"), ledger.key(TINY, "y")}) == len(keys) + 2
    assert ledger.key(replace(TINY, device="cuda", data_dir=Path("here"), compile=True), "x") == ledger.key(TINY, "x")


def test_a_record_is_written_once_and_whole(tmp_path, monkeypatch):
    book = ledger.Ledger(tmp_path)
    name = ledger.key(TINY, "x")

    def killed(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", killed)
        with pytest.raises(KeyboardInterrupt):
            book.add(name, {**WHOLE, "recipe": TINY.to_json(), "data": "x"})
    assert name not in book and not list(tmp_path.glob("*.json"))
    assert book.add(name, {**WHOLE, "recipe": TINY.to_json(), "data": "x", "who": 1})
    assert not book.add(name, {**WHOLE, "recipe": TINY.to_json(), "data": "x", "who": 2})
    assert [entry["who"] for entry in book.entries()] == [1] and os.listdir(tmp_path) == [f"{name}.json"]


def test_a_damaged_or_misnamed_record_is_named(tmp_path):
    book, name = ledger.Ledger(tmp_path), ledger.key(TINY, "x")
    book.add(name, {**WHOLE, "recipe": TINY.to_json(), "data": "x"})
    text = book.path(name).read_text()
    for content, message in (
        (text[:-20], "is damaged"),
        (text.replace('"epochs": 2', '"epochs": 3'), "another run than its name says"),
        (text.replace('"machine": "abacus"', '"machine": true'), "is damaged.*machine is True"),
        (text.replace('"train_loss": 1.0', '"train_loss": "low"'), "is damaged.*train_loss is 'low'"),
        (text.replace('"epoch": 2', '"epoch": 7'), "is damaged.*epochs are 1, 7"),
        ("[" * 100_000, "is damaged.*nested too deeply"),
        (text.replace('"data": "x"', '"data": "y"'), "another run than its name says"),
    ):
        book.path(name).write_text(content)
        with pytest.raises(ValueError, match=rf"{name}\.json.*{message}"):
            list(book.entries())


# plans


@pytest.mark.parametrize(
    ("expressions", "count"),
    [
        ([], 48),
        (["cifar10"], 16),
        (["msd_csc_12, cifar10, unfolding=2"], 2),
        (["msd_csc, solver=fista"], 9),
        (["ml_csc, svhn", "msdnet_6,svhn"], 4),
        (["unfolding=none, cifar100"], 4),
    ],
)
def test_an_expression_chooses_cells(expressions, count):
    assert len(plan.filter_cells(cells.table3(), expressions)) == count


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("msd_csc_13", "there are cifar10, cifar100, feed_forward, ml_csc, msd_csc_12"),
        ("unfolding=7", "there are 1, 2, none"),
        ("unfoldings=2", "did you mean unfolding?"),
        ("zzz=2", "no recipe has it"),
        ("msdnet_6, unfolding=2", "no cell matches 'msdnet_6, unfolding=2'"),
    ],
)
def test_a_bad_expression_lists_what_exists(expression, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        plan.filter_cells(cells.table3(), [expression])
    assert message in str(caught.value)


def test_a_plan_takes_the_first_seed_of_all_cells_first_and_leaves_out_what_is_done(options):
    options = replace(options, seeds=2)
    todo = reproduce.missing(options)
    assert [(r.recipe.unfolding, r.recipe.seed) for r in todo] == [(1, 0), (2, 0), (1, 1), (2, 1)]
    book = ledger.Ledger(options.ledger)
    book.add(todo[1].key, entry_of(todo[1].cell, 0, 0.5, ledger.checksum("digits", None)))
    assert reproduce.missing(options) == [todo[0], todo[2], todo[3]]
    lines = list(program.plan_lines(options, todo, whole=True))
    assert lines[0] == "table3: 2 cells, 4 runs, 4 of them missing" and len(lines) == 6


def test_the_estimate_uses_the_speed_that_the_ledger_knows(options):
    run = reproduce.missing(options)[0]
    entry = {"recipe": run.recipe.to_json(), "machine": "m", "epochs": [{"images_per_second": 10.0}]}
    assert plan.hours([run], [entry], "m") == pytest.approx(2 * (64 + 40 / 3) / 10 / 3600)
    assert 0 < plan.hours([run], [entry], "other") < 1


def test_a_budget_has_a_unit():
    assert [program.seconds_of(t) for t in ("25min", "1.5h", "90 s", "1d")] == [1500, 5400, 90, 86_400]
    for wrong in ("25", "x", "1 week"):
        with pytest.raises(ValueError, match="such as 25min"):
            program.seconds_of(wrong)


# runs


def test_runs_end_in_the_ledger_and_are_never_repeated(options, capsys):
    folder, said = options.ledger.parent / "out", []
    assert program.program(options, folder, said.append, at_once=2) == 0
    assert said[0] == "table3: 2 cells, 2 runs, 2 of them missing"
    entries = list(ledger.Ledger(options.ledger).entries())
    assert len(entries) == 2
    for entry in entries:
        assert entry["data"] == ledger.checksum("digits", None) and len(entry["epochs"]) == 2
        assert {"parameters", "flops_per_image", "commit", "torch", "device", "machine"} <= entry.keys()
        assert entry["recipe"]["data_dir"] is None
        assert {entry["precision"], *(epoch["precision"] for epoch in entry["epochs"])} == {"float32"}
    written = {path: path.stat().st_mtime_ns for path in options.ledger.iterdir()}
    assert program.program(options, folder, said.append) == 0
    assert written == {path: path.stat().st_mtime_ns for path in options.ledger.iterdir()}
    accuracy = 100 * entries[0]["epochs"][-1]["test_accuracy"]
    assert f"| 1 | {accuracy:.2f} |" in (folder / "table3.md").read_text()


def test_one_run_that_fails_loses_that_run_alone(options, monkeypatch):
    monkeypatch.setitem(
        cells.TABLES, "table3", lambda: (Cell("broken", 3, replace(TINY, width=60_000), None), CELLS[0])
    )
    ends = []
    failed = reproduce.run_missing(
        options, reproduce.missing(options), lambda run, end: ends.append((run.cell.method, end))
    )
    assert failed == 1
    (error,) = [end for method, end in ends if method == "broken"]
    assert isinstance(error, RuntimeError) and "expected at most 1e+10: lower its width" in str(error)
    assert len(list(ledger.Ledger(options.ledger).entries())) == 1


def test_a_run_whose_loss_stops_being_a_number_is_recorded_as_that_and_not_repeated(options, monkeypatch):
    broken = Cell("broken", 3, replace(TINY, lr=1e9, norm="none", step="free", epochs=20), None)
    monkeypatch.setitem(cells.TABLES, "table3", lambda: (broken,))
    ends = []
    assert reproduce.run_missing(options, reproduce.missing(options), lambda run, end: ends.append(end)) == 0
    (entry,) = ledger.Ledger(options.ledger).entries()
    assert "the loss is" in entry["diverged"] and str(options.runs) not in entry["diverged"] and entry["seconds"] >= 0
    assert entry["precision"] == "float32"
    assert ends == [entry["key"]] and reproduce.missing(options) == []
    (row,) = tables.cell_results(options.cells(), [entry])
    assert row.summary == "1 of 1 diverged" and row.accuracies == []
    assert "| 1 | 1 of 1 diverged | – | – |" in tables.markdown([row])
    assert tables.numbers([row])[0]["diverged"] == 1
    assert reproduce.hours(options, reproduce.missing(replace(options, seeds=2))) > 0


HELD = """
import signal, time
from pathlib import Path
from pursuitnet.program import callbacks

def on_epoch_end(self, record):
    mark = Path({mark!r})
    if not mark.exists():
        mark.touch()
        while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # until it has been asked to stop
            time.sleep(0.01)

callbacks.NoOpCallback.on_epoch_end = on_epoch_end
"""


@pytest.fixture
def held_up(tmp_path, monkeypatch):
    """Let the first run in a process of its own wait after its first epoch to be stopped; the file that says it does.

    So a test is told where the run stands and hangs on no clock.
    """
    folder, mark = tmp_path / "held", tmp_path / "held" / "mark"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HELD.format(mark=str(mark)))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    return mark


def test_what_is_cut_off_by_the_budget_goes_on_and_ends_the_same(
    options, monkeypatch, held_up, assert_same_as_uninterrupted
):
    run, ends = reproduce.missing(options)[0], []
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "_stop_reason", lambda job, stop: "the time is up" if held_up.exists() else "")
        assert reproduce.run_missing(options, [run], lambda run, end: ends.append(end), seconds=1e6) == 1
    assert isinstance(ends[0], TimeoutError) and not list(ledger.Ledger(options.ledger).entries())
    assert len((options.runs / run.key / "metrics.jsonl").read_text().splitlines()) == 1
    with pytest.raises(TimeoutError, match="not started"):
        jobs.run_in_subprocess(job_of(run, options, deadline=time.time() - 1))
    assert jobs.run_job(job_of(run, options, deadline=time.time() + 1e6)) == run.key
    assert_same_as_uninterrupted(options, run)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupt_ends_the_processes_and_what_they_did_goes_on(
    options, held_up, number, assert_same_as_uninterrupted
):
    run, other = reproduce.missing(options)
    over = Event()

    def interrupt():
        while not held_up.exists() and not over.is_set():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        stack.callback(over.set)
        # as at a terminal; what is started in the background of a shell ignores it
        stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
        pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            program.program(options, options.ledger.parent / "out", lambda line: None)
    assert not list(ledger.Ledger(options.ledger).entries()) and not (options.runs / other.key).exists()
    assert len((options.runs / run.key / "metrics.jsonl").read_text().splitlines()) == 1
    assert not is_locked(options.runs / run.key)
    assert jobs.run_job(job_of(run, options)) == run.key
    assert_same_as_uninterrupted(options, run)


@pytest.mark.slow
def test_two_processes_never_do_one_run(options):
    run = reproduce.missing(options)[0]
    job = job_of(run, options)
    with ThreadPoolExecutor(2) as pool:
        ends = [future.exception() for future in [pool.submit(jobs.run_in_subprocess, job) for _ in range(2)]]
    taken = [end for end in ends if end is not None]
    assert len(taken) <= 1 and all("LockedError" in str(end) for end in taken)
    assert len(list(ledger.Ledger(options.ledger).entries())) == 1


def test_a_run_that_was_cut_off_before_its_first_checkpoint_begins_anew(options, assert_same_as_uninterrupted):
    """As a kill or a full disk leaves it: in every call after that the run would fail otherwise."""
    run = reproduce.missing(options)[0]
    folder = options.runs / run.key
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(run.recipe.to_json()))
    (folder / "checkpoint.pt.new").write_bytes(b"pursuitnet check")
    assert jobs.run_job(job_of(run, options)) == run.key
    assert_same_as_uninterrupted(options, run)


def test_a_run_of_which_only_the_checkpoint_before_is_left_goes_on(options, assert_same_as_uninterrupted):
    run = reproduce.missing(options)[0]
    folder = options.runs / run.key
    with pytest.raises(KeyboardInterrupt):
        train.train(run.recipe, folder, Cut())
    (folder / "checkpoint.pt").replace(folder / "checkpoint.previous.pt")  # killed between two moves
    assert jobs.run_job(job_of(run, options)) == run.key
    assert_same_as_uninterrupted(options, run)


class Cut(train.NoOpCallback):
    def on_epoch_end(self, record):
        raise KeyboardInterrupt


def test_a_retry_waits_for_the_lock_of_a_lost_worker_and_does_not_run_what_is_done(options, monkeypatch):
    run, waited = reproduce.missing(options)[0], []

    @contextmanager
    def run_lock(folder, wait):
        waited.append(wait)
        ledger.Ledger(options.ledger).add(run.key, {})  # by whoever had it
        yield

    monkeypatch.setattr(jobs, "run_lock", run_lock)
    assert jobs.run_job(job_of(run, options)) == run.key
    assert waited == [jobs.RETRY_TIMEOUT] and waited[0] >= 90 and not (options.runs / run.key).exists()


def test_the_number_of_runs_at_once_grows_while_it_pays(monkeypatch):
    said, rates = [], {1: 100.0, 2: 180.0, 4: 190.0, 8: 1000.0}
    monkeypatch.setattr(throughput, "throughput", lambda recipe, number, seconds: rates[number])
    assert throughput.best_number(TINY, 16, said.append) == 2
    assert said == ["1 run: 100 images/s", "2 runs at once: 180 images/s", "4 runs at once: 190 images/s"]
    assert throughput.best_number(TINY, 1, said.append) == 1
    rates[4] = 350.0
    assert throughput.best_number(TINY, 15, said.append) == 8


@pytest.mark.slow
def test_runs_at_once_are_measured_by_training_them(options, monkeypatch, capsys):
    assert throughput.throughput(TINY, 2, 0.05) > 0
    with pytest.raises(RuntimeError, match=r"FileNotFoundError: .*train_32x32.mat is missing"):
        throughput.throughput(replace(TINY, data="svhn", data_dir=options.runs), 1, 0.05)


@pytest.mark.slow
def test_jobs_auto_measures_before_it_runs_what_is_missing(options, monkeypatch, capsys):
    monkeypatch.setattr(program, "best_number", partial(throughput.best_number, seconds=0.05))
    monkeypatch.setattr(program, "available", lambda: 1)
    monkeypatch.setitem(cells.TABLES, "table3", lambda: CELLS[:1])
    out = options.ledger.parent / "out"
    where = ["--ledger", str(options.ledger), "--runs", str(options.runs), "--out", str(out)]
    cli.app(["reproduce", "table3", "--jobs", "auto", *where], result_action="return_value")
    said = capsys.readouterr().out
    assert "\n1 run: " in said and said.index("1 run: ") < said.index("[1/1")


def test_other_data_than_planned_are_refused(options):
    run = reproduce.missing(options)[0]
    with pytest.raises(ValueError, match="not that of the plan"):
        jobs.run_job(replace(job_of(run, options), key="0" * 20))


KILL = """
import os, signal
from pathlib import Path
from pursuitnet.program import callbacks

def on_epoch_end(self, record):
    mark = Path({mark!r})
    if record["epoch"] == 2 and not mark.exists():  # in the middle, after its line and before its checkpoint
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)

callbacks.NoOpCallback.on_epoch_end = on_epoch_end
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # distributed's own, when a worker dies
def test_a_killed_worker_of_a_cluster_loses_nothing(options, monkeypatch, tmp_path, assert_same_as_uninterrupted):
    from distributed import LocalCluster

    from pursuitnet.program.reproduce.cluster import dask

    long = Cell("long", 3, replace(TINY, epochs=3), None)
    monkeypatch.setitem(cells.TABLES, "table3", lambda: (long,))
    (run,), ends = reproduce.missing(options), []
    script, mark = tmp_path / "kill.py", tmp_path / "killed"
    script.write_text(KILL.format(mark=str(mark)))
    workers = {"n_workers": 1, "threads_per_worker": 1, "processes": True, "preload": [str(script)]}
    with LocalCluster(**workers, dashboard_address=None) as local:
        end = lambda run, end: ends.append(end)  # noqa: E731
        assert reproduce.run_missing(options, [run], end, cluster=dask(local.scheduler_address)) == 0
    assert ends == [run.key] and mark.exists()
    assert_same_as_uninterrupted(options, run)


def test_a_terminal_shows_the_runs_under_way_below_the_lines_that_are_said(tmp_path):
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(TINY.to_json()))
    paper = io.StringIO()
    console = Console(file=paper, force_terminal=True, width=200)
    with run_lock(folder), running(folder), program.show_running(folder.parent, console) as say:
        say("[1/2] done [bold]")
    assert "[1/2] done [bold]" in paper.getvalue() and "msd_csc_3" in paper.getvalue()


# tables


def entry_of(cell, seed, accuracy, data="x"):
    recipe = replace(cell.recipe, seed=seed)
    first, last = WHOLE["epochs"]
    epochs = [{**first, "test_accuracy": 0.99}, {**last, "test_accuracy": accuracy}]
    return {**WHOLE, "key": ledger.key(recipe, data), "recipe": recipe.to_json(), "data": data, "epochs": epochs}


def test_a_synthetic_ledger_gives_the_right_cells_means_and_deviations():
    accuracies = (0.51, 0.52, 0.56)
    entries = [entry_of(CELLS[0], seed, a) for seed, a in enumerate(accuracies)]
    one, two = tables.cell_results(CELLS, entries)
    assert one.mean == pytest.approx(53.0) and one.deviation == pytest.approx(statistics.stdev((51, 52, 56)))
    assert two.records == ()
    monkey = [replace(cell, recipe=replace(cell.recipe, data="cifar10")) for cell in CELLS]
    entries = [entry_of(monkey[0], seed, a) for seed, a in enumerate(accuracies)]
    table = tables.markdown(tables.cell_results(monkey, entries)).splitlines()
    assert len(table) == 4
    assert "| 3 | 53.00 ± 2.65 | 50.00 | +3.00, within noise | 12,345 | 0.002 | 123 | abacus |" in table[2]
    assert "| 0 | not run | – |" in table[3]


@pytest.mark.parametrize(
    ("accuracies", "said"), [((0.58, 0.59), "+8.50, beyond noise"), ((0.45,), "-5.00"), ((0.5, 0.6), "within noise")]
)
def test_a_difference_is_judged_by_the_noise_of_the_seeds(accuracies, said):
    (row, _) = tables.cell_results(CELLS, [entry_of(CELLS[0], seed, a) for seed, a in enumerate(accuracies)])
    assert said in tables.difference(row)


def test_a_table_by_layers_and_differences_seed_by_seed():
    found = [c for c in cells.table2() if c.recipe.data == "cifar10" and c.layers in (56, 110)]
    better = {"Res-CSC": 0.01, "ResNet": 0.0}
    spread = (0.0, 0.05, 0.1)
    entries = [
        entry_of(c, seed, 0.5 + spread[seed] + better[c.method] + 0.001 * seed * (c.method == "Res-CSC"))
        for c in found
        for seed in range(3)
        if c.method in better
    ]
    lost = entry_of(next(c for c in found if c.method == "plain"), 0, 0.1)
    entries.append({**lost, "diverged": "the loss is nan"})
    rows = tables.cell_results(found, entries)
    table = tables.paper_table(rows)
    assert table.splitlines()[0] == "| | 56 layers | 110 layers |"
    assert "| plain | 1 of 1 diverged | not run |" in table
    assert "| Res-CSC | 56.10 ± 5.10 | 56.10 ± 5.10 |" in table
    assert "| ResNet | 93.15 | 93.41 |" in tables.paper_table(rows, paper=True)
    assert "| plain | 87.04 | × |" in tables.paper_table(rows, paper=True)
    by = {(row.cell.method, row.cell.layers): row for row in rows}
    assert tables.contrast((by["Res-CSC", 56], by["ResNet", 56])) == "+1.10 ± 0.06, beyond noise"
    assert tables.contrast((by["Res-CSC", 56], by["plain", 56])) == "not enough runs"
    two = tables.cell_results(found, [entry for entry in entries if entry["recipe"]["seed"] < 2])
    assert tables.contrast((two[3], two[2])) == "+1.05 ± 0.05"
    both = [(by["Res-CSC", depth], by["ResNet", depth]) for depth in (56, 110)]
    assert tables.contrast(*both) == "+1.10 ± 0.04, beyond noise"
    assert tables.contrast(both[0], (by["Res-CSC", 56], by["plain", 56])) == tables.contrast(both[0])
    varied = tables.cell_results(found, [entry_of(found[3], s, a) for s, a in enumerate((0.5, 0.6, 0.58))])
    assert tables.contrast((varied[3], by["ResNet", 56])).endswith("within noise")


def test_records_of_different_data_are_not_mixed():
    entries = [entry_of(CELLS[0], 0, 0.5, "x"), entry_of(CELLS[0], 1, 0.5, "y")]
    with pytest.raises(ValueError, match="different versions of digits"):
        tables.cell_results(CELLS, entries)


@pytest.mark.parametrize("scale", ["small", "full", "medium"])
@pytest.mark.parametrize("name", ["fig7", "fig8"])
def test_every_panel_of_a_figure_names_its_networks_and_its_note_fits(name, scale):
    figure = figures.draw(name, scale, tables.cell_results(cells.cells_of(name, scale), []), "a word " * 25)
    assert all(len(axes.get_legend().get_texts()) >= 3 for axes in figure.axes)
    assert figure._supxlabel.get_window_extent().width < figure.bbox.width


@pytest.mark.parametrize(("name", "scale"), [("fig7", "small"), ("fig8", "full")])
def test_a_figure_shows_what_was_run_and_names_what_was_not(tmp_path, name, scale):
    found, stem = cells.cells_of(name, scale), name if scale == "full" else f"{name}-{scale}"
    book = ledger.Ledger(tmp_path / "ledger")
    entry = entry_of(next(c for c in found if c.layers in (12, 56)), 0, 0.5)
    book.add(entry["key"], entry)
    options = reproduce.Options(name, scale=scale, ledger=book.folder)
    paths = reproduce.write(options, tmp_path / "out")
    assert [path.name for path in paths] == [f"{stem}.md", f"{stem}.json", f"{stem}.png"]
    assert paths[2].stat().st_size > 20_000
    rows = json.loads(paths[1].read_text())["rows"]
    assert sum(row["n"] for row in rows) == 1 and len(rows) == len(found)


def test_the_program_makes_a_table_of_nothing_and_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(cells.TABLES, "table3", lambda: CELLS)

    def call(*arguments):
        cli.app(["reproduce", *arguments], exit_on_error=False, print_error=False, result_action="return_value")
        return capsys.readouterr().out

    assert "2 of them missing" in call("table3", "--dry-run", "--device", "cpu")
    assert "not run" in (tmp_path / "runs" / "table3" / "table3.md").read_text()
    with pytest.raises(ValueError, match="holds for no cell"):
        call("table3", "--filter", "cifar10")
    with pytest.raises(ValueError, match="seeds is 0; expected an integer ≥ 1"):
        call("table3", "--seeds", "0")
    with pytest.raises(ValueError, match="jobs is -1; expected an integer ≥ 1"):
        call("table3", "--jobs", "-1", "--device", "cpu")
    with pytest.raises(ValueError, match="give only one of them"):
        call("table3", "--dask", "tcp://x:1", "--cluster", "x.yaml")
    (tmp_path / "x.yaml").write_text("queue: short\n")
    with pytest.raises(ValueError, match="describes no cluster; expected jobs: a number, and system: SLURM"):
        call("table3", "--cluster", "x.yaml", "--device", "cpu")


# what it was computed in


def test_every_record_says_what_it_was_computed_in(script):
    paths = [*script.LEDGER.glob("*.json"), *(script.LEDGER.parent / "fast").glob("*.json")]
    assert len(paths) > 200
    for path in paths:
        assert json.loads(path.read_text())["precision"] in ("float32", "bfloat16"), path.name


def test_a_run_that_goes_on_in_another_precision_says_both(tmp_path, monkeypatch):
    class StopInTheSecond(train.NoOpCallback):
        def on_epoch_end(self, record):
            if record["epoch"] == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pursuitnet.program.train.trainer.precision_of", lambda recipe, device: torch.bfloat16)
        with pytest.raises(KeyboardInterrupt):
            train.train(TINY, tmp_path / "run", StopInTheSecond())
    train.train(TINY, tmp_path / "run", resume=True)
    assert [epoch["precision"] for epoch in train.records(tmp_path / "run")] == ["bfloat16", "float32"]
    assert json.loads((tmp_path / "run" / "record.json").read_text())["precision"] == "bfloat16, float32"


def test_a_table_names_every_machine_and_precision_of_a_cell():
    records = [
        {**WHOLE, "recipe": TINY.to_json(), "precision": precision} for precision in ("float32", "bfloat16", "float32")
    ]
    assert tables.markdown([tables.CellResult(CELLS[1], tuple(records))]).endswith(
        " | abacus, float32; abacus, bfloat16 |"
    )


# verdicts


def accurate(*accuracies):
    """A cell whose seeds have these accuracies in per cent."""
    made = [entry_of(CELLS[1], seed, accuracy / 100, "x") for seed, accuracy in enumerate(accuracies)]
    return tables.CellResult(CELLS[1], tuple(made))


def test_questions_are_supported_refuted_or_open_after_correction():
    low, high = accurate(70.0, 70.2, 69.9, 70.1, 70.3), accurate(75.1, 75.0, 75.2, 74.9, 75.0)
    unsure, few = accurate(70.4, 70.2, 70.1, 70.2, 70.6), accurate(80.0, 80.1)
    asked = [("up", (high, low)), ("down", (low, high)), ("unsure", (unsure, low)), ("few", (few, low))]
    asked.append(("unsure again", (unsure, low)))
    found = {answer.name: answer for answer in tables.compare(asked)}
    assert {name: answer.verdict for name, answer in found.items()} == {
        "up": "supported", "down": "refuted", "unsure": "open", "few": "open", "unsure again": "open"
    }  # fmt: skip
    assert found["unsure"].difference.p < 0.05 < found["unsure"].corrected  # of two such, one may be chance
    assert {answer.tests for answer in found.values()} == {4} and found["few"].corrected is None
    alone, corrected = map(float, found["up"].detectable.split("; "))
    assert alone == pytest.approx(found["up"].difference.detectable(), abs=0.005) and corrected > 1.3 * alone
    told = tables.verdicts(asked).splitlines()
    assert told[0].startswith("- **Supported:** up (+4.94 points, n = 5") and "p < 0.001 corrected" in told[0]
    assert told[1].startswith("- **Refuted, the reverse holds:** down (-") and told[1].endswith(").")
    assert "unsure" in told[2] and "few (not enough runs)" in told[2]
    assert "| down | 5 |" in tables.comparison_table(asked) and "refuted: the reverse" in tables.comparison_table(asked)


# the page


@pytest.fixture
def script():
    """experiments/reproduction.py."""
    path = Path(__file__).parents[1] / "experiments" / "reproduction.py"
    spec = importlib.util.spec_from_file_location("reproduction", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_in_the_docs_are_those_of_the_ledger(script):
    text = script.PAGE.read_text()
    assert script.page(text) == text


def test_the_page_takes_its_tables_from_the_ledger_and_leaves_the_words(script, tmp_path):
    words = "before\n<!-- table3-small -->\nREPLACED\n<!-- end -->\nafter"
    assert "| MSDNet | not run | not run | not run |" in script.page(words, tmp_path)
    assert script.page(words, tmp_path).startswith("before\n") and script.page(words, tmp_path).endswith("\nafter")
    assert "REPLACED" not in script.page(words, tmp_path)
    with pytest.raises(KeyError, match="table9"):
        script.page("<!-- table9 -->\n<!-- end -->", tmp_path)
    for name in script.BLOCKS:
        assert "not run" in script.BLOCKS[name](tmp_path) or name.endswith(
            ("paper", "contrasts", "questions", "verdicts")
        )

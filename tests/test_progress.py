"""How far long work has come: a bar on a terminal, lines elsewhere, nothing of work that is soon done."""

import sys

import numpy as np
import pytest
from data_miniatures import matlab

import pursuitnet as pn
from pursuitnet.data import progress as showing
from pursuitnet.data import svhn
from pursuitnet.data.progress import counted, progress, say
from pursuitnet.program import simulate
from pursuitnet.program.evaluation.evaluate_run import Settings, evaluate_run
from pursuitnet.program.whitebox.inspect_run import inspect_run


@pytest.fixture
def slow(monkeypatch):
    """Every look at the clock finds six seconds gone."""
    clock = iter(range(0, 10_000, 6))
    monkeypatch.setattr(showing.time, "monotonic", lambda: next(clock))


def test_lines_tell_now_and_then_where_there_is_no_terminal(slow, capsys):
    with progress("images", 40) as tell:
        for _ in range(5):
            tell(8)
    assert capsys.readouterr().err.splitlines() == ["16 of 40 images", "32 of 40 images"]
    with progress("parts") as tell:
        tell(1)
        tell(1, total=3)
    assert capsys.readouterr().err == "2 of 3 parts\n"


def test_work_that_is_soon_done_says_nothing(capsys):
    with progress("images", 4) as tell:
        assert list(counted("abcd", tell)) == list("abcd")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_and_lines_stand_above_it(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("images", 4) as tell:
        tell(3)
        say("three")
        tell(1, total=8)
    out, err = capsys.readouterr()
    assert out == "three\n" and "0/4" in err and "images" in err
    assert not err.rstrip(" \r").endswith("images")  # nothing is left of it


def test_decoding_svhn_shows_how_much_is_read(slow, capsys):
    draws = np.random.default_rng(0)
    content = matlab(draws.integers(0, 255, (2, 3, 32, 32), np.uint8), np.array([1, 0]), compressed=True)
    images, labels = svhn.decode(bytearray(content))
    assert images.shape == (2, 3, 32, 32) and labels.tolist() == [1, 0]
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.endswith(f" of {len(content):,} bytes of svhn") for line in lines)


class Told:
    def __init__(self):
        self.done, self.total = 0, None

    def __call__(self, more=1, total=None):
        self.done, self.total = self.done + more, total if total is not None else self.total


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    pn.train(pn.Recipe(model="msd_csc_3", width=2, epochs=1, train_images=64, test_images=20, device="cpu"), folder)
    return folder


@pytest.mark.parametrize("corruptions", [None, ("contrast", "gaussian_blur")])
def test_evaluation_counts_every_image_that_is_tested(run, corruptions):
    told = Told()
    evaluate_run(run, Settings(corruptions=corruptions), told)
    assert told.done == told.total == 20 * (1 if corruptions is None else 1 + 1 + 2 * 5)


def test_inspection_counts_layers_and_numbers_of_steps(run):
    told = Told()
    inspect_run(run, 4, 1, 8, advance=told)
    assert told.done == told.total == 3 + 2


def test_simulations_say_how_many_parts_they_have():
    assert simulate.count("fig1", None, False) is None
    assert simulate.count("fig4", 2, False) == 2 and simulate.count("fig4", None, False) == 5
    assert simulate.count("fig4", 2, True) == 2 * simulate.count("fig4", None, True) // 3

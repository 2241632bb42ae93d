"""The program with whatever streams, homes and names of folders it is started with."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pursuitnet.program import cli, streams
from pursuitnet.program.writable import write_whole

PROGRAM = [sys.executable, "-m", "pursuitnet"]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
"""As programs run unless asked otherwise: what is printed leads somewhere when the program ends."""


def run(*arguments, **options):
    options["env"] = {"OMP_NUM_THREADS": "1", **BUFFERED, **options.get("env", {})}
    return subprocess.run([*PROGRAM, *arguments], stderr=subprocess.PIPE, check=False, **options)


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252", "TERM": "dumb", "COLUMNS": "40"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_help_is_printed_on_any_terminal(environment):
    done = run("train", "--help", stdout=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"--unfolding" in done.stdout


def test_a_reader_that_has_gone_ends_the_program_without_a_word(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "recipe.json").write_text("{}")
    for error in (subprocess.PIPE, subprocess.STDOUT):
        reading, writing = os.pipe()
        os.close(reading)
        try:
            command = [*PROGRAM, "runs", str(tmp_path)]
            done = subprocess.run(command, stdout=writing, stderr=error, check=False, env=BUFFERED)
        finally:
            os.close(writing)
        assert done.returncode == streams.GONE
        assert not done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_closed_streams_are_nothing_to_speak_of(tmp_path):
    for closing in (">&-", ">&- 2>&-"):
        command = f'"$0" -m pursuitnet runs "$1" {closing}'
        done = subprocess.run(["sh", "-c", command, sys.executable, tmp_path], capture_output=True, env=BUFFERED)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["runs", "."]], ids=["flushed at once", "flushed at the end"])
def test_output_that_does_not_fit_is_one_line(arguments, tmp_path):
    with open("/dev/full", "w") as full:
        done = run(*arguments, stdout=full, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(b"pursuitnet: ") and done.stderr.count(b"\n") == 1


def test_letters_that_a_stream_lacks_become_question_marks_and_bytes_of_names_stay():
    streams.prepare()
    assert "μ = ½ \udcff".encode("ascii", "pursuitnet") == b"? = ? \xff"
    assert "μ \udcff".encode("utf-8", "pursuitnet") == b"\xce\xbc \xff"
    assert "\ud800".encode("utf-8", "pursuitnet") == b"?"
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("utf-8", "pursuitnet")


class Full(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_error_that_cannot_be_said_keeps_its_code(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Full())
    assert cli._fail("what") == 2


def test_a_page_of_a_folder_whose_name_is_not_utf8_is_written(tmp_path):
    page = write_whole(tmp_path / "page.html", "at \udcff")
    assert page.read_bytes() == rb"at \udcff"


@pytest.fixture
def asked(monkeypatch):
    """The folder that the program trains into, and the recipe."""
    got = []
    monkeypatch.setattr("pursuitnet.program.report.page.write", lambda folder, *machine: folder)

    def take(recipe, folder, *given, **options):
        got.extend([recipe, folder])
        return {"test_accuracy": 0.0, "epoch": 1}

    monkeypatch.setattr("pursuitnet.program.train.train", take)

    def ask(*arguments):
        got.clear()
        cli.app(["train", *arguments], exit_on_error=False, print_error=False, result_action="return_value")
        return got

    return ask


def test_a_tilde_is_the_home_in_every_path(asked, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.toml").write_text('data_dir = "~/data"\nepochs = 3\n')
    recipe, folder = asked("--out=~/x", "--recipe=~/mine.toml")
    assert (folder, recipe.data_dir, recipe.epochs) == (tmp_path / "x", tmp_path / "data", 3)
    recipe, folder = asked("--out", "x", "--data-dir=~")
    assert (folder, recipe.data_dir) == (Path("x"), tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="homes are looked up otherwise")
def test_a_home_that_nobody_knows_is_one_sentence(monkeypatch):
    import pwd

    from pursuitnet import data

    def nobody(*given):
        raise KeyError("getpwuid(): uid not found: 12345")

    for name in ("HOME", "XDG_CACHE_HOME", "PURSUITNET_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for function in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(pwd, function, nobody)
    for arguments in (["train", "--out=~/x"], ["runs", "~"], ["train", "--recipe", "~/x.toml"]):
        with pytest.raises(ValueError, match="begins with a home that is not known"):
            cli.app(arguments, exit_on_error=False, print_error=False)
    with pytest.raises(ValueError, match="set PURSUITNET_CACHE"):
        data.load("cifar10")

"""How many cores a process may use: affinity and control groups of both versions, from files written for the test."""

import os
from dataclasses import replace

import pytest
from programs import finished

from pursuitnet.program import threads


@pytest.fixture
def many(monkeypatch):
    """A machine whose affinity alone would allow 16 cores."""
    monkeypatch.setattr(threads, "affinity", lambda: 16)


def written(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),  # version 2, in a container that sees itself as the root
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "350000 100000\n"}, 3),  # limited by its parent
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n", "a/cpu.max": "350000 100000\n"}, 1),
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, 16),
        ("0::/a\n", {"a/cpu.max": "50000 100000\n"}, 1),  # half a core is a thread too
        ("0::/a\n", {"a/cpu.max": "9900000 100000\n"}, 16),  # more than there are
        (  # version 1, bound over the root under a name from outside
            "5:memory:/x\n4:cpu,cpuacct:/docker/9f\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        (
            "1:cpu:/job/7\n0::/\n",
            {
                "cpu/job/7/cpu.cfs_quota_us": "-1\n",
                "cpu/job/7/cpu.cfs_period_us": "100000\n",
                "cpu/job/cpu.cfs_quota_us": "600000\n",
                "cpu/job/cpu.cfs_period_us": "100000\n",
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
            },
            6,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ("3:cpuset:/a\n", {"cpuset/a/cpu.max": "100000 100000\n"}, 16),  # another controller
        ("0::/a\n", {"a/cpu.max": "\n"}, 16),
    ],
)
def test_the_quota_of_a_control_group_is_followed(tmp_path, many, membership, files, expected):
    (tmp_path / "self").write_text(membership)
    written(tmp_path / "groups", files)
    assert threads.available(tmp_path / "groups", tmp_path / "self") == expected


def test_a_system_without_control_groups_has_the_cores_of_its_affinity(tmp_path, many):
    assert threads.available(tmp_path, tmp_path / "nothing") == 16


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_affinity_is_that_of_the_process():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert threads.affinity() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_threads_wait_passively_and_follow_the_quota_unless_the_user_says_otherwise(many, monkeypatch):
    monkeypatch.setattr(threads, "available", lambda: 3)
    found = {}
    threads.set_thread_defaults(found)
    assert found == {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "3"}
    chosen = {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "7"}
    threads.set_thread_defaults(chosen)
    assert chosen == {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "7"}
    monkeypatch.setattr(threads, "available", lambda: 16)  # without a quota, OpenMP's own number
    free = {}
    threads.set_thread_defaults(free)
    assert free == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_the_program_sets_them_before_torch_is_loaded(tmp_path):
    probe = "import os, sys; sys.argv = ['pursuitnet', 'models']\nfrom pursuitnet.program import cli\n"
    probe += "inner = cli.app\ndef app(**options):\n    assert 'torch' not in sys.modules\n"
    probe += "    print(os.environ['OMP_WAIT_POLICY'], os.environ['OMP_NUM_THREADS'])\ncli.app = app\n"
    probe += "from pursuitnet.program import threads\nthreads.available = lambda: 3\nthreads.affinity = lambda: 8\n"
    probe += "cli.main()"
    free = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    for given, said in (({}, "PASSIVE 3"), ({"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "2"}, "ACTIVE 2")):
        done = finished("-c", probe, env=free | given)
        assert done.stdout.strip() == said, done.stderr


def test_processes_of_reproduce_share_the_cores(monkeypatch):
    from pursuitnet.program.reproduce import jobs

    monkeypatch.setattr(jobs, "available", lambda: 6)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for at_once, each in ((1, "6"), (4, "1"), (3, "2")):
        assert jobs.environment(at_once)["OMP_NUM_THREADS"] == each
    assert jobs.environment(1)["OMP_WAIT_POLICY"] == "PASSIVE"


def test_no_more_runs_at_once_are_tried_than_there_are_cores(monkeypatch, tmp_path):
    from pursuitnet.program import reproduce
    from pursuitnet.program.reproduce import plan, program

    class TriedError(Exception):
        pass

    def best(recipe, most, say):
        raise TriedError(most)

    options = reproduce.Options("table3", device="cpu", ledger=tmp_path / "ledger", runs=tmp_path / "runs")
    todo = [plan.PlannedRun(cell, replace(cell.recipe, device="cpu"), "") for cell in options.cells()[:5]]
    monkeypatch.setattr(program.reproduce, "missing", lambda options: todo)
    monkeypatch.setattr(program, "available", lambda: 3)
    monkeypatch.setattr(program, "best_number", best)
    with pytest.raises(TriedError, match=r"^3$"):
        program.program(options, tmp_path / "out", lambda line: None, at_once=None)

"""How many cores this process may use, and how its threads wait; set before PyTorch, which reads both, is loaded."""

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

GROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux lists its control groups, and which of them this process is in."""


def set_thread_defaults(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make OpenMP use the cores of this process and wait without spinning, unless the user has set otherwise.

    On shared cores, a spinning thread takes time from the thread that it waits for. OpenMP respects the affinity by
    itself, but not the quota of a control group.
    """
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if available() < affinity():
        environment.setdefault("OMP_NUM_THREADS", str(available()))


def available(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return how many cores this process may keep busy: those of its affinity, or fewer if a container has a quota.

    Args:
        groups: folder of the control groups, version 1 or 2.
        membership: file that lists those of this process.
    """
    return max(1, int(min([affinity(), *_quotas(groups, membership)])))


def affinity() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(groups: Path, membership: Path) -> Iterator[float]:
    """Yield the number of cores that each control group of this process allows, if it limits them."""
    for folder in _folders(groups, membership):
        limit = _numbers(folder / "cpu.max") or (
            *_numbers(folder / "cpu.cfs_quota_us"),
            *_numbers(folder / "cpu.cfs_period_us"),
        )
        if len(limit) == 2 and min(limit) > 0:
            yield limit[0] / limit[1]


def _folders(groups: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of the groups of this process and of their parents; some may not exist.

    A container often sees its own group as the root, while the name of the group exists only outside of it.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            root = groups / controllers
            inside = root / name.strip("/")
            yield from (inside, *(parent for parent in inside.parents if parent.is_relative_to(root)))


def _numbers(path: Path) -> tuple[int, ...]:
    """Return the numbers in a file; none if the file is missing or says "max", which is no limit, as −1 is."""
    try:
        return tuple(int(word) for word in path.read_text().split())
    except (OSError, ValueError):
        return ()

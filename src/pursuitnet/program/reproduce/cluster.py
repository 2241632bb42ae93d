"""The same runs on other machines: Dask's distributed, which looks like ``concurrent.futures``."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from pursuitnet.utils.records import settings_of

SYSTEMS = ("SLURM", "PBS", "SGE", "LSF", "HTCondor", "OAR")


@contextmanager
def dask(address: str | None = None, description: Path | None = None, gpu: bool = False) -> Iterator[Executor]:
    """Give an executor on a Dask cluster; a run whose worker is killed is tried again, from its checkpoint.

    Args:
        address: of a scheduler that is there, such as tcp://10.0.0.1:8786.
        description: YAML file that describes workers to ask a batch system for: ``system`` (SLURM, PBS, …), ``jobs``
            (how many), and what ``dask_jobqueue`` takes: queue, cores, memory, walltime, …
        gpu: whether a run needs one unit of the resource GPU, which workers offer with ``--resources GPU=1``.

    Raises:
        ImportError: without the extra ``cluster``.
        ValueError: if the description does not describe a cluster.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("a cluster needs Dask: pip install 'pursuitnet[cluster]'") from error
    cluster = None if description is None else _asked_for(description)
    with Client(address if cluster is None else cluster) as client:
        options: dict[str, Any] = {"pure": False, "retries": 5, **({"resources": {"GPU": 1}} if gpu else {})}
        yield client.get_executor(**options)
    if cluster is not None:
        cluster.close()


def cluster_of(address: str | None, description: Path | None, device: str) -> AbstractContextManager[Executor] | None:
    """Return what the program's options name: a cluster, or None for this machine."""
    if address is not None and description is not None:
        raise ValueError("--dask names a cluster that is there, --cluster asks for one; give one of them")
    if address is None and description is None:
        return None
    return dask(address, description, device.startswith("cuda"))


def _asked_for(description: Path) -> Any:
    """Return a cluster of jobs of a batch system, asked for."""
    import dask_jobqueue

    given = settings_of(description, "a cluster")
    if not isinstance(given, dict) or given.get("system") not in SYSTEMS or not isinstance(given.get("jobs"), int):
        raise ValueError(
            f"{description} describes no cluster; expected jobs: a number, and system: {', '.join(SYSTEMS)}"
        )
    kind, jobs = getattr(dask_jobqueue, f"{given.pop('system')}Cluster"), given.pop("jobs")
    try:
        cluster = kind(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{description}: {error}") from error
    cluster.scale(jobs=jobs)
    return cluster

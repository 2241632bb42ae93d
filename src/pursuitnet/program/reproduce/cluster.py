"""Runs on other machines by Dask's distributed, with the interface of ``concurrent.futures``."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from pursuitnet.utils.records import settings_of

SYSTEMS = ("SLURM", "PBS", "SGE", "LSF", "HTCondor", "OAR")


@contextmanager
def dask(address: str | None = None, description: Path | None = None, gpu: bool = False) -> Iterator[Executor]:
    """Yield an executor on a Dask cluster; a run whose worker is killed is tried again, from its checkpoint.

    Args:
        address: of a running scheduler, such as tcp://10.0.0.1:8786.
        description: YAML file of the workers to request from a batch system: ``system`` (SLURM, PBS, …), ``jobs``
            (their number), and arguments of ``dask_jobqueue``: queue, cores, memory, walltime, …
        gpu: whether a run needs one unit of the resource GPU, which workers offer with ``--resources GPU=1``.

    Raises:
        ImportError: without the extra ``cluster``.
        ValueError: if the description is not valid.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("a cluster needs Dask: pip install 'pursuitnet[cluster]'") from error
    cluster = None if description is None else _requested_cluster(description)
    with Client(address if cluster is None else cluster) as client:
        options: dict[str, Any] = {"pure": False, "retries": 5, **({"resources": {"GPU": 1}} if gpu else {})}
        yield client.get_executor(**options)
    if cluster is not None:
        cluster.close()


def cluster_of(address: str | None, description: Path | None, device: str) -> AbstractContextManager[Executor] | None:
    """Return the cluster of the program's options, or None for this machine."""
    if address is not None and description is not None:
        raise ValueError("--dask names a running cluster, --cluster requests one; give only one of them")
    if address is None and description is None:
        return None
    return dask(address, description, device.startswith("cuda"))


def _requested_cluster(description: Path) -> Any:
    """Request jobs from a batch system and return them as a cluster."""
    import dask_jobqueue

    settings = settings_of(description, "a cluster")
    if (
        not isinstance(settings, dict)
        or settings.get("system") not in SYSTEMS
        or not isinstance(settings.get("jobs"), int)
    ):
        raise ValueError(
            f"{description} describes no cluster; expected jobs: a number, and system: {', '.join(SYSTEMS)}"
        )
    kind, jobs = getattr(dask_jobqueue, f"{settings.pop('system')}Cluster"), settings.pop("jobs")
    try:
        cluster = kind(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{description}: {error}") from error
    cluster.scale(jobs=jobs)
    return cluster

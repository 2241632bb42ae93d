"""Tiles on the workers of a Dask cluster."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

AHEAD = 2
"""Batches of tiles that are under way for each thread of the workers, so that none waits and memory is bounded."""

Compute = Callable[[Iterable[list[Any]]], Iterator[list[Any]]]
"""From batches of tiles to their results, in the same order."""


@contextmanager
def on_cluster(
    address: str, load: Callable[[], Any], function: Callable[..., Any], gpu: bool = False
) -> Iterator[Compute]:
    """Yield how tiles are computed on a Dask cluster; those of a worker that is killed are computed again.

    The network is loaded by a task of its own, whose result Dask keeps, copies to workers, and makes again if it is
    lost.

    Args:
        address: of a running scheduler, such as tcp://10.0.0.1:8786.
        load: returns the network, on a worker.
        function: returns the results of a batch of tiles, on a worker, from the network and the batch.
        gpu: whether a task needs one unit of the resource GPU, which workers offer with ``--resources GPU=1``.

    Raises:
        ImportError: without the extra ``cluster``.
        OSError: if the cluster is not reached, or lost.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("a cluster needs Dask: pip install 'pursuitnet[cluster]'") from error
    options: dict[str, Any] = {"pure": False, "retries": 5, **({"resources": {"GPU": 1}} if gpu else {})}
    with Client(address) as client:
        network = client.submit(load, **options)

        def compute(batches: Iterable[list[Any]]) -> Iterator[list[Any]]:
            under_way: deque[Any] = deque()
            for batch in batches:
                under_way.append(client.submit(function, network, batch, **options))
                if len(under_way) >= AHEAD * max(1, sum(client.nthreads().values())):
                    yield _result(under_way.popleft(), address)
            while under_way:
                yield _result(under_way.popleft(), address)

        yield compute


def _result(future: Any, address: str) -> list[Any]:
    """Return the result of a task, or raise what it raised."""
    from distributed import KilledWorker

    try:
        results: list[Any] = future.result()
        return results
    except (KilledWorker, CancelledError) as error:  # after several workers, or with the scheduler
        raise OSError(
            f"the cluster at {address} lost its workers ({type(error).__name__}); what was done is kept: call it again"
        ) from error

"""What a run leaves in its folder while it goes on, and how it stops."""

import json
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pursuitnet.recipe import Recipe
from pursuitnet.train import checkpoints


class Begun(NamedTuple):
    """An epoch that has begun: the steps it has taken, and the sum of the losses and the number of their images."""

    steps: int
    total: Tensor
    images: int


class StoppedError(Exception):
    """A signal has asked the run to stop; it has finished its step and kept everything.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class Keeper:
    """What a run leaves in its folder while it goes on."""

    def __init__(self, folder: Path, model: nn.Module, optimiser: torch.optim.SGD, every: float) -> None:
        self.folder, self.model, self.optimiser, self.every = folder, model, optimiser, every
        self.kept = time.monotonic()

    def open(self, recipe: Recipe) -> tuple[int, None]:
        """Begin a run; a folder that cannot hold it is found out before the first step."""
        self.folder.mkdir(parents=True)
        checkpoints.replace(self.folder / "recipe.json", (json.dumps(recipe.to_json(), indent=2) + "\n").encode())
        self.save(0, None)
        return 0, None

    def reopen(self, device: torch.device) -> tuple[int, Begun | None]:
        """Go back to the last checkpoint; return the epochs that are done and where the next one stands."""
        state, damaged = checkpoints.load(self.folder, device)
        for name in damaged:
            warnings.warn(f"{self.folder / name} is damaged; going on from the other one", stacklevel=3)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        lines = self._metrics().splitlines(keepends=True)[: state["epoch"]]
        if len(lines) < state["epoch"] or not all(line.endswith("\n") for line in lines):
            raise ValueError(f"{self.folder / 'metrics.jsonl'} is damaged: it lacks epochs that are done; start anew")
        checkpoints.replace(self.folder / "metrics.jsonl", "".join(lines).encode())
        begun = Begun(state["step"], state["total"], state["count"]) if state["step"] else None
        return state["epoch"], begun

    def between(self, epoch: int, requests: list[int], begun: Begun) -> None:
        """After a step: keep it if it is time, stop if a signal has asked for it."""
        if requests or time.monotonic() - self.kept > self.every:
            self.save(epoch - 1, begun)
        if requests:
            raise StoppedError(
                f"stopped after epoch {epoch}, step {begun.steps}; go on with: "
                f"pursuitnet train --out {self.folder} --resume",
                requests[0],
            )

    def after(self, epoch: int, record: dict[str, Any]) -> None:
        """After an epoch: its line, then its checkpoint, so that no checkpoint is ahead of its metrics."""
        content = self._metrics() + json.dumps(record) + "\n"
        checkpoints.replace(self.folder / "metrics.jsonl", content.encode())
        self.save(epoch, None)

    def save(self, epochs: int, begun: Begun | None) -> None:
        """Write a checkpoint: epochs that are done, and where the next one stands."""
        steps, total, count = begun or (0, torch.zeros(()), 0)
        checkpoints.save(
            self.folder,
            {
                "epoch": epochs,
                "step": steps,
                "total": total,
                "count": count,
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
            },
        )
        self.kept = time.monotonic()

    def _metrics(self) -> str:
        path = self.folder / "metrics.jsonl"
        return path.read_text() if path.is_file() else ""


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one kills as ever."""
    requests: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: object) -> None:
        requests.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""The files that a run writes while it trains, and how it stops."""

import json
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pursuitnet.program.recipe import Recipe
from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.train import checkpoints
from pursuitnet.program.train.trainer import EpochProgress, Trainer


class StoppedError(Exception):
    """A signal has asked the run to stop; it has finished its step and saved a checkpoint.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class CheckpointManager:
    """Writes recipe, metrics and checkpoints of a run while it trains; only the first process of a group writes.

    Args:
        folder: the run folder.
        trainer: whose state is saved.
        every: seconds between two checkpoints within an epoch.
    """

    def __init__(self, folder: Path, trainer: Trainer, every: float) -> None:
        self.folder, self.trainer, self.every = RunFolder(folder), trainer, every
        self.writes, self.saved_at, self.position = trainer.group.first, time.monotonic(), (0, 0)
        self.metrics = ""

    def open(self) -> tuple[int, None]:
        """Begin a run in its folder; the first checkpoint fails early if the folder cannot hold it."""
        if self.writes:
            self._write_recipe()
        self.save(0, None)
        return 0, None

    def reopen(self) -> tuple[int, EpochProgress | None]:
        """Go back to the last checkpoint; return the number of finished epochs and the progress of the next one.

        Raises:
            ValueError: if the recipe differs from that of the checkpoint; and what ``checkpoints.load`` raises.
        """
        state, damaged = checkpoints.load(self.folder.path, self.trainer.device)
        for name in damaged:
            warnings.warn(f"{self.folder.path / name} is damaged; going on from the other one", stacklevel=3)
        original = Recipe.from_json(state["recipe"])
        if changed := self.trainer.recipe.differs(original):
            was = ", ".join(f"{name} = {getattr(original, name)!r}" for name in changed)
            raise ValueError(f"{self.folder.recipe} has been changed; the run was started with {was}")
        self.trainer.restore(state)
        self.metrics = state["metrics"]
        if self.writes:
            self._write_recipe()  # the run or its data may have moved
            self.folder.write(self.folder.metrics, self.metrics)
        self.position = state["epoch"], state["step"]
        progress = EpochProgress(state["step"], state["total"], state["count"]) if state["step"] else None
        return state["epoch"], progress

    def _write_recipe(self) -> None:
        self.folder.write(self.folder.recipe, json.dumps(self.trainer.recipe.to_json(), indent=2) + "\n")

    def on_step_end(self, epoch: int, requests: list[int], progress: EpochProgress, check: Callable[[], None]) -> None:
        """After a step: save a checkpoint if it is due, and stop if a signal has come; a bad loss is not saved."""
        stop = self._all_stop(bool(requests), progress.steps)
        if stop or time.monotonic() - self.saved_at > self.every:
            check()
            self.trainer.check_state(f"epoch {epoch}, step {progress.steps}")
            self.save(epoch - 1, progress)
        if stop:
            self._stop(f"epoch {epoch}, step {progress.steps}", requests)

    def _all_stop(self, stop: bool, step: int) -> bool:
        """Return whether to stop now; several processes agree at every tenth step, so that all stop at the same one."""
        group = self.trainer.group
        return group.any(stop, self.trainer.device) if group.size == 1 or step % 10 == 0 else False

    def _stop(self, where: str, requests: list[int]) -> None:
        raise StoppedError(
            f"stopped after {where}; continue with: pursuitnet train --out {self.folder.path} --resume",
            requests[0] if requests else signal.SIGTERM,
        )

    def on_epoch_end(self, epoch: int, record: dict[str, Any], requests: list[int]) -> None:
        """After an epoch: write its line, then its checkpoint, which also holds all lines."""
        self.metrics += json.dumps(record) + "\n"
        if self.writes:
            self.folder.write(self.folder.metrics, self.metrics)
        self.save(epoch, None)
        if self._all_stop(bool(requests), 0):
            self._stop(f"epoch {epoch}", requests)

    def save(self, epochs: int, progress: EpochProgress | None) -> None:
        """Write a checkpoint with the number of finished epochs and the progress of the next one."""
        steps, total, count = progress or (0, torch.zeros(()), 0)
        if self.writes:
            position = {"epoch": epochs, "step": steps, "total": total, "count": count}
            text = {"recipe": self.trainer.recipe.to_json(), "metrics": self.metrics}
            checkpoints.save(self.folder.path, {**text, **position, **self.trainer.state()})
        self.saved_at, self.position = time.monotonic(), (epochs, steps)

    def status(self) -> str:
        """Return a description of the last checkpoint."""
        epochs, steps = self.position
        return f"{self.folder.checkpoint}, after {epochs} epochs" + (f" and {steps} steps" if steps else "")


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of ending; a second one ends the process as usual.

    After a ConnectionError, SIGTERM stays ignored, so that the process can still print its message.
    """
    requests: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request_stop(number: int, frame: object) -> None:
        requests.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, request_stop)
    try:
        yield requests
    except ConnectionError:
        before[signal.SIGTERM] = (
            signal.SIG_IGN
        )  # the launcher ends processes that lost another; the message comes first
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""What a run leaves in its folder while it goes on, and how it stops."""

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
    """A signal has asked the run to stop; it has finished its step and kept everything.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class CheckpointManager:
    """What a run leaves in its folder while it goes on; only the first process of a group writes.

    Args:
        folder: the run's.
        trainer: whose state is kept.
        every: seconds between two checkpoints within an epoch.
    """

    def __init__(self, folder: Path, trainer: Trainer, every: float) -> None:
        self.folder, self.trainer, self.every = RunFolder(folder), trainer, every
        self.writes, self.kept, self.at = trainer.group.first, time.monotonic(), (0, 0)
        self.metrics = ""

    def open(self) -> tuple[int, None]:
        """Begin a run in its folder; one that cannot hold it is found out before the first step."""
        if self.writes:
            self._write_recipe()
        self.save(0, None)
        return 0, None

    def reopen(self) -> tuple[int, EpochProgress | None]:
        """Go back to the last checkpoint; return the epochs that are done and where the next one stands.

        Raises:
            ValueError: if the recipe is no longer that of the checkpoint; and what ``checkpoints.load`` raises.
        """
        state, damaged = checkpoints.load(self.folder.path, self.trainer.device)
        for name in damaged:
            warnings.warn(f"{self.folder.path / name} is damaged; going on from the other one", stacklevel=3)
        begun_with = Recipe.from_json(state["recipe"])
        if changed := self.trainer.recipe.differs(begun_with):
            was = ", ".join(f"{name} = {getattr(begun_with, name)!r}" for name in changed)
            raise ValueError(f"{self.folder.recipe} has been changed; the run was started with {was}")
        self.trainer.restore(state)
        self.metrics = state["metrics"]
        if self.writes:
            self._write_recipe()  # the run may have moved, and its data
            self.folder.write(self.folder.metrics, self.metrics)
        self.at = state["epoch"], state["step"]
        progress = EpochProgress(state["step"], state["total"], state["count"]) if state["step"] else None
        return state["epoch"], progress

    def _write_recipe(self) -> None:
        self.folder.write(self.folder.recipe, json.dumps(self.trainer.recipe.to_json(), indent=2) + "\n")

    def on_step_end(self, epoch: int, requests: list[int], progress: EpochProgress, check: Callable[[], None]) -> None:
        """After a step: keep it if it is time, stop if a signal has asked for it; a bad loss is not kept."""
        stop = self._agreed(bool(requests), progress.steps)
        if stop or time.monotonic() - self.kept > self.every:
            check()
            self.trainer.check_state(f"epoch {epoch}, step {progress.steps}")
            self.save(epoch - 1, progress)
        if stop:
            self._stop(f"epoch {epoch}, step {progress.steps}", requests)

    def _agreed(self, stop: bool, step: int) -> bool:
        """Return whether to stop now; several processes ask each other at every tenth step, so that all stop at one."""
        group = self.trainer.group
        return group.any(stop, self.trainer.device) if group.size == 1 or step % 10 == 0 else False

    def _stop(self, where: str, requests: list[int]) -> None:
        raise StoppedError(
            f"stopped after {where}; go on with: pursuitnet train --out {self.folder.path} --resume",
            requests[0] if requests else signal.SIGTERM,
        )

    def on_epoch_end(self, epoch: int, record: dict[str, Any], requests: list[int]) -> None:
        """After an epoch: its line, then its checkpoint, which holds all lines too."""
        self.metrics += json.dumps(record) + "\n"
        if self.writes:
            self.folder.write(self.folder.metrics, self.metrics)
        self.save(epoch, None)
        if self._agreed(bool(requests), 0):
            self._stop(f"epoch {epoch}", requests)

    def save(self, epochs: int, progress: EpochProgress | None) -> None:
        """Write a checkpoint: epochs that are done, and where the next one stands."""
        steps, total, count = progress or (0, torch.zeros(()), 0)
        if self.writes:
            place = {"epoch": epochs, "step": steps, "total": total, "count": count}
            text = {"recipe": self.trainer.recipe.to_json(), "metrics": self.metrics}
            checkpoints.save(self.folder.path, {**text, **place, **self.trainer.state()})
        self.kept, self.at = time.monotonic(), (epochs, steps)

    def status(self) -> str:
        """Return which checkpoint is the last, in words."""
        epochs, steps = self.at
        return f"{self.folder.checkpoint}, after {epochs} epochs" + (f" and {steps} steps" if steps else "")


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one kills as ever.

    After a ConnectionError, SIGTERM stays ignored: the process has nothing left to do but to say what happened.
    """
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
    except ConnectionError:
        before[signal.SIGTERM] = signal.SIG_IGN  # the launcher ends a process that has lost another; it says why first
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

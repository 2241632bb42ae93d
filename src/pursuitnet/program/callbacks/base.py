"""What wants to see a run go by, and several at once."""

import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from pursuitnet.program.run_folder import Record

SHARE = 0.02
"""The most of a training's time that a callback takes for a picture."""


class Callback(Protocol):
    """Something that wants to see a run go by."""

    def on_train_begin(self, about: dict[str, Any]) -> None:
        """A run begins, or goes on: recipe, folder, parameters, device, images (training, test), steps an epoch."""

    def on_step_end(self, epoch: int, step: int, steps: int) -> None:
        """A step of an epoch has been taken; both count from 1."""

    def on_epoch_end(self, record: Record) -> None:
        """An epoch has ended; its line need not be in metrics.jsonl yet."""

    def close(self) -> None:
        """The run has ended or broken off; may come twice, and without any of the others before it."""


class NoOpCallback:
    """A callback that looks away."""

    def on_train_begin(self, about: dict[str, Any]) -> None: ...

    def on_step_end(self, epoch: int, step: int, steps: int) -> None: ...

    def on_epoch_end(self, record: Record) -> None: ...

    def close(self) -> None: ...


class CallbackList:
    """Several callbacks; one that fails is left out with one warning, so that the training goes on.

    Args:
        callbacks: what is told of everything, in this order.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.callbacks = list(callbacks)

    def on_train_begin(self, about: dict[str, Any]) -> None:
        self._notify(lambda callback: callback.on_train_begin(about))

    def on_step_end(self, epoch: int, step: int, steps: int) -> None:
        self._notify(lambda callback: callback.on_step_end(epoch, step, steps))

    def on_epoch_end(self, record: Record) -> None:
        self._notify(lambda callback: callback.on_epoch_end(record))

    def close(self) -> None:
        self._notify(lambda callback: callback.close())

    def _notify(self, what: Callable[[Callback], None]) -> None:
        for callback in tuple(self.callbacks):
            try:
                what(callback)
            except Exception as error:  # whatever it is, the training matters more
                self._leave_out(callback, error)

    def _leave_out(self, failed: Callback, error: Exception) -> None:
        self.callbacks = [callback for callback in self.callbacks if callback is not failed]
        with suppress(Exception):
            failed.close()  # a terminal is put back in order
        said = " ".join(f"{error}".split()) or type(error).__name__
        warnings.warn(f"{type(failed).__name__} has failed and is left out: {said}; the training goes on", stacklevel=4)

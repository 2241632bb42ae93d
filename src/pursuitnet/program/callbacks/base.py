"""The interface of callbacks that follow a run, and a list of them."""

import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from pursuitnet.program.run_folder import Record

SHARE = 0.02
"""Largest share of the training time that a callback may spend on drawing."""


class Callback(Protocol):
    """What a run calls at its begin, after every step and epoch, and at its end."""

    def on_train_begin(self, about: dict[str, Any]) -> None:
        """Called when a run begins or resumes.

        ``about`` holds recipe, folder, parameters, device, images (training, test), steps (of an epoch) and more.
        """

    def on_step_end(self, epoch: int, step: int, steps: int) -> None:
        """Called after every step; epoch and step count from 1."""

    def on_epoch_end(self, record: Record) -> None:
        """Called after every epoch; its line may not be in metrics.jsonl yet."""

    def close(self) -> None:
        """Called when the run has ended or failed; may be called twice, and without any of the others before it."""


class NoOpCallback:
    """A callback that does nothing; a base class for those that need only some of the methods."""

    def on_train_begin(self, about: dict[str, Any]) -> None: ...

    def on_step_end(self, epoch: int, step: int, steps: int) -> None: ...

    def on_epoch_end(self, record: Record) -> None: ...

    def close(self) -> None: ...


class CallbackList:
    """Several callbacks; one that raises is removed with one warning, and the training goes on.

    Args:
        callbacks: called in this order.
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

    def _notify(self, call: Callable[[Callback], None]) -> None:
        for callback in tuple(self.callbacks):
            try:
                call(callback)
            except Exception as error:  # whatever it is, the training must go on
                self._remove(callback, error)

    def _remove(self, failed: Callback, error: Exception) -> None:
        self.callbacks = [callback for callback in self.callbacks if callback is not failed]
        with suppress(Exception):
            failed.close()  # it may have to restore the terminal
        reason = " ".join(f"{error}".split()) or type(error).__name__
        warnings.warn(
            f"{type(failed).__name__} has failed and is removed: {reason}; the training goes on", stacklevel=4
        )

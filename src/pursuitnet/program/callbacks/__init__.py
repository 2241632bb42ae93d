"""Watching training: a live table or plain lines, TensorBoard, and a page that reloads itself."""

import os

from pursuitnet.program.callbacks.base import Callback, CallbackList, NoOpCallback
from pursuitnet.program.callbacks.files import ReportPage, TensorBoard
from pursuitnet.program.callbacks.terminal import LiveProgress, ProgressLines
from pursuitnet.program.run_folder import Record

__all__ = [
    "Callback",
    "CallbackList",
    "LiveProgress",
    "NoOpCallback",
    "ProgressLines",
    "Record",
    "ReportPage",
    "TensorBoard",
    "of_program",
]


def of_program(*, terminal: bool, tensorboard: bool = False) -> CallbackList:
    """Return what `pursuitnet train` tells of a run; nothing happens before it begins.

    Args:
        terminal: whether standard output is a terminal, on which a table can live.
        tensorboard: whether to write for TensorBoard too.

    Raises:
        ImportError: if TensorBoard is asked for and not installed.
    """
    logs = [TensorBoard()] if tensorboard else []
    said = LiveProgress() if terminal and os.environ.get("TERM") != "dumb" else ProgressLines()
    return CallbackList([said, *logs, ReportPage()])

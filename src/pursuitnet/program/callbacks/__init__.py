"""Callbacks that show the progress of training: a live table or plain lines, TensorBoard, and a page that reloads."""

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
    """Return the callbacks of `pursuitnet train`; nothing is shown or written before the run begins.

    Args:
        terminal: whether standard output is a terminal, which can show a live table.
        tensorboard: whether to write events for TensorBoard too.

    Raises:
        ImportError: if TensorBoard is requested but not installed.
    """
    logs = [TensorBoard()] if tensorboard else []
    progress = LiveProgress() if terminal and os.environ.get("TERM") != "dumb" else ProgressLines()
    return CallbackList([progress, *logs, ReportPage()])

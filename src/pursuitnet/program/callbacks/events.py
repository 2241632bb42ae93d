"""A file of TensorBoard's events; importing this needs tensorboard."""

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.compat.proto.tensor_pb2 import TensorProto  # type: ignore[import-untyped]
from tensorboard.compat.proto.types_pb2 import DT_STRING  # type: ignore[import-untyped]
from tensorboard.plugins.text.metadata import create_summary_metadata  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]


class EventFile:
    """A new file of events, flushed after each one, so that an error comes up where it can be met.

    Args:
        folder: where it goes.
        first: steps from here on that earlier files in the folder hold are taken back.
    """

    def __init__(self, folder: Path, first: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 1000}.{socket.gethostname()}.{os.getpid()}"
        self.file = (folder / name).open("xb")
        self.writer = RecordWriter(self.file)
        self._put(file_version="brain.Event:2")
        self._put(step=first, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers at a step."""
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._put(step=step, summary=summary)

    def text(self, tag: str, values: Mapping[str, Any]) -> None:
        """Write values as JSON, which Markdown leaves as it stands."""
        said = "\n".join("    " + line for line in json.dumps(values, indent=2).splitlines())
        text = TensorProto(dtype=DT_STRING, string_val=[said.encode()])
        kind = create_summary_metadata(display_name=None, description=None)
        self._put(summary=Summary(value=[Summary.Value(tag=tag, metadata=kind, tensor=text)]))

    def close(self) -> None:
        self.file.close()

    def _put(self, **event: Any) -> None:
        self.writer.write(Event(wall_time=time.time(), **event).SerializeToString())
        self.file.flush()

"""Something that wants to see a run go by."""

from typing import Any, Protocol


class Watcher(Protocol):
    """Something that wants to see a run go by."""

    def begin(self, about: dict[str, Any]) -> None:
        """A run begins, or goes on."""

    def batch(self, epoch: int, step: int, steps: int) -> None:
        """A step has been taken."""

    def epoch(self, record: dict[str, Any]) -> None:
        """An epoch has ended."""


class Silent:
    """A watcher that looks away."""

    def begin(self, about: dict[str, Any]) -> None: ...

    def batch(self, epoch: int, step: int, steps: int) -> None: ...

    def epoch(self, record: dict[str, Any]) -> None: ...

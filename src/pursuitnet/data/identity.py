"""Identity of the images of a run: the names of its classes, and number and checksum of the images of each split."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from pursuitnet.data.files import Split
from pursuitnet.data.streamed import Streamed

PART = 1024
"""Number of images processed at a time, since all of them may not fit into memory."""


@dataclass(frozen=True)
class SplitIdentity:
    """The number of images of a split, and the SHA-256 of images and labels, in order."""

    images: int
    sha256: str

    @classmethod
    def of(cls, split: "Split | tuple[Streamed, Tensor]") -> "SplitIdentity":
        """The identity of images (N, C, H, W) and labels (N,)."""
        if isinstance(split[0], Streamed):
            return cls(**split[0].remembered("part", split[1], lambda: asdict(cls._of(split))))
        return cls._of(split)

    @classmethod
    def _of(cls, split: "Split | tuple[Streamed, Tensor]") -> "SplitIdentity":
        sha256 = hashlib.sha256()
        for tensor in split:
            sha256.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            for part in tensor.split(PART):
                sha256.update(part.contiguous().numpy().data)
        return cls(len(split[1]), sha256.hexdigest())


@dataclass(frozen=True)
class Identity:
    """Identity of a data set at the time when a run was trained on it."""

    classes: tuple[str, ...]
    train: SplitIdentity
    test: SplitIdentity

    @classmethod
    def of(cls, classes: tuple[str, ...], train: Any, test: Any) -> "Identity":
        """The identity of the images of a data set that are used."""
        return cls(classes, SplitIdentity.of(train), SplitIdentity.of(test))

    def to_json(self) -> dict[str, Any]:
        """Every field as JSON has it."""
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Identity":
        """The identity with these fields; raises KeyError or TypeError if they do not match."""
        parts = (SplitIdentity(values[split]["images"], values[split]["sha256"]) for split in ("train", "test"))
        return cls(tuple(values["classes"]), *parts)

    def changes(self, now: "Identity", *splits: str) -> list[str]:
        """Descriptions of what has changed: classes, and the images of these splits, of both without an argument."""
        changes = []
        if gone := [name for name in self.classes if name not in now.classes]:
            changes.append(f"without {_listed(gone)}")
        if new := [name for name in now.classes if name not in self.classes]:
            changes.append(f"with {_listed(new)}")
        for split in splits or ("train", "test"):
            before, after = getattr(self, split), getattr(now, split)
            if before.images != after.images:
                changes.append(f"{after.images} images to {split} on instead of {before.images}")
            elif before != after:
                changes.append(
                    f"other images to {split} on (SHA-256 {after.sha256[:8]}… instead of {before.sha256[:8]}…)"
                )
        return changes


def _listed(names: list[str], most: int = 10) -> str:
    """The names of classes for a message, at most ``most`` of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"class{'es' if len(names) > 1 else ''} {', '.join(names[:most])}{more}"

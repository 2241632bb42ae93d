"""Original files fetched from their official places: resumed after a break, checked, moved into place when whole."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pursuitnet.data.progress import progress

_CHUNK = 1 << 16
_TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte


@dataclass(frozen=True)
class File:
    """An original file: its checksum ("md5:…" or "sha256:…"), size in bytes and address, None where unknown."""

    name: str
    checksum: str | None = None
    size: int | None = None
    url: str | None = None

    def check(self, content: bytearray, path: Path) -> None:
        """Raise ValueError, which names `path`, unless the content has this size and this checksum."""
        self._check_size(len(content), path)
        if self.checksum is None:
            return
        kind, expected = self.checksum.split(":")
        digest = hashlib.new(kind, content, usedforsecurity=False).hexdigest()
        if digest != expected:
            raise ValueError(
                f"{path} is altered or damaged; replace it by the original ({kind} {digest}, expected {expected})"
            )

    def _check_size(self, size: int, path: Path) -> None:
        if self.size is not None and size != self.size:
            raise ValueError(f"{path} has {size} bytes, expected {self.size}; replace it by the original")

    def content(self, path: Path) -> bytearray:
        """Return the checked content of the file at `path`; raises ValueError as `check` does."""
        size = path.stat().st_size
        self._check_size(size, path)  # before anything huge is read
        content = bytearray(size)
        with path.open("rb") as file:
            del content[file.readinto(content) :]
        self.check(content, path)
        return content


def fetch(file: File, folder: Path) -> Path:
    """Download a file into `folder` and return its path; what is there already and sound is not fetched again.

    The bytes go to NAME.part, which a later call continues, and to NAME once the checksum is right. Several
    processes may ask for the same file at once: one fetches it, the others wait.

    Raises ConnectionError, which says which file to put where by hand, if it cannot be had.
    """
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{file.name}.lock"):
            return _retrieve(file, folder, _Resuming(folder / f"{file.name}.part", file.size))
    except (OSError, ValueError) as error:
        reason = "what came has another checksum" if isinstance(error, ValueError) else " ".join(str(error).split())
        raise ConnectionError(
            f"{file.name} could not be downloaded ({reason}): try again, or put {file.url} ({file.checksum}) "
            f"into {folder} by hand"
        ) from error


def _retrieve(file: File, folder: Path, resuming: "_Resuming") -> Path:
    """Fetch and check a file; if it is wrong and had been begun by an earlier call, once more from its start."""
    import pooch  # type: ignore[import-untyped, unused-ignore]

    begun = resuming.part.exists()
    try:
        return Path(pooch.retrieve(file.url, file.checksum, file.name, folder, downloader=resuming))
    except ValueError:
        if not begun:
            raise
    return Path(pooch.retrieve(file.url, file.checksum, file.name, folder, downloader=resuming))


@dataclass(frozen=True)
class _Resuming:
    """A downloader for pooch that keeps what has arrived in `part` and asks only for the rest.

    Of a file whose `size` in bytes is known no more than that is fetched, whatever the server sends.
    """

    part: Path
    size: int | None = None

    def __call__(self, url: str, output_file: str, pooch: object, check_only: bool = False) -> None:
        """Download `url` to `output_file`, as often as each attempt brings more than the ones before."""
        most = -1
        while not self._whole(url):
            if self._size() <= most:
                raise ConnectionError(f"the connection breaks after {most} bytes")
            most = self._size()
        os.replace(self.part, output_file)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _whole(self, url: str) -> bool:
        """Append what arrives in one attempt; True if that was the end of the file."""
        import requests  # type: ignore[import-untyped, unused-ignore]
        from urllib3.exceptions import HTTPError

        have = self._size()
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                return self._complete_or_new(answer.headers.get("Content-Range", ""))
            answer.raise_for_status()
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                have = 0  # this server sends the whole file again
            length = answer.headers.get("Content-Length")
            total = self.size if length is None else have + int(length)
            self._require_size(total)
            try:
                self._write(answer.raw, have, total)
            except HTTPError:
                return False
        return total is None or self._size() == total

    def _require_size(self, size: int | None) -> None:
        """Raise ConnectionError if more is to come, or has come, than the file holds; what is wrong of it goes."""
        if self.size is not None and size is not None and size > self.size:
            self.part.unlink(missing_ok=True)
            raise ConnectionError(f"the server sends more than the {self.size:,} bytes of the file")

    def _complete_or_new(self, content_range: str) -> bool:
        """Nothing is left to send: the part is the whole file, or is none of it and goes."""
        if content_range == f"bytes */{self._size()}":
            return True
        self.part.unlink()
        return False

    def _write(self, stream: Any, have: int, total: int | None) -> None:
        with (
            progress(f"bytes of {self.part.stem}", total, have) as tell,
            self.part.open("r+b" if have else "wb") as out,
        ):
            out.seek(have)
            while chunk := stream.read(_CHUNK, decode_content=False):
                tell(out.write(chunk))
                self._require_size(out.tell())

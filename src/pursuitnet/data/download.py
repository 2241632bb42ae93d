"""Downloads of original files from their official URLs: resumed after an interruption, checked, renamed at the end."""

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
    """An original file: its checksum ("md5:…" or "sha256:…"), size in bytes and URL, None where unknown."""

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
        self._check_size(size, path)  # before a huge file is read
        content = bytearray(size)
        with path.open("rb") as file:
            del content[file.readinto(content) :]
        self.check(content, path)
        return content


def fetch(file: File, folder: Path) -> Path:
    """Download a file into `folder` and return its path; a file that is there and intact is not fetched again.

    The bytes are written to NAME.part, which a later call continues, and renamed to NAME once the checksum is right.
    Several processes may request the same file at once: one fetches it, the others wait.

    Raises ConnectionError if the download fails, with instructions for a download by hand.
    """
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{file.name}.lock"):
            return _retrieve(file, folder, _Resuming(folder / f"{file.name}.part", file.size))
    except (OSError, ValueError) as error:
        reason = "its checksum is wrong" if isinstance(error, ValueError) else " ".join(str(error).split())
        raise ConnectionError(
            f"{file.name} could not be downloaded ({reason}): try again, or put {file.url} ({file.checksum}) "
            f"into {folder} by hand"
        ) from error


def _retrieve(file: File, folder: Path, resuming: "_Resuming") -> Path:
    """Fetch and check a file; if it is wrong and an earlier call had started it, fetch it again from the start."""
    import pooch  # type: ignore[import-untyped, unused-ignore]

    resumed = resuming.part.exists()
    try:
        return Path(pooch.retrieve(file.url, file.checksum, file.name, folder, downloader=resuming))
    except ValueError:
        if not resumed:
            raise
    return Path(pooch.retrieve(file.url, file.checksum, file.name, folder, downloader=resuming))


@dataclass(frozen=True)
class _Resuming:
    """A downloader for pooch that keeps the bytes received in `part` and requests only the rest.

    If the `size` of the file in bytes is known, no more than that is fetched, whatever the server sends.
    """

    part: Path
    size: int | None = None

    def __call__(self, url: str, output_file: str, pooch: object, check_only: bool = False) -> None:
        """Download `url` to `output_file`, retrying as long as each attempt receives more bytes."""
        most = -1
        while not self._attempt(url):
            if self._size() <= most:
                raise ConnectionError(f"the connection is lost after {most} bytes")
            most = self._size()
        os.replace(self.part, output_file)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _attempt(self, url: str) -> bool:
        """Append the bytes of one attempt; return whether the file is complete."""
        import requests  # type: ignore[import-untyped, unused-ignore]
        from urllib3.exceptions import HTTPError

        have = self._size()
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                return self._complete_or_new(answer.headers.get("Content-Range", ""))
            answer.raise_for_status()
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                have = 0  # the server does not resume, and sends the whole file again
            length = answer.headers.get("Content-Length")
            total = self.size if length is None else have + int(length)
            self._require_size(total)
            try:
                self._write(answer.raw, have, total)
            except HTTPError:
                return False
        return total is None or self._size() == total

    def _require_size(self, size: int | None) -> None:
        """Raise ConnectionError, and delete the part, if more bytes are announced or received than the file has."""
        if self.size is not None and size is not None and size > self.size:
            self.part.unlink(missing_ok=True)
            raise ConnectionError(f"the server sends more than the {self.size:,} bytes of the file")

    def _complete_or_new(self, content_range: str) -> bool:
        """After a range error: return whether the part is the complete file; delete it if not."""
        if content_range == f"bytes */{self._size()}":
            return True
        self.part.unlink()
        return False

    def _write(self, stream: Any, have: int, total: int | None) -> None:
        with (
            progress(f"bytes of {self.part.stem}", total, have) as advance,
            self.part.open("r+b" if have else "wb") as out,
        ):
            out.seek(have)
            while chunk := stream.read(_CHUNK, decode_content=False):
                advance(out.write(chunk))
                self._require_size(out.tell())

"""The original files of a data set: their checksums, the layouts in which they are distributed, and their location."""

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from pursuitnet.data import cache, download
from pursuitnet.data.download import File

MOST = 1 << 28
"""Maximum number of bytes of a file in an archive whose size is not known; the largest has 154 million."""

Split = tuple[Tensor, Tensor]
"""Images uint8 (N, C, H, W) and labels int64 (N,)."""


@dataclass(frozen=True)
class Layout:
    """One form in which a data set is distributed: files by split, in a folder or in an archive of that folder.

    `decode` turns the content of one file into images and labels; its result is cached if `cached`. `balanced` data
    sets have equally many images of every class, which is checked where no checksum is known.
    """

    files: Mapping[str, tuple[File, ...]]
    decode: Callable[[bytearray], Split]
    folder: str = ""
    archive: File | None = None
    cached: bool = True
    balanced: bool = False

    def folder_in(self, root: Path) -> Path:
        """The folder of the files: inside `root`, or `root` itself if its name or its content matches."""
        inner = root / self.folder
        if inner.is_dir():
            return inner
        named = root.name == self.folder
        filled = any((root / file.name).is_file() for files in self.files.values() for file in files)
        return root if named or filled else inner

    def archive_in(self, root: Path) -> Path | None:
        """The path of the archive: inside `root`, or `root` itself if its name matches."""
        if self.archive is None:
            return None
        return root if root.name == self.archive.name else root / self.archive.name

    def unpacked(self, folder: Path, split: str) -> Iterator[tuple[Path, bytearray]]:
        """Yield path and checked content of the files of a split."""
        for file in self.files[split]:
            yield folder / file.name, file.content(folder / file.name)

    def packed(self, path: Path, split: str) -> Iterator[tuple[Path, bytearray]]:
        """Yield path and checked content of the files of a split, from the archive, without writing any of them."""
        content = self.archive.content(path) if self.archive else bytearray()
        inside = _members(content, path, {file.name: file.size for file in self.files[split]})
        for file in self.files[split]:
            if file.name not in inside:
                raise ValueError(f"{path} does not contain {file.name}; replace it by the original")
            file.check(inside[file.name], path / self.folder / file.name)
            yield path / self.folder / file.name, inside[file.name]

    def downloads(self, split: str) -> tuple[File, ...]:
        """The files to fetch for a split."""
        return self.files[split] if self.archive is None else (self.archive,)


@dataclass(frozen=True)
class Originals:
    """Reads a data set in any of its layouts; the first is the one that is downloaded."""

    name: str
    num_classes: int
    layouts: tuple[Layout, ...]
    page: str

    def __call__(self, root: Path | None, split: str, fetch: bool = False) -> Split:
        """Return one split from `root`, or from the user's cache if it is None; `fetch` downloads missing files."""
        place = cache.folder() / self.name if root is None else root
        source = self._locate(place, split)
        if source is None and fetch:
            for file in self.layouts[0].downloads(split):
                download.fetch(file, place)
            source = self._locate(place, split)
        if source is None:
            raise self._missing_error(root, split)
        layout, path = source
        if not layout.cached and path.is_dir():
            return self._read(layout, path, split)
        sources = [path / file.name for file in layout.files[split]] if path.is_dir() else [path]
        return cache.cached(f"{self.name}-{split}", sources, lambda: self._read(layout, path, split))

    def _locate(self, root: Path, split: str) -> tuple[Layout, Path] | None:
        """The first layout of which all files of the split exist, unpacked before packed, and its path."""
        for layout in self.layouts:
            folder = layout.folder_in(root)
            if all((folder / file.name).is_file() for file in layout.files[split]):
                return layout, folder
        for layout in self.layouts:
            path = layout.archive_in(root)
            if path is not None and path.is_file():
                return layout, path
        return None

    def _missing_error(self, root: Path | None, split: str) -> Exception:
        """The error for a split that is not found: the first missing file, and how to get it."""
        main = self.layouts[0]
        holds = main.folder or " and ".join(file.name for files in main.files.values() for file in files)
        if root is None:
            return ValueError(
                f"{self.name} is not in {cache.folder() / self.name}: pass root (--data-dir), "
                f"the folder that contains {holds}, or download=True (--download) in `pursuitnet train`"
            )
        begun = (layout for layout in self.layouts if layout.folder_in(root).is_dir())
        layout = next(begun, main)
        names = [layout.folder_in(root) / file.name for file in layout.files[split]]
        path = next(path for path in names if not path.is_file())
        how = "put it there" if layout.archive is None else f"unpack {layout.archive.name}"
        return FileNotFoundError(
            f"{path} is missing: {how} (from {self.page}) so that this file is there, or pass download=True "
            f"(--download) in `pursuitnet train`; root (--data-dir) is the folder that contains {holds}"
        )

    def _read(self, layout: Layout, path: Path, split: str) -> Split:
        """Decode one split and check its labels."""
        contents = layout.unpacked(path, split) if path.is_dir() else layout.packed(path, split)
        images, labels = zip(*(self._decoded(layout, *file) for file in contents), strict=True)
        all_labels = torch.cat(labels)
        counts = all_labels.bincount(minlength=self.num_classes)
        if layout.balanced and counts.min() != counts.max():
            raise ValueError(
                f"{path} has {int(counts.min())} to {int(counts.max())} images per class in the {split} files, "
                "expected equally many of each; replace them by the originals"
            )
        return torch.cat(images), all_labels

    def _decoded(self, layout: Layout, path: Path, content: bytearray) -> Split:
        """Images and labels of one file; every error names its path."""
        try:
            images, labels = layout.decode(content)
        except Exception as error:  # a damaged file may raise anything
            raise ValueError(f"{path} cannot be read ({_reason(error)}); replace it by the original") from error
        if labels.shape != images.shape[:1]:
            raise ValueError(f"{path} does not have one label per image; replace it by the original")
        wrong = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(wrong):
            expected = f"0..{self.num_classes - 1}"
            raise ValueError(f"{path} has label {int(wrong[0])}, expected {expected}; replace it by the original")
        return images, labels


def _members(content: bytearray, path: Path, sizes: Mapping[str, int | None]) -> dict[str, bytearray]:
    """The named files of a tar.gz, from any folder in it; files larger than their known size are not unpacked."""
    contents: dict[str, bytearray] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name in sizes and member.isfile():
                    contents[name] = _unpacked(archive, member, sizes[name])
                if len(contents) == len(sizes):
                    break
    except Exception as error:  # a damaged archive may raise anything
        raise ValueError(f"{path} cannot be unpacked ({_reason(error)}); replace it by the original") from error
    return contents


def _unpacked(archive: tarfile.TarFile, member: tarfile.TarInfo, size: int | None) -> bytearray:
    if member.size > (MOST if size is None else size):
        raise ValueError(f"{member.name} has {member.size:,} bytes, more than expected")
    opened = archive.extractfile(member)
    return bytearray() if opened is None else bytearray(opened.read())


def _reason(error: Exception) -> str:
    """The reason of an error as text, with its type where the message alone would not be clear, as of a KeyError."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: {text}".strip(": ")

"""Image after image, tile after tile."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pursuitnet.networks.denoiser import Denoiser, estimated_noise
from pursuitnet.networks.image import ImageNetwork
from pursuitnet.networks.tiles import Tile, cut, tiles
from pursuitnet.program.apply.canvas import Canvas, clear
from pursuitnet.program.factories import device_of
from pursuitnet.program.imaging import files
from pursuitnet.program.imaging.files import Array
from pursuitnet.program.lock import run_lock
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.sharing.loading import Trained, trained
from pursuitnet.program.writable import write_whole

JOURNAL = "apply.json"
"""In the folder of the results: which of them are done, and of what."""
SIDES = (256, 1024)
"""Least and largest side of a tile that is chosen."""
HALOS = 21
"""Halos that a tile is wide at least, if that is not above the largest side: a fifth more arithmetic than the whole."""
SEEN = 4_000_000
"""Pixels of an image that its noise is estimated from."""


@dataclass(frozen=True)
class Settings:
    """How to apply: the side of tiles ("auto", "none"), σ on the scale of 0 to 255, the device."""

    tile: int | str = "auto"
    sigma: float | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if not (self.tile in ("auto", "none") or (isinstance(self.tile, int) and self.tile >= 1)):
            raise ValueError(f"tile is {self.tile}; expected a side in pixels ≥ 1, auto or none")
        if self.sigma is not None and not 0 <= self.sigma < float("inf"):
            raise ValueError(f"sigma is {self.sigma}; expected a number ≥ 0, on the scale of 0 to 255")


@dataclass(frozen=True)
class Done:
    """What has become of an image: its result, or why there is none."""

    said: str
    failed: bool = False

    def __str__(self) -> str:
        return f"pursuitnet: {self.said}" if self.failed else self.said


def work(run: Path, images: Iterable[Path], out: Path, settings: Settings) -> Iterator[Done]:
    """Apply a trained network to images; yield what becomes of each.

    Raises:
        ValueError: if the run does not return images, or the settings do not fit it.
    """
    about = trained(run, device_of(Recipe(device=settings.device)))
    if not isinstance(about.network, ImageNetwork):
        raise ValueError(f"{run} classifies images; expected a run of --task denoise, segment or regress")
    if settings.sigma is not None and not isinstance(about.network, Denoiser):
        raise ValueError(f"sigma is {settings.sigma}, but {run} does not go by it: leave it out")
    weights = RunFolder(run).weights if run.is_dir() else run
    digest = hashlib.sha256(weights.read_bytes() + repr(settings.sigma).encode()).hexdigest()
    paths = [path for given in images for path in _expanded(given)]
    with run_lock(out):
        yield from _each(about, paths, out, settings, digest)


def _expanded(given: Path) -> list[Path]:
    """Return the images of a folder, or the file itself; a zarr array is a folder that counts as a file."""
    return files.listed(given) if given.is_dir() and given.suffix.lower() != ".zarr" else [given]


def _each(about: Trained, paths: list[Path], out: Path, settings: Settings, digest: str) -> Iterator[Done]:
    journal = _journal(out / JOURNAL)
    taken: dict[str, Path] = {}
    for path in paths:
        result, key = out / path.name, ""
        try:
            result, key = out / (path.stem + _ending(path, about)), _key(path, digest)
            if (before := taken.setdefault(result.name, path)) != path:
                raise ValueError(f"{path} has the name of {before}: give them another --out each")
            if result.exists() and journal.get(result.name) == key:
                clear(_beside(result))  # a kill may have come just before this
                yield Done(f"{result} (done before)")
                continue
            if result.exists():
                raise ValueError(f"{result} exists, and is not overwritten: name another --out")
            journal[result.name] = key  # first, so that a result is never without its entry
            write_whole(out / JOURNAL, json.dumps(journal, indent=1))
            _apply(about, path, result, settings, key)
            yield Done(str(result))
        except (ValueError, OSError, ImportError, MemoryError) as error:
            if journal.get(result.name) == key and not result.exists():
                del journal[result.name]
            yield Done(" ".join(str(error).split()) or f"{path}: {type(error).__name__}", failed=True)


def _journal(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged; remove it, and the results beside it or name another --out")
    return found


def _key(path: Path, digest: str) -> str:
    """Return what tells this computation from others: of the same network, on the same file."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    about = path.stat()
    told = f"{digest} {path.resolve()} {about.st_size} {about.st_mtime_ns}"
    return hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()


def _ending(path: Path, about: Trained) -> str:
    """Return the ending of a result: that of its image where that format holds it."""
    ending = path.suffix.lower()
    if ending not in files.KINDS:
        raise ValueError(f"{path} is none of the images that are read: {', '.join(files.KINDS)}")
    if ending in (".npy", ".tif", ".tiff", ".zarr"):
        return path.suffix
    whole = about.recipe.task != "regress" or about.targets["dtype"] in files.WHITE
    return ".png" if whole and (_channels(about) in (1, 3) or about.recipe.task == "denoise") else ".tif"


def _apply(about: Trained, path: Path, result: Path, settings: Settings, key: str) -> None:
    """Write the result of one image."""
    pages = files.read(path)
    if pages.shape[3] != len(about.mean) and not (about.recipe.task == "denoise" and len(about.mean) == 1):
        raise ValueError(f"{path} has {pages.shape[3]} channels; expected {len(about.mean)}, as in training")
    channels = pages.shape[3] if about.recipe.task == "denoise" else _channels(about)
    dtype, size = _dtype(about, pages.dtype.name), pages.shape[1:3]
    canvas = Canvas(_beside(result), (*pages.shape[:3], channels), dtype, key)
    places = [(page, tile) for page in range(len(pages)) for tile in _tiles(about.network, size, settings.tile)]
    noises: dict[int, dict[str, Tensor]] = {}
    for number, (page, tile) in enumerate(_shown(places, result.name)):
        if number < canvas.done:
            continue
        if page not in noises:
            noises = {page: _given(about, pages[page], settings)}
        canvas.array[(page, *tile.inner)] = _part(about, pages[page], tile, noises[page], dtype)
        canvas.filled()
    canvas.keep()
    files.write(result, canvas.array, files.shape_of(path))
    clear(_beside(result))


def _beside(result: Path) -> Path:
    """Return the name of what a large result grows in."""
    return result.with_name(f".{result.name}.part")


def _channels(about: Trained) -> int:
    return 1 if about.recipe.task == "segment" else len(about.classes)


def _dtype(about: Trained, image: str) -> Any:
    """Return the number type of a result."""
    if about.recipe.task != "segment":
        return np.dtype(image if about.recipe.task == "denoise" else about.targets["dtype"])
    most, least = max(map(int, _labels(about))), min(map(int, _labels(about)))
    return np.min_scalar_type(most if least >= 0 else min(least, -most - 1))


def _labels(about: Trained) -> list[int]:
    return [{"False": 0, "True": 1}.get(name) if name in ("False", "True") else int(name) for name in about.classes]  # type: ignore[misc]


def _tiles(model: Any, size: tuple[int, ...], side: int | str) -> Iterator[Tile]:
    """Yield the tiles of an image, or the image as one."""
    if side == "auto":
        chosen = min(max(HALOS * model.halo, SIDES[0]), SIDES[1])
        side = chosen if max(size) > 1.5 * chosen else "none"
    if isinstance(side, str):
        return tiles(size, max(size), 0)
    return tiles(size, side, model.halo, model.grid)


def _given(about: Trained, page: Array, settings: Settings) -> dict[str, Tensor]:
    """Return the noise of an image for a denoiser: as it was said, or trained for, or estimated."""
    if not isinstance(about.network, Denoiser):
        return {}
    low, high = about.recipe.noise()
    known = settings.sigma if settings.sigma is not None else low if low == high else None
    if known is not None:
        return {"sigma": torch.tensor(known / 255, device=about.mean.device)}
    side = int(SEEN**0.5)  # the middle stands for all
    box = [slice(max(0, (n - side) // 2), max(0, (n - side) // 2) + side) for n in page.shape[:2]]
    return {"sigma": estimated_noise(_image(about, page[tuple(box)]).flatten(0, 1)[None]).reshape(())}


def _image(about: Trained, pixels: Array) -> Tensor:
    """Return pixels (H, W, C) as the network takes them: (1, C, H, W), or (C, 1, H, W) where it knows one channel."""
    image = torch.from_numpy(files.unit(np.ascontiguousarray(pixels))).movedim(-1, 0).to(about.mean.device)
    image = image[None] if len(image) == len(about.mean) else image[:, None]
    return (image - about.mean.view(-1, 1, 1)) / about.std.view(-1, 1, 1)


@torch.inference_mode()
def _part(about: Trained, page: Array, tile: Tile, given: dict[str, Tensor], dtype: Any) -> Array:
    """Return the result of one tile, (h, w, channels), of its number type."""
    found = cut(about.network(_image(about, page[tile.window]), **given), tile.crop)
    if about.recipe.task == "segment":
        labels = torch.tensor(_labels(about), device=found.device)
        return labels[found.argmax(1)].movedim(0, -1).cpu().numpy().astype(dtype)
    if about.recipe.task == "denoise":
        found = found * about.std.view(-1, 1, 1) + about.mean.view(-1, 1, 1)
    if about.recipe.task == "regress":
        found = found * (about.targets["high"] - about.targets["low"]) + about.targets["low"]
    return files.ranged(found.flatten(0, 1).movedim(0, -1).float().cpu().numpy(), np.dtype(dtype).name)


def _shown(places: list[Any], name: str) -> Iterable[Any]:
    """Return the tiles, with a bar on a terminal."""
    from tqdm import tqdm

    return tqdm(places, name, leave=False, disable=None, unit="tile")

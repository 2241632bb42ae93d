"""Apply a network to image files, tile by tile."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pursuitnet.networks.denoiser import Denoiser, estimated_noise
from pursuitnet.networks.image import ImageNetwork
from pursuitnet.networks.tiles import Tile
from pursuitnet.program.apply.canvas import Canvas, clear
from pursuitnet.program.apply.cluster import Compute, on_cluster
from pursuitnet.program.apply.tiles import GPU_PIXELS, TileInput, batches, image_of, labels_of, results_of, tiles_of
from pursuitnet.program.factories import device_of
from pursuitnet.program.imaging import files
from pursuitnet.program.imaging.files import Pages
from pursuitnet.program.lock import run_lock
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.sharing.loading import Trained, shipped_with, trained, weights_file
from pursuitnet.program.writable import write_whole

JOURNAL = "apply.json"
"""File in the folder of the results that lists those that are done, with the key of their computation."""
NOISE_PIXELS = 4_000_000
"""Pixels of an image from which its noise is estimated."""


@dataclass(frozen=True)
class Settings:
    """Settings of ``apply``: the side of tiles ("auto", "none"), σ on the scale of 0 to 255, the device, a cluster."""

    tile: int | str = "auto"
    sigma: float | None = None
    device: str = "auto"
    dask: str | None = None

    def __post_init__(self) -> None:
        if not (self.tile in ("auto", "none") or (isinstance(self.tile, int) and self.tile >= 1)):
            raise ValueError(f"tile is {self.tile}; expected a side in pixels ≥ 1, auto or none")
        if self.sigma is not None and not 0 <= self.sigma < float("inf"):
            raise ValueError(f"sigma is {self.sigma}; expected a number ≥ 0, on the scale of 0 to 255")


@dataclass(frozen=True)
class Done:
    """The outcome for one image: the path of its result, or an error message."""

    message: str
    failed: bool = False

    def __str__(self) -> str:
        return f"pursuitnet: {self.message}" if self.failed else self.message


def apply_to_files(run: Path, images: Iterable[Path], out: Path, settings: Settings) -> Iterator[Done]:
    """Apply a trained network to image files; yield the outcome for each.

    Raises:
        ValueError: if the run does not return images, or the settings do not fit it.
    """
    loaded = _load(run, settings.device if settings.dask is None else "cpu")
    if not isinstance(loaded.network, ImageNetwork):
        raise ValueError(f"{run} classifies images; expected a run of --task denoise, segment or regress")
    if settings.sigma is not None and not isinstance(loaded.network, Denoiser):
        raise ValueError(f"sigma is {settings.sigma}, but {run} does not use it: leave it out")
    digest = hashlib.sha256(weights_file(run).read_bytes() + repr(settings.sigma).encode()).hexdigest()
    paths = [path for given in images for path in _image_files(given)]
    if not any(path.exists() for path in paths):
        yield from (Done(f"{path} is missing", failed=True) for path in paths)
        return  # without a folder for results
    with run_lock(out), _computation(loaded, run, settings) as compute:
        yield from _apply_each(loaded, paths, out, settings, digest, compute)


def _computation(loaded: Trained, run: Path, settings: Settings) -> AbstractContextManager[Compute]:
    """Return how tiles are computed: in this process, or on a cluster whose workers load the network themselves."""
    if settings.dask is None:
        return nullcontext(lambda inputs: (results_of(loaded, batch) for batch in inputs))
    load = partial(_load, run if shipped_with(run) else run.absolute(), settings.device)
    return on_cluster(settings.dask, load, results_of, gpu=settings.device.startswith("cuda"))


def _load(run: Path, device: str) -> Trained:
    return trained(run, device_of(Recipe(device=device)))


def _image_files(given: Path) -> list[Path]:
    """Return the images of a folder, or the file itself; a zarr array is a folder that counts as a file."""
    return files.image_files(given) if given.is_dir() and given.suffix.lower() != ".zarr" else [given]


def _apply_each(
    loaded: Trained, paths: list[Path], out: Path, settings: Settings, digest: str, compute: Compute
) -> Iterator[Done]:
    journal = _journal(out / JOURNAL)
    sources: dict[str, Path] = {}
    for path in paths:
        result, key = out / path.name, ""
        try:
            result, key = out / (path.stem + _suffix(path, loaded)), _key(path, digest)
            if (first := sources.setdefault(result.name, path)) != path:
                raise ValueError(f"{path} and {first} would have the same result: give each an --out of its own")
            if result.exists() and journal.get(result.name) == key:
                clear(result)  # a killed process may have left them
                yield Done(f"{result} (done before)")
                continue
            if result.exists():
                raise ValueError(f"{result} exists, and is not overwritten: name another --out")
            journal[result.name] = key  # before the result, so that no result lacks its entry
            write_whole(out / JOURNAL, json.dumps(journal, indent=1))
            _apply(loaded, path, result, settings, key, compute)
            yield Done(str(result))
        except (ValueError, OSError, ImportError, MemoryError) as error:
            if journal.get(result.name) == key and not result.exists():
                del journal[result.name]
            yield Done(" ".join(str(error).split()) or f"{path}: {type(error).__name__}", failed=True)


def _journal(path: Path) -> dict[str, str]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        entries = None
    if not isinstance(entries, dict):
        raise ValueError(f"{path} is damaged; remove it and the results in its folder, or name another --out")
    return entries


def _key(path: Path, digest: str) -> str:
    """Return the checksum that identifies a computation: of the network, on the file as it is now."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    identity = hashlib.sha256(f"{digest} {path.resolve()}".encode(errors="surrogateescape"))
    for part in (path, *sorted(path.rglob("*"))):  # a zarr array is a folder of many files
        status = part.stat()
        identity.update(f"{part.name} {status.st_size} {status.st_mtime_ns}".encode(errors="surrogateescape"))
    return identity.hexdigest()


def _suffix(path: Path, loaded: Trained) -> str:
    """Return the suffix of a result: that of its image if that format can hold it."""
    suffix = path.suffix.lower()
    if suffix not in files.KINDS:
        raise ValueError(f"{path} has none of the supported formats: {', '.join(files.KINDS)}")
    if suffix in (".npy", ".tif", ".tiff", ".zarr"):
        return path.suffix
    integers = loaded.recipe.task != "regress" or loaded.targets["dtype"] in files.WHITE
    return ".png" if integers and (_channels(loaded) in (1, 3) or loaded.recipe.task == "denoise") else ".tif"


def _apply(loaded: Trained, path: Path, result: Path, settings: Settings, key: str, compute: Compute) -> None:
    """Write the result of one image."""
    pages, shape = files.read_lazily(path)
    if pages.shape[3] != len(loaded.mean) and not (loaded.recipe.task == "denoise" and len(loaded.mean) == 1):
        raise ValueError(f"{path} has {pages.shape[3]} channels; expected {len(loaded.mean)}, as in training")
    channels = pages.shape[3] if loaded.recipe.task == "denoise" else _channels(loaded)
    dtype = _dtype(loaded, pages.dtype.name)
    canvas = Canvas(result, pages, channels, dtype, f"{key} {settings.tile}")  # other tiles are in another order
    network: Any = loaded.network
    places = [(p, tile) for p in range(len(pages)) for tile in tiles_of(network, pages.shape[1:3], settings.tile)]
    left = places[canvas.done :]
    inputs = _inputs(loaded, pages, left, settings, dtype)
    results = chain.from_iterable(compute(batches(inputs, _pixels_at_once(loaded, settings))))
    try:
        for (page, tile), pixels in zip(_with_bar(left, result.name, canvas.done), results, strict=True):
            canvas.add(page, tile.inner, pixels)
    finally:
        canvas.save()
    canvas.finish(shape)


def _pixels_at_once(loaded: Trained, settings: Settings) -> int:
    """Return how many pixels are computed at a time: many on a GPU, one tile on a processor."""
    device = loaded.mean.device.type if settings.dask is None else settings.device.partition(":")[0]
    return GPU_PIXELS if device == "cuda" else 0


def _inputs(
    loaded: Trained, pages: Pages, places: list[tuple[int, Tile]], settings: Settings, dtype: Any
) -> Iterator[TileInput]:
    """Yield what each tile is computed from: its window is read when its turn comes."""
    noises: dict[int, dict[str, Tensor]] = {}
    for page, tile in places:
        if page not in noises:
            noises = {page: _noise(loaded, pages, page, settings)}
        place: Any = (page, *tile.window)
        yield TileInput(np.array(pages[place]), tile, noises[page], dtype)


def _channels(loaded: Trained) -> int:
    return 1 if loaded.recipe.task == "segment" else len(loaded.classes)


def _dtype(loaded: Trained, image: str) -> Any:
    """Return the number type of a result."""
    if loaded.recipe.task != "segment":
        return np.dtype(image if loaded.recipe.task == "denoise" else loaded.targets["dtype"])
    most, least = max(map(int, labels_of(loaded))), min(map(int, labels_of(loaded)))
    return np.min_scalar_type(most if least >= 0 else min(least, -most - 1))


def _noise(loaded: Trained, pages: Pages, page: int, settings: Settings) -> dict[str, Tensor]:
    """Return the noise of a page for a denoiser: as given, or as in training, or estimated."""
    if not isinstance(loaded.network, Denoiser):
        return {}
    low, high = loaded.recipe.noise()
    known = settings.sigma if settings.sigma is not None else low if low == high else None
    if known is not None:
        return {"sigma": torch.tensor(known / 255, device=loaded.mean.device)}
    side = int(NOISE_PIXELS**0.5)  # estimated from the center
    box: list[Any] = [slice(max(0, (n - side) // 2), max(0, (n - side) // 2) + side) for n in pages.shape[1:3]]
    return {"sigma": estimated_noise(image_of(loaded, pages[(page, *box)]).flatten(0, 1)[None]).reshape(())}


def _with_bar(places: list[Any], name: str, done: int) -> Iterable[Any]:
    """Return the tiles that are left with a progress bar, if on a terminal."""
    from tqdm import tqdm

    total = done + len(places)
    return tqdm(places, name, total=total, initial=done, leave=False, disable=None, unit="tile")

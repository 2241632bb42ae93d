"""Memory and arithmetic of ``pursuitnet apply`` on an image that is larger than memory, from zarr to zarr.

    python benchmarks/large_images.py [--side 16384] [--width 49] [--chunk 512] [--tile auto] [--threads 2]
                                      [--out runs/large] [--keep]

Draws an OME-Zarr image of 16 bits chunk by chunk, trains a denoiser for a moment (its weights do not matter here),
applies it in a process of its own, and prints that process' peak memory, its time, and the pixels of all windows
(tiles with their halos) over the pixels of the image: the arithmetic compared with that of the whole.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import zarr

import pursuitnet as pn
from pursuitnet.program.apply.tiles import tiles_of


def draw(path: Path, side: int, chunk: int) -> None:
    """Write a noisy image of smooth waves, one chunk at a time."""
    group = zarr.open_group(str(path), mode="w")
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scale = [{"type": "scale", "scale": [0.25, 0.25]}]
    levels = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs.update({"ome": {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}})
    array = zarr.open(str(path / "0"), mode="w", shape=(side, side), chunks=(chunk, chunk), dtype=np.uint16)
    draws = np.random.default_rng(0)
    for top in range(0, side, chunk):
        for left in range(0, side, chunk):
            rows, columns = np.mgrid[top : min(top + chunk, side), left : min(left + chunk, side)]
            waves = 0.5 + 0.2 * np.cos(rows / 17) * np.cos(columns / 23) + draws.normal(0, 0.1, rows.shape)
            array[top : top + chunk, left : left + chunk] = (np.clip(waves, 0, 1) * 65_535).astype(np.uint16)


def train(folder: Path, width: int) -> Path:
    """Return the run of a denoiser that was trained on two small images."""
    (folder / "photographs").mkdir(parents=True)
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 65_535, (64, 64)).astype(np.uint16)
        np.save(folder / "photographs" / f"{number}.npy", image)
    where = {"data": "images", "data_dir": folder / "photographs"}
    recipe = pn.Recipe(task="denoise", sigma="25", width=width, epochs=1, patch=32, batch_size=2, **where)
    pn.train(recipe, folder / "run")
    return folder / "run"


def main() -> None:
    """Print the figures of one image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("side", 16_384), ("width", 49), ("chunk", 512), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--tile", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/large"))
    parser.add_argument("--keep", action="store_true", help="leave the images where they are")
    given = parser.parse_args()
    run, image = train(given.out, given.width), given.out / "image.zarr"
    draw(image, given.side, given.chunk)
    model = pn.load(run)
    side = int(given.tile) if given.tile.isdigit() else given.tile
    windows = [tile.window for tile in tiles_of(model, (given.side, given.side), side)]
    pixels = sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in windows)
    command = [sys.executable, "-m", "pursuitnet", "apply", run, image, "--out", given.out / "results"]
    began = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
    subprocess.run([*map(str, command), "--tile", given.tile], check=True, env=environment)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # of the largest child
    result = zarr.open(str(given.out / "results" / image.name), mode="r")["0"]
    assert result.shape == (given.side, given.side)
    print(f"{given.side} × {given.side} pixels, {len(windows)} tiles, halo {model.halo}, {given.threads} threads")
    print(f"peak memory {peak / 2**30:.2f} GiB, {seconds:.0f} s")
    print(f"arithmetic {pixels / given.side**2:.3f} times that of the whole")
    if not given.keep:
        shutil.rmtree(given.out)


if __name__ == "__main__":
    main()

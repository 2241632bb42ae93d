"""The command ``pursuitnet apply``. PyTorch is loaded when it runs."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pursuitnet.program.writable import check_folder


def apply(
    run: Path,
    images: Annotated[list[Path], Parameter(consume_multiple=True, negative="")],
    /,
    *,
    out: Path,
    tile: int | Literal["auto", "none"] = "auto",
    sigma: float | None = None,
    device: str = "auto",
    dask: str | None = None,
) -> None:
    """Apply a trained network to images: denoise, segment or regress them, of any size.

    A result has the name, the number type and the range of its image; labels are whole numbers, and a JPEG becomes a
    PNG. Nothing is overwritten. If a file cannot be read, its name is printed, the others are done, and the exit code
    is 1. If it is killed, the same call continues where it stopped.

    Args:
        run: A run folder written by `pursuitnet train --task …`, its model.safetensors, or a pretrained network that
            returns images: csc_denoiser.
        images: Files (PNG, TIFF, NPY, JPEG, zarr arrays), or folders of files.
        out: Folder for the results.
        tile: Side of the tiles in pixels, which give the same result as the whole image; auto: chosen by the network's
            halo; none: always the whole image.
        sigma: For denoising: standard deviation of the noise on the scale of 0 to 255; by default the one that the
            network was trained for, or estimated from the image if it was trained for a range.
        device: Where to compute: auto (the accelerator, if there is one), cpu, cuda, cuda:1, …
        dask: Address of a Dask scheduler over whose workers the tiles are spread; they must see the run. Tiles of a
            worker that is killed are computed again.
    """
    from pursuitnet.program.apply.files import Settings, apply_to_files
    from pursuitnet.utils.memory import keep_freed_memory

    keep_freed_memory(large=False)  # images may be larger than memory
    check_folder(out)
    failed = False
    for done in apply_to_files(run, images, out, Settings(tile, sigma, device, dask)):
        failed |= done.failed
        print(done, file=sys.stderr if done.failed else sys.stdout, flush=True)
    if failed:
        sys.exit(1)

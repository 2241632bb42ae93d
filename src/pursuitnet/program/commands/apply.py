"""The command: arguments → images out."""

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
) -> None:
    """Apply a trained network to images: denoise, segment or regress them, of any size.

    A result has the name, the number type and the range of its image; labels are whole numbers, and a JPEG becomes a
    PNG. Nothing is overwritten. A file that cannot be read is named, the others are done, and the exit code is 1.
    Killed at any instant, the same call goes on where it was.

    Args:
        run: A run folder that `pursuitnet train --task …` has left, or its model.safetensors.
        images: Files (PNG, TIFF, NPY, JPEG, zarr arrays), or folders of files.
        out: Folder for the results.
        tile: Side of the tiles in pixels, which give the same result as the whole image; auto: by the size of the
            network's halo; none: always the whole image.
        sigma: To denoise: standard deviation of the noise on the scale of 0 to 255; by default the one that the network
            was trained for, or estimated from the image if it was trained for a range.
        device: Where to compute: auto (the accelerator, if there is one), cpu, cuda, cuda:1, …
    """
    from pursuitnet.program.apply.work import Settings, work

    check_folder(out)
    failed = False
    for done in work(run, images, out, Settings(tile, sigma, device)):
        failed |= done.failed
        print(done, file=sys.stderr if done.failed else sys.stdout, flush=True)
    if failed:
        sys.exit(1)

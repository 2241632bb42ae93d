"""The command ``pursuitnet learn``. PyTorch is loaded when it runs."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pursuitnet.program.writable import check_folder


def learn(
    images: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    out: Path,
    atoms: str = "100",
    size: str = "11",
    beta: float = 0.2,
    atom_nonzeros: int | None = None,
    nonnegative: Annotated[bool, Parameter(negative="")] = False,
    robust: Annotated[bool, Parameter(negative="")] = False,
    online: Annotated[bool, Parameter(negative="")] = False,
    color: Annotated[bool, Parameter(negative="")] = False,
    prepare: Literal["contrast", "highpass", "none"] = "contrast",
    iterations: int | None = None,
    tol: float = 1e-4,
    seed: int = 0,
    device: str = "auto",
    resume: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Learn a convolutional dictionary from images; write dictionary.safetensors, history.jsonl and learn.html.

    If a file is not an image, or smaller than the atoms, its name is printed, the others are used, and the exit code
    is 1.

    Args:
        images: Image files, and folders of them.
        out: A new folder for the results.
        atoms: Number of atoms; one for each of several layers, such as 32,16.
        size: Height and width of each atom in pixels, odd with --robust; one for each layer, as often as for atoms.
        beta: Weight of Σ|Γ|, in the units of the prepared images.
        atom_nonzeros: Of several layers, the most non-zeros of an atom after the first layer; by default no limit.
        nonnegative: Codes ≥ 0.
        robust: Learn [I D]: pixels that fit no atom go into an identity part.
        online: Use each image once, one after the other, so that memory does not grow with their number.
        color: Keep three channels; by default images are gray.
        prepare: Preprocessing: contrast subtracts the local mean and divides by the local deviation, highpass subtracts
            the local mean, none leaves the images in [0, 1].
        iterations: Most rounds over all images; by default 100, and with --online always 1.
        tol: Stop when a round lowers the objective by no more than this, relative to it.
        seed: Seed of the atoms it starts from, patches of the images.
        device: Where to compute: auto (the accelerator, if there is one), cpu, cuda, cuda:1, …
        resume: Continue after the last finished round of the run in --out.
    """
    check_folder(out)
    from pursuitnet.program.learn.run import learn_from_files
    from pursuitnet.program.learn.settings import Settings, per_layer

    counts, sizes = per_layer("atoms", atoms), per_layer("size", size)
    settings = Settings(
        counts, sizes, beta, atom_nonzeros, nonnegative, robust, online, color, prepare, iterations, tol, seed, device
    )  # fmt: skip
    failures: list[str] = []

    def report_failure(message: str) -> None:
        failures.append(message)
        print(f"pursuitnet: {message}", file=sys.stderr, flush=True)

    learn_from_files(images, out, settings, resume, partial(print, flush=True), report_failure)
    if failures:
        sys.exit(1)

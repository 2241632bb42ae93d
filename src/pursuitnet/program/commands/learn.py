"""The command; PyTorch is loaded when it runs."""

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
    atoms: int = 100,
    size: int = 11,
    beta: float = 0.2,
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
    """Learn a convolutional dictionary from images; leave dictionary.safetensors, history.jsonl and learn.html.

    Args:
        images: Image files, and folders of them.
        out: A new folder for what is found.
        atoms: Number of atoms.
        size: Height and width of each atom in pixels, odd with --robust.
        beta: Weight of Σ|Γ|, in the units of the prepared images.
        nonnegative: Codes ≥ 0.
        robust: Learn [I D]: pixels that fit no atom go into an identity part.
        online: See each image once, one after the other, so that memory does not grow with their number.
        color: Keep three channels; by default images are gray.
        prepare: What is done to the images: contrast subtracts the local mean and divides by the local deviation,
            highpass subtracts what is smooth, none leaves them in [0, 1].
        iterations: Rounds over all images at most; by default 100, and with --online always 1.
        tol: Stop when a round lowers the objective by no more, relatively.
        seed: Seed of the atoms it starts from, patches of the images.
        device: Where to compute: auto (the accelerator, if there is one), cpu, cuda, cuda:1, …
        resume: Go on after the last finished round of the run in --out.
    """
    check_folder(out)
    from pursuitnet.program.learn.run import Settings, run

    settings = Settings(
        atoms, size, beta, nonnegative, robust, online, color, prepare, iterations, tol, seed, device
    )  # fmt: skip
    run(images, out, settings, resume, partial(print, flush=True))

"""``pursuitnet predict``: the classes of image files. Loads no PyTorch before it is called."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pursuitnet.program.writable import check_file

if TYPE_CHECKING:
    from pursuitnet.program.predict.predictions import Answer


def predict(
    run: str,
    /,
    *images: Path,
    top: int = 5,
    csv: Path | None = None,
    explain: Annotated[bool, Parameter(negative="")] = False,
    page: Path | None = None,
    white_level: float | None = None,
    device: str = "auto",
) -> None:
    """Say what a trained network sees in image files: classes and their probabilities.

    Images of any format and size that training takes are scaled and cropped as in training. A file that is no image is
    named, the others are answered, and the exit code is 1.

    Args:
        run: A run folder that `pursuitnet train` has left, its model.safetensors, or the name of a pretrained network.
        images: Files, folders of images, or patterns such as `scans/*.png`.
        top: Classes to name of each image.
        csv: Also write them into this file, as a table: file, class, probability, class_2, probability_2, …, error.
        explain: Also leave a page: what each layer keeps of an image, and which atoms carry the decision.
        page: Where the page goes, HTML; by default explain.html here.
        white_level: Value of white in images with more than 8 bits that do not say it, such as 4095 for 12 bits; by
            default that of the training.
        device: Where to compute: auto (the accelerator, if there is one), cpu, cuda, cuda:1, …
    """
    from pursuitnet.data.progress import progress
    from pursuitnet.data.unlabeled import found
    from pursuitnet.program.factories import device_of
    from pursuitnet.program.predict.predictions import SHOWN_IMAGES, answers, check_table, write_table
    from pursuitnet.program.recipe import Recipe
    from pursuitnet.program.sharing import trained
    from pursuitnet.program.sharing.loading import check_classifies

    if top < 1:
        raise ValueError(f"top is {top}; expected at least 1")
    if not images:
        raise ValueError("no images are named; name files, folders of images, or patterns such as 'scans/*.png'")
    if explain or page is not None:
        page = _page(page)
    if csv is not None:
        check_file(csv, "--csv")
        check_table(csv)
    about = trained(run, device_of(Recipe(device=device)))
    check_classifies(about, run)
    paths = found(images)
    if not paths:
        raise FileNotFoundError(f"no images are in {', '.join(map(str, images))}; name files, or folders of some")
    decode, top = about.decoder(paths, white_level), min(top, len(about.classes))
    said: list[Answer] = []
    shown: list[Answer] = []
    with progress("images", len(paths)) as tell:
        for answer in answers(about, decode, paths, top, tell):
            if answer.pixels is not None and len(shown) < SHOWN_IMAGES:
                shown.append(answer)
            said.append(answer.without_pixels())
            _tell(answer)
    if csv is not None:
        print(write_table(csv, said, top))
    if page is not None:
        from pursuitnet.program.predict.page import write_page

        more = sum(not answer.error for answer in said) - len(shown)
        print(write_page(page, about, shown, Path(run).name, more))
    if any(answer.error for answer in said):
        sys.exit(1)


def _page(page: Path | None) -> Path:
    """Return where the page goes, if nothing is lost there."""
    from pursuitnet.program.predict.page import MARK
    from pursuitnet.program.predict.predictions import check_replaceable

    page = page or Path("explain.html")
    check_file(page, "--page")
    check_replaceable(page, MARK, "a page of predictions", "--page")
    return page


def _tell(answer: "Answer") -> None:
    """Print what was found, or on the other stream what is wrong with a file."""
    from pursuitnet.data.progress import say

    if answer.error:
        print(f"pursuitnet: {answer.error}", file=sys.stderr, flush=True)
    else:
        say(answer.line())

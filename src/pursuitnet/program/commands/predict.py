"""``pursuitnet predict``: the classes of image files. Loads no PyTorch before it is called."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pursuitnet.program.writable import check_file

if TYPE_CHECKING:
    from pursuitnet.program.predict.predictions import FilePrediction


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
    """Classify image files with a trained network: print classes and their probabilities.

    Images of any format and size that training accepts are scaled and cropped as in training. If a file is not an
    image, its name is printed, the others are classified, and the exit code is 1.

    Args:
        run: A run folder written by `pursuitnet train`, its model.safetensors, or the name of a pretrained network.
        images: Files, folders of images, or patterns such as `scans/*.png`.
        top: Number of classes to print for each image.
        csv: Also write them to this file, as a table: file, class, probability, class_2, probability_2, …, error.
        explain: Also write a page: what each layer keeps of an image, and which atoms decide the class.
        page: Path of that page, HTML; by default explain.html in the current folder.
        white_level: Value of white in images with more than 8 bits that do not state it, such as 4095 for 12 bits; by
            default that of the training.
        device: Where to compute: auto (the accelerator, if there is one), cpu, cuda, cuda:1, …
    """
    from pursuitnet.data.progress import progress
    from pursuitnet.data.unlabeled import find_images
    from pursuitnet.program.factories import device_of
    from pursuitnet.program.predict.predictions import SHOWN_IMAGES, check_table, predictions, write_table
    from pursuitnet.program.recipe import Recipe
    from pursuitnet.program.sharing import trained
    from pursuitnet.program.sharing.loading import check_classifies

    if top < 1:
        raise ValueError(f"top is {top}; expected at least 1")
    if not images:
        raise ValueError("no images are named; name files, folders of images, or patterns such as 'scans/*.png'")
    if explain or page is not None:
        page = _checked_page(page)
    if csv is not None:
        check_file(csv, "--csv")
        check_table(csv)
    loaded = trained(run, device_of(Recipe(device=device)))
    check_classifies(loaded, run)
    paths = find_images(images)
    if not paths:
        raise FileNotFoundError(
            f"there are no images in {', '.join(map(str, images))}; name files, or folders of images"
        )
    decode, top = loaded.decoder(paths, white_level), min(top, len(loaded.classes))
    results: list[FilePrediction] = []
    shown: list[FilePrediction] = []
    with progress("images", len(paths)) as advance:
        for result in predictions(loaded, decode, paths, top, advance):
            if result.pixels is not None and len(shown) < SHOWN_IMAGES:
                shown.append(result)
            results.append(result.without_pixels())
            _print(result)
    if csv is not None:
        print(write_table(csv, results, top))
    if page is not None and shown:
        from pursuitnet.program.predict.page import write_page

        more = sum(not result.error for result in results) - len(shown)
        print(write_page(page, loaded, shown, run, more))
    if any(result.error for result in results):
        sys.exit(1)


def _checked_page(page: Path | None) -> Path:
    """Return the path of the page, after checking that no other file would be overwritten."""
    from pursuitnet.program.predict.page import MARK
    from pursuitnet.program.predict.predictions import check_replaceable

    page = page or Path("explain.html")
    check_file(page, "--page")
    check_replaceable(page, MARK, "a page of predictions", "--page")
    return page


def _print(result: "FilePrediction") -> None:
    """Print the classes of a file, or on standard error what is wrong with it."""
    from pursuitnet.data.progress import say

    if result.error:
        print(f"pursuitnet: {result.error}", file=sys.stderr, flush=True)
    else:
        say(result.line())

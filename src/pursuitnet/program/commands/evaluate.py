"""pursuitnet evaluate."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pursuitnet.program.commands.output import output_folder
from pursuitnet.program.run_folder import RunFolder


def evaluate(
    run: Path,
    *,
    unfolding: int | None = None,
    threshold: float | None = None,
    corruptions: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    adapt: Literal["reconstruction", "usage"] | None = None,
    certify: Annotated[bool, Parameter(negative="")] = False,
    test_images: int | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
    plot: Annotated[bool, Parameter(negative="")] = False,
    out: Path | None = None,
) -> None:
    """Evaluate a trained network on the test images of its data set and write evaluation.json.

    Args:
        run: A run folder that `pursuitnet train` has left, or the name of a pretrained network, such as res_csc_20.
        unfolding: Steps after the first, instead of those it was trained with.
        threshold: Number that all thresholds are multiplied by.
        corruptions: Also test on corrupted images, at five strengths: of all kinds, or of those named after it
            (gaussian_noise, shot_noise, impulse_noise, gaussian_blur, defocus_blur, contrast, jpeg).
        adapt: With --corruptions, also multiply the thresholds by what brings codes of the corrupted images back to
            those of clean training images: how well they reconstruct their layer's input, or how often each atom of
            the last layer is used; no label is used.
        certify: Also the radius around every image inside which its label cannot change; for certified networks.
        test_images: Use only this number of test images, the first ones; of a folder a fixed random choice, every class
            in proportion.
        data_dir: Folder of the data set, if it is no longer where it was in training.
        device: Where to compute: auto (the accelerator, if there is one), cpu, cuda, cuda:1, …
        plot: Also write evaluation.png, and certification.png with --certify.
        out: Where the files go; by default into the run folder.
    """
    from pursuitnet.data.progress import progress
    from pursuitnet.program.evaluation.evaluate_run import Settings, evaluate_run

    chosen = None if corruptions is None else tuple(corruptions)
    settings = Settings(unfolding, threshold, chosen, adapt, test_images, certify)
    files = RunFolder(run)
    pictures = [files.evaluation_picture, *([files.certification_picture] if certify else [])]
    written = [files.evaluation, *(pictures if plot else [])]
    folder = output_folder(run, out, *(path.name for path in written))
    with progress("images") as advance:
        evaluation = evaluate_run(run, settings, advance, data_dir, device)
    print("\n".join(evaluation.lines()))
    print("\n".join(map(str, evaluation.save(folder, plot))))

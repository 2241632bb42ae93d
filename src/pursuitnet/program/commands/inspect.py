"""pursuitnet inspect."""

import shlex
from pathlib import Path

from pursuitnet.program.commands.output import output_folder
from pursuitnet.program.run_folder import RunFolder


def inspect(
    run: Path,
    *,
    images: int = 64,
    unfolding: int = 4,
    test_images: int = 1000,
    data_dir: Path | None = None,
    device: str = "auto",
    out: Path | None = None,
) -> None:
    """Read a trained network as layered sparse coding and write inspect.json and inspect.html.

    Args:
        run: A run folder that `pursuitnet train` has left, or the name of a pretrained network.
        images: Test images to measure every layer on.
        unfolding: The most steps after the first to try without training again.
        test_images: Test images to count the accuracy on, at every number of steps.
        data_dir: Folder of the data set, if it is no longer where it was in training.
        device: Where to compute: auto (the accelerator, if there is one), cpu, cuda, cuda:1, …
        out: Where the two files go; by default into the run folder.
    """
    from pursuitnet.data.progress import progress
    from pursuitnet.program.whitebox.inspect_run import inspect_run, summary

    folder = output_folder(run, out, RunFolder(run).inspection.name, RunFolder(run).inspection_page.name)
    with progress("parts") as advance:
        inspection = inspect_run(run, images, unfolding, test_images, data_dir, device, advance)
    print("\n".join(summary(inspection)))
    options: dict[str, object] = {"--images": images, "--unfolding": unfolding, "--test-images": test_images}
    options |= {"--data-dir": data_dir, "--out": out}
    words = [str(word) for option, value in options.items() if value is not None for word in (option, value)]
    print(f"{inspection.save(folder, shlex.join(['pursuitnet', 'inspect', str(run), *words]))}")

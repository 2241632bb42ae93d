"""Where a command leaves what it has computed of a run."""

from pathlib import Path

from pursuitnet.program.writable import check_folder


def output_folder(run: Path, out: Path | None, *names: str) -> Path:
    """Return the folder that what is found of a run goes to, which can be written into; the run's own by default.

    What is found of a pretrained network goes below runs/, so that no folder takes its name.
    """
    from pursuitnet.program.sharing.loading import shipped_with

    if out is None and shipped_with(run):
        out = Path("runs", f"pretrained-{run}")
    folder = run if out is None else out
    if out is not None or run.is_dir():  # where there is no run, that is what is to be said
        check_folder(folder, *names)
    return folder

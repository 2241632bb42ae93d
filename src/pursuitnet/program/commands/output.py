"""Where a command leaves what it has computed of a run."""

from pathlib import Path

from pursuitnet.program.writable import check_folder


def output_folder(run: Path, out: Path | None, *names: str) -> Path:
    """Return the folder for the results of a command about a run, checked to be writable; by default the run's own.

    Results about a pretrained network go below runs/, so that no folder takes its name.
    """
    from pursuitnet.program.sharing.loading import shipped_with

    if out is None and shipped_with(run):
        out = Path("runs", f"pretrained-{run}")
    folder = run if out is None else out
    if out is not None or run.is_dir():  # where there is no run, that is what is to be said
        check_folder(folder, *names)
    return folder

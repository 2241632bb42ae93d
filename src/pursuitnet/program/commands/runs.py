"""pursuitnet runs."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pursuitnet.program.writable import check_file


def runs(
    folder: Path = Path("runs"),
    /,
    *,
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """List the runs below a folder: the finished epochs, whether it is running, and the last epoch's test accuracy.

    Args:
        folder: where to look.
        out: Draw the runs' curves next to each other into this file, PNG or HTML.
        json: Print one JSON list for machines instead.
    """
    from pursuitnet.program import runs as listing

    if out is not None:
        check_file(out)
    summaries = listing.find_runs(folder)
    if json:
        print(listing.to_json(summaries))
    else:
        print("\n".join(listing.table(summaries)) if summaries else f"no runs below {folder}")
    if out is not None:
        from pursuitnet.program import report

        print(report.write_comparison(out, summaries), file=sys.stderr if json else sys.stdout)
    elif summaries and not json:
        print(f"\ntheir curves next to each other: pursuitnet runs {folder} --out runs.html (or .png)")

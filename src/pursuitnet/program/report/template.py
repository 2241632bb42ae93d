"""What all pages share."""

from functools import cache
from typing import Any

import jinja2

from pursuitnet.program.report.text import duration, fraction, number, written
from pursuitnet.program.run_folder import SHARES


def render(name: str, content: dict[str, Any]) -> str:
    """Return a page: one HTML document that loads nothing else."""
    return _environment().get_template(name).render(content)


@cache  # it keeps the templates compiled
def _environment() -> jinja2.Environment:
    templates = jinja2.PackageLoader("pursuitnet.program", "templates")
    page = jinja2.Environment(loader=templates, autoescape=True, trim_blocks=False, lstrip_blocks=True)
    page.filters |= {"fraction": fraction, "number": number, "duration": duration}
    return page


def speed(record: dict[str, Any]) -> dict[str, str]:
    """Return speed and memory from an epoch's record, as text."""
    rows = {}
    if "images_per_second" in record:
        rows["images per second"] = f"{record['images_per_second']:,.0f}"
    if record.get("peak_memory_mb"):
        rows["peak memory"] = f"{record['peak_memory_mb']:,.0f} MB"
    if shares := {name: record[name] for name in SHARES if name in record}:
        rows["time of a step"] = ", ".join(f"{name} {written('{:.0%}', share)}" for name, share in shares.items())
    return rows

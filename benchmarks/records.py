"""Results of the benchmarks: a file for each time, machine and commit, which is never overwritten.

They are in results/BENCHMARK/TIME-MACHINE-COMMIT.json; the pages in docs/ show the newest of each benchmark.
"""

import argparse
import json
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from pursuitnet.program.train import commit

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"


def machine(device: str) -> str:
    """Return the name of the GPU, or of the processor where it has one."""
    if not device.startswith("cpu"):
        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # no Linux
        found = None
    return found[1].strip() if found else platform.machine()


def about(device: str) -> dict[str, Any]:
    """Return what a result depends on beside its settings."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"time": now, "machine": machine(device), "torch": torch.__version__, "commit": commit()}


def keep(benchmark: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write a result into a file of its own and return it; one of the same second, machine and commit stays beside it.

    Args:
        benchmark: its name, which is that of the folder.
        result: with what ``about`` says.
        folder: of all results.
    """
    stamp = re.sub(r"[-:]|\+00:00", "", result["time"])
    names = [stamp, re.sub(r"[^a-z0-9]+", "-", result["machine"].lower()).strip("-"), (result["commit"] or "none")[:12]]
    place = folder / benchmark
    place.mkdir(parents=True, exist_ok=True)
    text, number = json.dumps(result, ensure_ascii=False, indent=1) + "\n", 1
    while True:
        path = place / ("-".join(names) + (f"-{number}" if number > 1 else "") + ".json")
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            return path
        except FileExistsError:
            number += 1


def newest(benchmark: str, folder: Path = RESULTS) -> dict[str, Any]:
    """Return the newest result of a benchmark, whatever machine it is of.

    Raises:
        FileNotFoundError: if there is none.
    """
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / benchmark).glob("*.json"))]
    if not results:
        raise FileNotFoundError(f"{folder / benchmark} holds no result; run the benchmark with --record")
    return max(results, key=lambda result: result["time"])


def name_of(benchmark: str, device: str) -> str:
    """Return the name of a benchmark's results: those of a CPU and of a GPU lie side by side."""
    return benchmark if device == "cpu" else f"{benchmark}-{device.split(':')[0]}"


def add_out(parser: argparse.ArgumentParser, benchmark: str) -> None:
    """Add the options that say where a benchmark writes."""
    parser.add_argument("--out", type=Path, default=Path("runs", benchmark), help="folder for numbers and picture")
    parser.add_argument("--record", action="store_true", help="keep them in benchmarks/results/ and docs/ instead")


def write(arguments: argparse.Namespace, benchmark: str, found: dict[str, Any], device: str = "cpu") -> Path:
    """Write a result where the options say; return where its picture goes.

    Args:
        arguments: with the options of ``add_out``.
        benchmark: its name.
        found: the result.
        device: that was measured.
    """
    name, result = name_of(benchmark, device), {**about(device), **found}
    if arguments.record:
        keep(name, result)
        return DOCS / f"{name}.png"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{name}.json").write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    return arguments.out / f"{name}.png"

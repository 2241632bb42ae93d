"""On a GPU: a training step with and without a CUDA graph, several runs at once, and `solve` compared with the CPU.

    python benchmarks/gpu.py [--device cuda] [--part steps,throughput,solve] [--at-once 1,4,12] [--out FILE] [--record]

steps: milliseconds of a training step on --batch random images as the trainer takes it, without data and optimizer, in
bfloat16. throughput: total images per second of --at-once processes that train the first network in parallel, without
and with CUDA's multi-process service if the machine has it. solve: seconds and steps until WorkingSet and FISTA
prove a gap of --tol on one image of --size × --size with 64 atoms of 8 × 8 in float32, on the GPU, then on all cores
of the CPU, each limited to about --limit seconds: an interrupted solver reports the gap it has reached. Prints one JSON
object and writes it to --out after every measurement, keeping the parts that are there already; with --record to
benchmarks/results/ too.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import records
import torch
from measure import Step, seconds_of

import pursuitnet as pn

NETWORKS: dict[str, dict[str, Any]] = {
    "resnet_20": {},
    "res_csc_20": {},
    "msd_csc_6": {"unfolding": 1},
    "msd_csc_12": {"unfolding": 2},
}


PACE = 3
"""Steps that are timed to know how many fit into the time."""


def step_of(name: str, device: str, graphed: bool) -> Step:
    """Return the training step of a network in bfloat16."""
    torch.manual_seed(0)
    model = pn.create_model(name, **NETWORKS[name])
    step = Step(model, True, dtype=torch.bfloat16, layout=torch.channels_last, graphed=graphed)
    step.prepare(device)
    return step


def milliseconds(step: Step, device: str, batch: int, times: int = 30) -> float:
    """Return the median time of a step."""
    x = step.images(batch, device)
    seconds = [seconds_of(lambda: step(x), device) for _ in range(5 + times)]
    return round(1000 * statistics.median(seconds[5:]), 3)


def steps(device: str, batch: int) -> Iterator[dict[str, dict[str, float]]]:
    """Yield the milliseconds of a step of each network so far, started kernel by kernel and as a graph."""
    kinds = {"eager": False, "graph": True} if device != "cpu" else {"eager": False}
    times: dict[str, dict[str, float]] = {}
    for name in NETWORKS:
        times[name] = {
            kind: milliseconds(step_of(name, device, graphed), device, batch) for kind, graphed in kinds.items()
        }
        yield times


def rate(name: str, device: str, batch: int, seconds: float) -> float:
    """Warm up, say so, wait for a line, and return images a second of steps one after another."""
    step = step_of(name, device, device != "cpu")
    x = step.images(batch, device)
    for _ in range(5):
        step(x)
    print("ready", flush=True)
    sys.stdin.readline()
    began, number = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < seconds:
        for _ in range(10):
            step(x)
        number += 10
        if device != "cpu":
            torch.cuda.synchronize()
    return number * batch / took


@contextmanager
def service(on: bool) -> Iterator[dict[str, str]]:
    """Run CUDA's multi-process service, by which several processes share the GPU; yield its environment."""
    if not on:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        where = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        control = ["nvidia-cuda-mps-control"]
        subprocess.run([*control, "-d"], env={**os.environ, **where}, check=True)
        try:
            yield where
        finally:
            subprocess.run(control, env={**os.environ, **where}, input="quit\n", text=True, timeout=30)


def at_once(number: int, arguments: argparse.Namespace, shared: bool) -> float:
    """Return the images a second of so many processes together."""
    command = [sys.executable, __file__, "--rate", "resnet_20"]
    for name in ("device", "seconds", "batch"):
        command += [f"--{name}", str(getattr(arguments, name))]
    with service(shared) as where:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        environment = {"OMP_NUM_THREADS": "1", **os.environ, **where}
        processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(number)]
        for process in processes:
            process.stdout.readline()
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        return round(sum(float(process.communicate()[0].splitlines()[-1]) for process in processes), 1)


def throughput(arguments: argparse.Namespace) -> Iterator[dict[str, dict[int, float]]]:
    """Yield images a second by number of processes so far, without and with the service."""
    kinds, numbers = {"processes": False}, [int(n) for n in arguments.at_once.split(",")]
    if arguments.device != "cpu" and shutil.which("nvidia-cuda-mps-control"):
        kinds["multi-process service"] = True
    found: dict[str, dict[int, float]] = {kind: {} for kind in kinds}
    for kind, shared in kinds.items():
        for n in numbers:
            found[kind][n] = at_once(n, arguments, shared)
            yield found


def problem(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 64 atoms of 8 × 8 of unit length, and a smooth image (1, 1, size, size)."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 1, 8, 8, generator=generator)
    weight /= weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    x = torch.nn.functional.avg_pool2d(torch.randn(1, 1, size + 6, size + 6, generator=generator), 7, 1)
    return weight, x


def until(solver: Any, where: str, size: int, tol: float, limit: float) -> dict[str, Any]:
    """Return the seconds and steps until a gap is proven, or the gap that about ``limit`` seconds have led to."""
    weight, x = (tensor.to(where) for tensor in problem(size))
    D = pn.CircularDictionary(weight).requires_grad_(False)
    beta = 0.1 * float(D.analyze(x).abs().max())
    call = partial(pn.solve, x, D, beta, solver)
    for _ in range(2):  # the first call loads the libraries
        pace = seconds_of(lambda: call(max_steps=PACE, tol=0.0), where) / PACE
    most = max(PACE, min(2_000, int(limit / pace)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pn.ConvergenceWarning)  # the gap is in the result
        began = time.perf_counter()
        solution = call(max_steps=most, tol=tol)
        gap = float(solution.gap.max())  # waits for the device
    took = round(time.perf_counter() - began, 3)
    return {"seconds": took, "steps": int(solution.steps), "gap": gap, "converged": bool(solution.converged.all())}


def solve(device: str, size: int, tol: float, limit: float) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield what is known so far by solver and device; the accelerator first, since the CPU may take all the time."""
    found: dict[str, dict[str, Any]] = {"WorkingSet": {}, "FISTA": {}}
    for where in dict.fromkeys((device, "cpu")):
        for name, solver in (("WorkingSet", pn.WorkingSet()), ("FISTA", pn.FISTA())):
            found[name][where] = until(solver, where, size, tol, limit)
            yield found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--part", default="steps,throughput,solve")
    parser.add_argument("--at-once", default="1,4,12")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--limit", type=float, default=60.0, help="of each of the four solutions, in seconds")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--record", action="store_true", help="keep it in benchmarks/results/ too")
    parser.add_argument("--rate", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rate:
        print(rate(arguments.rate, arguments.device, arguments.batch, arguments.seconds), flush=True)
        return
    parts = {
        "steps": lambda: steps(arguments.device, arguments.batch),
        "throughput": lambda: throughput(arguments),
        "solve": lambda: solve(arguments.device, arguments.size, arguments.tol, arguments.limit),
    }
    found: dict[str, Any] = {**records.about(arguments.device), "threads": torch.get_num_threads()}
    if arguments.out and arguments.out.is_file():
        found = {**json.loads(arguments.out.read_text()), **found}
    for name in arguments.part.split(","):
        for so_far in parts[name]():
            found[name] = so_far
            if arguments.out:  # what is there is kept, whatever comes
                arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    if arguments.record:
        records.keep("gpu", found)


if __name__ == "__main__":
    main()

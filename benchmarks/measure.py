"""Time, memory and floor of one step of a network, each in a separate process, as a user runs it.

Earlier allocations of a process affect how fast it gets memory again, so that networks timed in turn in one process
are not timed as in practice.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pursuitnet as pn
from pursuitnet.program.train.cuda_graph import GraphedStep

WARM = 2
"""Steps before the first one that is timed."""


@dataclass(frozen=True)
class Step:
    """What is timed: forward, loss and backward, or an inference, of a network under one variant.

    Attributes:
        model: the network.
        training: whether there is a backward pass.
        checkpointing: whether codes are computed again instead of kept.
        recursive: whether those between the layers are, too.
        dtype: of convolutions, under autocast; None for float32.
        layout: of images and filters.
        compiled: the mode of torch.compile, if that is to fuse the steps: "default", "reduce-overhead" (CUDA graphs).
        graphed: whether the trainer's CUDA graph replays the step.
    """

    model: nn.Module
    training: bool
    checkpointing: bool = False
    recursive: bool = False
    dtype: torch.dtype | None = None
    layout: torch.memory_format = torch.contiguous_format
    compiled: str | None = None
    graphed: bool = False

    @cached_property
    def graph(self) -> GraphedStep:
        """The recorded step."""
        return GraphedStep(self.model, self._backward)

    def prepare(self, device: str) -> None:
        """Bring the network to its device, layout and mode."""
        model = self.model.to(device).to(memory_format=self.layout).train(self.training)
        if isinstance(model, pn.Network):
            model.set_grad_checkpointing(self.checkpointing, recursive=self.recursive)
        if self.compiled:
            model.compile(mode=self.compiled)

    def images(self, batch: int, device: str) -> Tensor:
        """Return a fresh batch."""
        return torch.rand(batch, 3, 32, 32, device=device).contiguous(memory_format=self.layout)

    def __call__(self, x: Tensor) -> None:
        if self.compiled:
            torch.compiler.cudagraph_mark_step_begin()
        if not self.training:
            with torch.no_grad(), self._half(x):
                self.model(x)
            return
        labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
        if self.graphed:
            self.graph(x, labels, len(x))
            return
        self.model.zero_grad()
        self._backward(x, labels)

    def _half(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None)

    def _backward(self, x: Tensor, labels: Tensor) -> Tensor:
        with self._half(x):
            logits = self.model(x)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        return loss.detach()


def seconds_of(call: Callable[[], object], device: str) -> float:
    """Return the seconds of a call, those of the device where there is one."""
    if device == "cpu":
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    call()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1000


def seconds(step: Step, batch: int, device: str, times: int) -> list[float]:
    """Return the seconds of so many steps on fresh images, after two that are not counted."""
    step.prepare(device)
    measured_times = []
    for _ in range(WARM + times):
        x = step.images(batch, device)
        measured_times.append(seconds_of(lambda x=x: step(x), device))
    return measured_times[WARM:]


def peak(step: Step, batch: int, device: str) -> float:
    """Return the megabytes in use in one step above the start."""
    step.prepare(device)
    x = step.images(batch, device)
    step(x[:2] if device == "cpu" else x)  # what is loaded or compiled with the first step is not the step's
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(x)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    before = resident("VmRSS", anew=True)
    step(x)
    return (resident("VmHWM") - before) / 1e6


def resident(name: str, anew: bool = False) -> int:
    """Return bytes of this process in memory, now (VmRSS) or at most (VmHWM), as Linux counts them.

    Args:
        name: which.
        anew: let the peak be counted from here.
    """
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def alone(script: str, argv: list[str], *what: str) -> Any:
    """Return what a script prints as JSON when it is asked for one measurement, in a process of its own.

    For a peak the process returns memory as soon as it is free: as it comes, the C library keeps some of it, and how
    much depends on the order of requests.
    """
    returning = {"MALLOC_MMAP_THRESHOLD_": str(2**20)} if what[0] == "peak" else {}
    command = [sys.executable, script, *argv, "--measure", *what]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **returning})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that a result depends on, for its record."""
    return {name: value for name, value in vars(arguments).items() if name not in ("out", "record", "measure")}


def in_rounds(names: list[Any], rounds: int, measured: Callable[[Any], list[float]]) -> dict[Any, list[float]]:
    """Return the seconds of each, a process each in every round, so that a noisy minute does not fall on one alone."""
    by_name: dict[Any, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            by_name[name] += measured(name)
    return by_name


class Needs(TorchDispatchMode):
    """Counts what the convolutions and matrix products of a step need at least.

    Attributes:
        operations: multiplications and additions, without those by the zeros of the padding.
        bytes: of what they read and write, each tensor once for each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket
        if name in (torch.ops.aten.convolution, torch.ops.aten.convolution_backward):
            backward = name is torch.ops.aten.convolution_backward
            x, weight = args[1:3] if backward else args[:2]
            stride, padding, dilation, transposed = args[4:8] if backward else args[3:7]
            signal, code = (args[0], x) if backward and transposed else (x, args[0]) if backward else (x, result)
            if transposed and not backward:
                signal, code = result, x
            taps = math.prod(map(pairs, signal.shape[2:], code.shape[2:], weight.shape[2:], stride, padding, dilation))
            share = sum(args[-1][:2]) if backward else 1
            self.operations += 2 * len(x) * weight.shape[0] * weight.shape[1] * taps * share
            self._carry(args, result)
        elif name in (torch.ops.aten.mm, torch.ops.aten.addmm):
            a, b = args[-2:]
            self.operations += 2 * a.shape[0] * a.shape[1] * b.shape[1]
            self._carry(args, result)
        return result

    def _carry(self, *tensors: Any) -> None:
        self.bytes += sum(t.nbytes for t in tree_leaves(tensors) if isinstance(t, Tensor))


def pairs(signal: int, code: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Return the number of (place in the code, tap) along an axis whose tap lands inside the signal."""
    at = [place * stride - padding + tap * dilation for place in range(code) for tap in range(kernel)]
    return sum(0 <= where < signal for where in at)


@dataclass(frozen=True)
class Machine:
    """What the device can do.

    Attributes:
        operations: a second, in a matrix product, by number format.
        bytes: a second, read and written, in a copy.
    """

    operations: dict[torch.dtype, float]
    bytes: float

    def floor(self, needs: Needs, dtype: torch.dtype) -> float:
        """Return the seconds that a step takes at least: the longer of its operations and its bytes."""
        return max(needs.operations / self.operations[dtype], needs.bytes / self.bytes)


def machine(device: str) -> Machine:
    """Measure the device: medians of seven square matrix products, large enough to fill it, and of copies of 512 MB."""

    def median(call: Callable[[], object]) -> float:
        return statistics.median([seconds_of(call, device) for _ in range(WARM + 7)][WARM:])

    n, operations = 2048 if device == "cpu" else 8192, {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.rand(n, n, device=device).to(dtype), torch.rand(n, n, device=device).to(dtype)
        operations[dtype] = 2 * n**3 / median(lambda a=a, b=b: a @ b)
    source, target = torch.rand(2**27, device=device), torch.empty(2**27, device=device)
    return Machine(operations, 2 * source.nbytes / median(lambda: target.copy_(source)))


def needs_of(step: Step, batch: int, device: str) -> Needs:
    """Count a step."""
    step.prepare(device)
    x = step.images(batch, device)
    with Needs() as needs:
        step(x)
    return needs

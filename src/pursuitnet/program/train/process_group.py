"""Distributed training: several processes train one network, each on its own device, under torchrun or SLURM's srun."""

import gc
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class ProcessGroup:
    """The place of this process among those of the run.

    Attributes:
        rank: its number, from 0; process 0 writes the files.
        size: number of processes.
        local: its number on its own machine, which is the index of its device.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over all processes."""
        if self.size == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return whether it is true in any process."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag), device=device)))


SINGLE_PROCESS = ProcessGroup()


def group_of(environment: Mapping[str, str]) -> ProcessGroup:
    """Return the place that the launcher gave to this process; ``SINGLE_PROCESS`` without a launcher.

    torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; srun sets SLURM_PROCID, SLURM_STEP_NUM_TASKS and SLURM_LOCALID.

    Raises:
        ValueError: if the variables do not give a place in a group.
    """
    for names in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")):
        if names[1] in environment:
            variables = {name: environment.get(name, "") for name in names}
            if not all(value.isdecimal() for value in variables.values()) or int(variables[names[0]]) >= int(
                variables[names[1]]
            ):
                raise ValueError(
                    f"the launcher's variables are {variables}; expected whole numbers, the rank below the size"
                )
            return ProcessGroup(*(int(value) for value in variables.values()))
    return SINGLE_PROCESS


def first_host(nodes: str) -> str:
    """Return the first machine of SLURM's list, such as gpu[03-05,9],login1."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?([^,]*)", nodes)
    if not match:
        raise ValueError(f"SLURM_JOB_NODELIST is {nodes!r}; expected a list of machines: set MASTER_ADDR yourself")
    return "".join(part or "" for part in match.groups())


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the group that the launcher has made, and leave it at the end.

    Objects that communicate (DistributedDataParallel) must be released before the end.

    Raises:
        ConnectionError: if another process has died.
    """
    group = group_of(os.environ)
    if group.size == 1:
        yield group
        return
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = first_host(os.environ.get("SLURM_JOB_NODELIST", ""))
        os.environ.setdefault("MASTER_PORT", str(20_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20_000))
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=group.rank, world_size=group.size)
    try:
        yield group
        dist.barrier()
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # they hold objects that must be released before the group
        if not (isinstance(error, RuntimeError) and re.search("gloo|nccl|peer|connection", str(error), re.IGNORECASE)):
            raise
        reason = re.sub(r"\[\S*/\S*\]\s*", "", str(error).splitlines()[0])[:100]  # without paths of C++ sources
        raise ConnectionError(
            f"process {group.rank} of {group.size} has lost another one ({reason}); see that one's message, then start "
            "the same command with --resume, with any number of processes"
        ) from error
    finally:
        gc.collect()
        dist.destroy_process_group()

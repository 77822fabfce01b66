"""The process group: one process here, or the ranks that a launcher started."""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore


def join_process_group(device: torch.device) -> None:
    """Join the launcher's processes, or make a group of one that opens no port. Idempotent."""
    if dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if under_launcher():
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    atexit.register(dist.destroy_process_group)


def under_launcher() -> bool:
    """Whether torchrun or the like started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


@contextmanager
def deepspeed_environment() -> Iterator[None]:
    """What DeepSpeed wants to find while it initializes and trains.

    The variables are set for that time only: left behind, they would look to child processes as if
    a launcher had started them. DeepSpeed's shared-memory collectives are switched off: they would be
    compiled at the first start, which needs a C++ compiler and can hang on a stale lock.
    """
    wanted = {"LOCAL_RANK": "0", "DS_ACCELERATOR": "cuda" if torch.cuda.is_available() else "cpu"}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        with warnings.catch_warnings():
            # DeepSpeed calls collectives by names that torch is about to drop; users can't help it.
            warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated")
            yield
    finally:
        for name in added:
            del os.environ[name]


def rank() -> int:
    """This process's number."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def summed(value: torch.Tensor) -> torch.Tensor:
    """The sum of `value` over all processes; changes it in place."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if world_size() > 1:
        dist.barrier()

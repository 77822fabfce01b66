"""The process group: one process here, or the ranks that a launcher started."""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from opendllm.core.launching.launcher import started_by_launcher

PATIENCE = timedelta(days=7)
"""How long a rank waits for one that prepares data or writes a checkpoint; the launcher ends it sooner
where that one dies."""

_waiting_room: dist.ProcessGroup | None = None
"""A group of its own: a collective on the training group would run into that one's timeout."""


def join_process_group(device: torch.device) -> None:
    """Join the launcher's processes, or make a group of one that opens no port. Idempotent."""
    if dist.is_initialized():
        return
    global _waiting_room
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if started_by_launcher():
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    if dist.get_world_size() > 1:
        _waiting_room = dist.new_group(backend="gloo", timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)


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
    """Go on when every process has come here, however long that takes."""
    if _waiting_room is not None:
        dist.barrier(_waiting_room)


def text_from_first(text: str) -> str:
    """The first process's text, on every process; waits as long as that one needs."""
    content = list(text.encode())
    [length] = from_first([len(content)])
    return bytes(from_first((content + [0] * length)[:length])).decode()


def from_first(numbers: list[int]) -> list[int]:
    """The first process's numbers, on every process; waits as long as that one needs.

    Args:
        numbers: only the first process's are used, but all must give as many.
    """
    if _waiting_room is None:
        return numbers
    sent = torch.tensor(numbers, dtype=torch.int64)
    dist.broadcast(sent, src=0, group=_waiting_room)
    return [int(number) for number in sent]

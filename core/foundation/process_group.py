"""The process group: one process here, or the ranks that a launcher started. Loads torch when joined."""

from __future__ import annotations

import atexit
from datetime import timedelta
from typing import TYPE_CHECKING

from opendllm.core.foundation.ranks import started_by_launcher, world_size

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

LONGEST_WAIT = timedelta(days=14)
"""How long a process waits for one that prepares data, writes a checkpoint or evaluates the longest part;
torch's default would give up after half an hour. The launcher ends it sooner where that one dies."""

_patient_group: dist.ProcessGroup | None = None
"""Waits `LONGEST_WAIT`: a collective on the training group would run into that one's own timeout."""


def join_process_group(device: torch.device) -> None:
    """Join the launcher's processes, or make a group of one that opens no port. Idempotent.

    Args:
        device: where this process computes; `cuda` talks through NCCL.
    """
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore

    if dist.is_initialized():
        return
    global _patient_group
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if started_by_launcher():
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    if world_size() > 1:
        _patient_group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    atexit.register(dist.destroy_process_group)


def summed(value: torch.Tensor) -> torch.Tensor:
    """The sum of `value` over all processes; changes it in place."""
    import torch.distributed as dist

    if world_size() > 1:
        dist.all_reduce(value)
    return value


def largest(value: int) -> int:
    """Of all processes' numbers."""
    import torch
    import torch.distributed as dist

    if _patient_group is None:
        return value
    found = torch.tensor(value)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_patient_group)
    return int(found)


def sum_of_numbers(numbers: list[float]) -> list[float]:
    """The sums over all processes, by way of the hosts: no device's queue is waited for."""
    if _patient_group is None:
        return numbers
    import torch
    import torch.distributed as dist

    sums = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(sums, group=_patient_group)
    return [float(number) for number in sums]


def wait_for_all() -> None:
    """Go on when every process has come here, however long that takes."""
    import torch.distributed as dist

    if _patient_group is not None:
        dist.barrier(_patient_group)


def text_from_first(text: str) -> str:
    """The first process's text, on every process; waits as long as that one needs."""
    return text_from(0, text)


def text_from(source: int, text: str) -> str:
    """The text of one of the processes, on every one."""
    content = list(text.encode())
    [length] = _numbers_from(source, [len(content)])
    return bytes(_numbers_from(source, (content + [0] * length)[:length])).decode()


def from_first(numbers: list[int]) -> list[int]:
    """The first process's numbers, on every process; waits as long as that one needs.

    Args:
        numbers: only the first process's are used, but all must give as many.
    """
    return _numbers_from(0, numbers)


def _numbers_from(source: int, numbers: list[int]) -> list[int]:
    if _patient_group is None:
        return numbers
    import torch
    import torch.distributed as dist

    sent = torch.tensor(numbers, dtype=torch.int64)
    dist.broadcast(sent, src=source, group=_patient_group)
    return [int(number) for number in sent]

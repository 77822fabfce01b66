"""Which part of an evaluation this process does, where a launcher started several."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

ItemT = TypeVar("ItemT")

LONGEST_WAIT = timedelta(days=14)
"""A process that is done waits for the slowest one; torch's default would give up after half an hour."""


@dataclass(frozen=True)
class Shard:
    """One of `of` processes, counted from 0; `wait` returns when all of them have called it."""

    rank: int = 0
    of: int = 1
    wait: Callable[[], None] = lambda: None

    @property
    def is_first(self) -> bool:
        """Whether this process merges, scores and reports."""
        return self.rank == 0


ALONE = Shard()


def deal(items: Sequence[ItemT], rank: int, of: int) -> list[ItemT]:
    """Every `of`-th item: of items that are ordered by length, all get as many long ones."""
    return list(items[rank::of])


def this_process() -> Shard:
    """This process's part; all of them must call it together."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if not all(name in os.environ for name in names) or os.environ["WORLD_SIZE"] == "1":
        return ALONE
    import torch.distributed as dist

    if not dist.is_initialized():  # nothing was trained before
        dist.init_process_group("gloo", timeout=LONGEST_WAIT)
        atexit.register(dist.destroy_process_group)
    group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    return Shard(dist.get_rank(), dist.get_world_size(), lambda: dist.barrier(group))

"""Which part of an evaluation this process does, where a launcher started several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from opendllm.core.foundation.process_group import join_process_group, wait_for_all
from opendllm.core.foundation.ranks import rank, world_size

ItemT = TypeVar("ItemT")


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


def take_shard(items: Sequence[ItemT], rank: int, of: int) -> list[ItemT]:
    """Every `of`-th item: of items that are ordered by length, all get as many long ones."""
    return list(items[rank::of])


def this_process() -> Shard:
    """This process's part; all of them must call it together."""
    if world_size() == 1:
        return ALONE
    import torch

    join_process_group(torch.device("cpu"))  # training, where there was any, has joined already
    return Shard(rank(), world_size(), wait_for_all)

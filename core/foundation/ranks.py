"""Which of a run's processes this is, as its launcher said. Imports no torch."""

from __future__ import annotations

import os

_SET_BY_LAUNCHERS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def started_by_launcher() -> bool:
    """Whether torchrun or the like started this process."""
    return all(name in os.environ for name in _SET_BY_LAUNCHERS)


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ["RANK"]) if started_by_launcher() else 0


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ["WORLD_SIZE"]) if started_by_launcher() else 1


def local_rank() -> int:
    """This process's number on its machine, which is its GPU's."""
    return int(os.environ.get("LOCAL_RANK", "0")) if started_by_launcher() else 0


def local_world_size() -> int:
    """How many of a run's processes share this machine; 1 where the launcher doesn't say."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if started_by_launcher() else 1


def is_first_process() -> bool:
    """Whether this process writes the run's own files; under a launcher the others only take part."""
    return rank() == 0

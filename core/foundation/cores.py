"""What of this machine a process may use: CPU cores, and the limits that a container sets."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""A container's own limits, where it has a namespace for them."""


def usable_cores() -> int:
    """CPU cores that this process may use: not all of the machine's in a job, and a container's share of them
    if that is less. Where the system doesn't say (macOS), all.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = container_limit("cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal():
        cores = min(cores, max(1, int(quota) // max(1, int(period))))
    return cores


def container_limit(name: str) -> str:
    """What the kernel says of one of this process's limits; empty where it says nothing."""
    try:
        return (CGROUP / name).read_text().strip()
    except OSError:
        return ""

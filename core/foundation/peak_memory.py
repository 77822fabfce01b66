"""How much memory a stretch of work took at most: of the GPU where one is in use, else of this process."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # of the resident set (proc_pid_clear_refs(5))


def restart_peak_memory() -> None:
    """Count from here on; where the system can't, from the process's start."""
    import torch

    with suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    if torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes() -> int:
    """The most that was taken since `restart_peak_memory`: on a GPU, by the one that took most."""
    import torch

    if torch.cuda.is_initialized():
        taken = max(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))
        if taken:
            return taken
    with suppress(OSError, StopIteration):
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    kilobytes_outside_macos = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes_outside_macos

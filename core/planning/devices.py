"""What devices are capable of: the one that a plan assumes, and this machine's."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from dataclasses import dataclass

PEAK_TFLOPS: dict[str, dict[str, float]] = {
    "A100": {"bf16": 312.0, "fp32": 19.5},
    "H100": {"bf16": 989.0, "fp32": 67.0},
    "H200": {"bf16": 989.0, "fp32": 67.0},
    "L40S": {"bf16": 362.0, "fp32": 91.6},
}
"""Dense peak by name and training precision, in 10^12 operations a second (NVIDIA's data sheets)."""
ASSUMED = "H100"
"""Where a plan names no device, and this machine has none that is known."""
_ASK = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine.

    Attributes:
        name: as its driver says.
        memory: in bytes.
        driver: its version.
    """

    name: str
    memory: int
    driver: str

    @property
    def model(self) -> str | None:
        """The name in `PEAK_TFLOPS`; None of one that isn't there."""
        return next((known for known in PEAK_TFLOPS if known in self.name), None)


def gpus_here() -> list[Gpu]:
    """Those that the driver's own tool lists: torch takes a second to import, and is not asked."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        done = subprocess.run([tool, *_ASK], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True) if not done.returncode else ()
    return [Gpu(row[0], int(row[1]) << 20, row[2]) for row in rows if len(row) == 3 and row[1].isdecimal()]


def this_machine(gpus: list[Gpu]) -> str:
    """In a line: its GPUs, or that there are none, and its cores."""
    cores = f"{len(os.sched_getaffinity(0))} CPU cores"
    if not gpus:
        return f"{cores}, no GPU"
    names = sorted({gpu.name for gpu in gpus})
    least = min(gpu.memory for gpu in gpus) / 2**30
    return f"{len(gpus)} x {' and '.join(names)} ({least:.0f} GiB), {cores}"

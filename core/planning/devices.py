"""What devices are capable of: the one that a plan assumes, and this machine's."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from opendllm.core.foundation.cores import container_limit, usable_cores

GIB = 2**30
Precision = Literal["fp32", "bf16"]
ASSUMED = "H100"
"""Where a plan names no device, and this machine has none that is known."""
PASS_SECONDS_A_LAYER = 1e-3
"""What the calls of an uncompiled pass take, whatever they compute: 33 ms for the 32 layers of LLaDA 8B,
measured beside an H100."""
COPY_SHARE = 0.8
"""Of the memory bandwidth on a data sheet, what a copy reaches (2.6 to 3.0 TB/s measured on an H100)."""
_ASK = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Device:
    """What a model may run on.

    Attributes:
        name: for people.
        operations: floating-point operations a second, dense peak, by precision.
        bandwidth: bytes a second that are read from its memory at most.
        memory: bytes.
        is_gpu: whether it is one.
    """

    name: str
    operations: Mapping[str, float]
    bandwidth: float
    memory: int
    is_gpu: bool = True

    @property
    def kind(self) -> str:
        """As torch calls it."""
        return "cuda" if self.is_gpu else "cpu"


KNOWN = {
    gpu.name: gpu
    for gpu in (
        Device("A100", {"bf16": 312e12, "fp32": 19.5e12}, 2.0e12 * COPY_SHARE, 79 * GIB),
        Device("H100", {"bf16": 989e12, "fp32": 67e12}, 3.35e12 * COPY_SHARE, 79 * GIB),
        Device("H200", {"bf16": 989e12, "fp32": 67e12}, 4.8e12 * COPY_SHARE, 140 * GIB),
        Device("L40S", {"bf16": 362e12, "fp32": 91.6e12}, 0.864e12 * COPY_SHARE, 44 * GIB),
    )
}
"""By name (NVIDIA's data sheets; the memory that their drivers report of the largest ones)."""


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
        """The name in `KNOWN`; None of one that isn't there, and of slower forms of one that is."""
        if re.search(r"\b(PCIe|NVL)\b", self.name):
            return None
        return next((known for known in KNOWN if re.search(rf"\b{re.escape(known)}\b", self.name)), None)


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
    return [
        # One that shares the machine's memory names none of its own.
        Gpu(row[0], int(row[1]) << 20 if row[1].isdecimal() else memory_here(), row[2])
        for row in rows
        if len(row) == 3 and (row[1].isdecimal() or row[1].startswith("["))
    ]


def memory_here() -> int:
    """Bytes of this machine's memory, or of what a container may use of it."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = container_limit("memory.max")
    return min(whole, int(most)) if most.isdecimal() else whole


def this_machine(gpus: list[Gpu]) -> str:
    """In a line: its GPUs, or that there are none, its cores and its memory."""
    cores = f"{counted(usable_cores(), 'CPU core')}, {memory_here() / GIB:.1f} GiB"
    if not gpus:
        return f"{cores}, no GPU"
    names = Counter(gpu.name for gpu in gpus)
    least = {name: min(gpu.memory for gpu in gpus if gpu.name == name) / GIB for name in names}
    said = " and ".join(f"{count} x {name} ({least[name]:.0f} GiB)" for name, count in sorted(names.items()))
    return f"{said}, {cores}"


def counted(number: int, noun: str) -> str:
    """`1 GPU`, `2 GPUs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

"""How fast this machine's CPU is, measured in a tenth of a second."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from opendllm.core.foundation.cores import usable_cores
from opendllm.core.planning.devices import Device, counted, memory_here

SIZE = 384
"""Rows and columns of the matrices."""
COPIED = 1 << 25
"""Bytes of the copy: more than a core's caches hold."""
ROUNDS = 8
_THREADS = "OPENBLAS_NUM_THREADS"


def this_cpu() -> Device:
    """This machine's CPU when it is idle, by the best of `ROUNDS` products of float32 matrices and of copies.

    Both are timed by the cores' own time, to which whatever else the machine does adds little; copies are a
    core's.
    """
    with _one_thread():
        import numpy as np

    left = np.random.default_rng(0).random((SIZE, SIZE), dtype=np.float32)
    product = np.empty_like(left)
    source = np.zeros(COPIED, dtype=np.uint8)
    target = np.ones_like(source)
    multiplying = copying = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        np.matmul(left, left, out=product)
        multiplied = time.process_time()
        np.copyto(target, source)
        copying = min(copying, time.process_time() - multiplied)
        multiplying = min(multiplying, multiplied - started)
    cores = usable_cores()
    operations = cores * 2 * SIZE**3 / multiplying
    name = counted(cores, "CPU core")
    # What is copied is read and written.
    bandwidth = 2 * COPIED / copying
    return Device(name, {"fp32": operations, "bf16": operations}, bandwidth, memory_here(), is_gpu=False)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within, a numpy that is imported multiplies by one thread: several would wait for each other."""
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = before

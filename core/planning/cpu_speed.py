"""How fast this machine's CPU is, measured in a fraction of a second."""

from __future__ import annotations

import os
import time

from opendllm.core.planning.devices import Device, cores_here, counted, memory_here

SIZE = 512
"""Rows and columns of the matrices."""
COPIED = 1 << 25
"""Bytes of the copy: more than a core's caches hold."""
ROUNDS = 4


def this_cpu() -> Device:
    """This machine's CPU, by the best of `ROUNDS` products of float32 matrices, and as many copies."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import numpy as np

    left = np.random.default_rng(0).random((SIZE, SIZE), dtype=np.float32)
    product = np.empty_like(left)
    source = np.zeros(COPIED, dtype=np.uint8)
    target = np.ones_like(source)
    multiplying = copying = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        np.matmul(left, left, out=product)
        multiplied = time.perf_counter()
        np.copyto(target, source)
        copying = min(copying, time.perf_counter() - multiplied)
        multiplying = min(multiplying, multiplied - started)
    operations = 2 * SIZE**3 / multiplying
    name = counted(cores_here(), "CPU core")
    # What is copied is read and written.
    bandwidth = 2 * COPIED / copying
    return Device(name, {"fp32": operations, "bf16": operations}, bandwidth, memory_here(), is_gpu=False)

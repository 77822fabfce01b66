"""What decoding can't be faster than on this device, and how long the device waits for the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.planning.canvas_pattern import Pattern
from opendllm.core.planning.canvas_reads import Canvas, reads_of
from opendllm.core.planning.forward_costs import Loaded
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.discovery import installed_plugins

COPIED = {"cpu": 1 << 26, "cuda": 1 << 31}
"""Bytes of a copy."""


PRODUCT = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of a square product."""
REPEATS = 10


@dataclass(frozen=True)
class Speeds:
    """A device's, measured.

    Attributes:
        device: as torch calls it.
        bandwidth: bytes a second that a copy reads and writes.
        operations: a second of a large product in the model's dtype.
    """

    device: str
    bandwidth: float
    operations: float


def measured_speeds(device: str, dtype: torch.dtype) -> Speeds:
    """The best of ten copies, and of ten products."""
    kind = torch.device(device).type
    source = torch.zeros(COPIED[kind], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copying = min(_seconds(kind, lambda: target.copy_(source)) for _ in range(REPEATS))
    size = PRODUCT[kind]
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    multiplying = min(_seconds(kind, lambda: left @ right) for _ in range(REPEATS))
    return Speeds(device, 2 * COPIED[kind] / copying, 2 * size**3 / multiplying)


def floor_seconds(
    lm: DiffusionLM, loaded: Loaded, canvas: Canvas, rows: int, way: tuple[str, dict[str, Any]], on: Speeds
) -> float:
    """What a forward pass of a decode can't be faster than, on average over its passes.

    Of each pass the longer of what reading its weights and kept keys and values takes at the speed of a
    copy, and what its operations take at the speed of a large product.

    Args:
        lm: the model.
        loaded: its sizes.
        canvas: each row.
        rows: decoded together.
        way: the sampler and all options, flat.
        on: the device.
    """
    name, flat = way
    registration = installed_plugins().samplers.get(name)
    own = {key: value for key, value in flat.items() if key in registration.options.model_fields}
    options = DecoderOptions(**{key: value for key, value in flat.items() if key not in own})
    pattern = Pattern(lm.attention.kind, lm.attention.block_length)
    reads = reads_of(canvas, pattern, registration.build(own), options)
    keys = loaded.keys_values(1) if reads.keeps_keys else 0
    spans = zip(reads.columns.tolist(), reads.seen.tolist(), reads.scored.tolist(), strict=True)
    passes: list[float] = [
        max(
            (loaded.weights_read(rows * columns) + rows * seen * keys) / on.bandwidth,
            rows * loaded.operations(columns, seen, scored) / on.operations,
        )
        for columns, seen, scored in spans
    ]
    return sum(passes, 0.0) / max(1, len(passes))


def device_seconds(lm: DiffusionLM, decode: Callable[[], object], device: str) -> float:
    """How long the device was at work while `decode` ran once: a GPU's kernels, a CPU's forward passes."""
    if device != "cpu":
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            decode()
            torch.cuda.synchronize()
        assert profile.profiler is not None
        results = profile.profiler.kineto_results
        assert results is not None
        spans = [(int(event.start_ns()), int(event.duration_ns())) for event in results.events()]
        return covered(spans) / 1e9
    with _timed(lm) as taken:
        decode()
    return sum(taken)


def covered(spans: list[tuple[int, int]]) -> int:
    """The length of the union of spans (start, length)."""
    total, end = 0, 0
    for start, length in sorted(spans):
        total += max(0, start + length - max(start, end))
        end = max(end, start + length)
    return total


@contextmanager
def _timed(lm: DiffusionLM) -> Iterator[list[float]]:
    """Seconds of each of the network's forward passes, and of the head's."""
    network: Any = lm.network
    taken: list[float] = []
    started: list[float] = []
    hooks = []
    for module in (network.get_decoder(), network.get_output_embeddings()):
        hooks.append(module.register_forward_pre_hook(lambda *_: started.append(time.perf_counter())))
        hooks.append(
            module.register_forward_hook(lambda *_: taken.append(time.perf_counter() - started.pop()))
        )
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()


def _seconds(kind: str, work: Callable[[], object]) -> float:
    started = _now(kind)
    work()
    return _now(kind) - started


def _now(kind: str) -> float:
    if kind == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()

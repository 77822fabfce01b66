"""What is told of a training run after every step."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from opendllm.core.progress.progress import Progress
from opendllm.core.training.trainer import OnStep


@contextmanager
def training_progress(progress: Progress, steps: int) -> Iterator[OnStep]:
    """Tells loss, tokens/s and how busy the device is.

    Yields:
        What to call after every step.
    """
    busy = _Utilisation()
    with progress.activity("training", steps, "steps") as task:

        def on_step(step: int, loss: float, tokens_per_second: float) -> None:
            task.update(
                step,
                loss=loss,
                tokens_per_second=tokens_per_second,
                utilisation=busy.since_last(),
            )

        yield on_step


class _Utilisation:
    """The share of the cores that this process may use which it did use; of a GPU, what its driver says."""

    def __init__(self) -> None:
        self._cores = len(os.sched_getaffinity(0))
        self._last = time.perf_counter(), time.process_time()

    def since_last(self) -> float | None:
        if torch.cuda.is_available():
            try:
                return torch.cuda.utilization() / 100
            except (ModuleNotFoundError, RuntimeError):  # without nvidia-ml-py, which is nobody's requirement
                return None
        now = time.perf_counter(), time.process_time()
        passed, used = (b - a for a, b in zip(self._last, now, strict=True))
        self._last = now
        return min(1.0, used / passed / self._cores) if passed else None

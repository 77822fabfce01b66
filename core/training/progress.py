"""What is told of a training run after every step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from opendllm.core.foundation.cores import usable_cores
from opendllm.core.progress.progress import Progress
from opendllm.core.training.trainer import OnStep

SECONDS_BETWEEN = 1.0
"""Of looking how busy the device is."""


@contextmanager
def training_progress(progress: Progress, steps: int) -> Iterator[OnStep]:
    """Tells loss, tokens/s and how busy the device is.

    Yields:
        What to call after every step.
    """
    busy = _Utilisation()
    with progress.activity("training", steps, "steps") as task:

        def on_step(step: int, loss: float, tokens_per_second: float, **shown: float) -> None:
            task.update(
                step,
                None,
                **shown,
                loss=loss,
                tokens_per_second=tokens_per_second,
                utilisation=busy.since_last(),
            )

        yield on_step


class _Utilisation:
    """The share of the cores that this process may use which it did use; of a GPU, what its driver says."""

    def __init__(self) -> None:
        self._cores = usable_cores()
        self._last = time.perf_counter(), time.process_time()
        self._share: float | None = None

    def since_last(self) -> float | None:
        """Looked at once a second; None where nobody knows."""
        now = time.perf_counter(), time.process_time()
        passed, used = (b - a for a, b in zip(self._last, now, strict=True))
        if passed >= SECONDS_BETWEEN:
            self._last = now
            self._share = _gpu() if torch.cuda.is_available() else min(1.0, used / passed / self._cores)
        return self._share


def _gpu() -> float | None:
    try:
        return torch.cuda.utilization() / 100
    except (ModuleNotFoundError, RuntimeError):  # without nvidia-ml-py, which is nobody's requirement
        return None

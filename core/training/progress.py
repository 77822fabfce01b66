"""The progress bar of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from opendllm.core.foundation.ranks import rank
from opendllm.core.training.trainer import OnStep


@contextmanager
def training_progress(name: str, steps: int) -> Iterator[OnStep]:
    """Shows loss, tokens/s and time left on standard error, on the first rank.

    Yields:
        What to call after every step.
    """
    progress = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:,.0f} tokens/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=rank() != 0,
    )
    with progress:
        bar = progress.add_task(f"training {name}", total=steps, loss=float("nan"), speed=0.0)

        def on_step(step: int, loss: float, tokens_per_second: float) -> None:
            progress.update(bar, completed=step, loss=loss, speed=tokens_per_second)

        yield on_step

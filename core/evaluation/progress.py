"""The progress bar of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from opendllm.core.evaluation.evaluator import OnProgress
from opendllm.core.evaluation.shards import Shard


@contextmanager
def evaluation_progress(title: str, shard: Shard) -> Iterator[OnProgress]:
    """Shows answers, their score so far and the time left on standard error, in the first process.

    Yields:
        What to call after every answer. Of several processes the bar shows the first one's share.
    """
    progress = Progress(
        TextColumn("[bold]{task.description}", markup=True),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[score]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shard.is_first,
    )
    with progress:
        bar = progress.add_task(title, total=None, score="")

        def on_progress(done: int, wanted: int, score: float | None) -> None:
            so_far = "" if score is None else f"score so far {score:.3f}"
            progress.update(bar, completed=done, total=wanted, score=so_far)

        yield on_progress

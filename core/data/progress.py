"""The progress bar of a corpus being tokenised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

OnBatch = Callable[[str, int, int], None]
"""Told (split, documents, tokens) after every batch, counted from the split's beginning."""


@contextmanager
def preparing_progress() -> Iterator[OnBatch]:
    """Shows documents and tokens on standard error where that is a terminal; nothing if all is there already.

    How long a corpus is, only its end tells: so the bar has no end either.
    """
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[documents]:,} documents  {task.fields[tokens]:,} tokens"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    bars: dict[str, object] = {}

    def on_batch(split: str, documents: int, tokens: int) -> None:
        if not bars:
            progress.start()
        if split not in bars:
            bars[split] = progress.add_task(f"tokenising {split}", total=None, documents=0, tokens=0)
        progress.update(bars[split], documents=documents, tokens=tokens)  # type: ignore[arg-type]

    try:
        yield on_batch
    finally:
        if bars:
            progress.stop()

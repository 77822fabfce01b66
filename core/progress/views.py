"""`--progress`: how a run shows how far it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal

from opendllm.core.foundation.ranks import is_first_process
from opendllm.core.progress.heartbeat import heartbeat
from opendllm.core.progress.lines import JsonView, PlainView
from opendllm.core.progress.progress import Progress, View
from opendllm.core.progress.status_file import StatusFile

Style = Literal["rich", "plain", "json", "none"]


@contextmanager
def shown_progress(style: Style | None, folder: Path | None = None) -> Iterator[Progress]:
    """Progress on standard error, by the first of a run's processes.

    Args:
        style: None takes bars on a terminal, and plain lines elsewhere.
        folder: of the run, which keeps it in a file too.
    """
    if not is_first_process():
        yield Progress()
        return
    views = [*_shown(style), *([] if folder is None else [StatusFile(folder)])]
    progress = Progress(views)
    try:
        with heartbeat(progress) if views else nullcontext():
            yield progress
    except BaseException:
        progress.close(finished=False)
        raise
    progress.close(finished=True)


def _shown(style: Style | None) -> list[View]:
    if style == "none" or sys.stderr is None:  # which is closed
        return []
    if style == "plain" or (style is None and not sys.stderr.isatty()):
        return [PlainView(sys.stderr)]
    if style == "json":
        return [JsonView(sys.stderr)]
    from rich.console import Console

    from opendllm.core.progress.bars import BarView

    return [BarView(Console(stderr=True))]

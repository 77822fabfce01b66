"""A run's report on the terminal."""

from __future__ import annotations

from pathlib import Path

from opendllm.core.foundation.ranks import is_first_process


def print_report(folder: Path) -> None:
    """Print a run's tables, where there are any; of several processes the first does."""
    if not is_first_process() or not (folder / "report.md").exists():
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown((folder / "report.md").read_text(encoding="utf-8")))

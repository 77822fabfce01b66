"""A run's report on the terminal: its scores, and where the rest is."""

from __future__ import annotations

from pathlib import Path

from opendllm.core.foundation.ranks import is_first_process

SHOWN = ("Notes", "Scores", "Learning from rewards")
"""Sections of report.md, in the order in which they are printed: what is looked for stands last."""
SAMPLES = "\n## A sample: "
"""Where a model's own words begin; what stands before is escaped, so each heading there is the report's."""


def print_report(folder: Path) -> None:
    """Print a run's scores, where there are any; of several processes the first does."""
    if not is_first_process() or not (folder / "report.md").exists():
        return
    from rich.console import Console

    from opendllm.core.cli.whole_tables import WholeMarkdown

    console = Console()
    console.print(WholeMarkdown(_shown((folder / "report.md").read_text(encoding="utf-8"))))
    more = f"more: {folder / 'report.md'}, and {folder / 'report.html'} with charts and samples"
    console.print(more, markup=False, highlight=False, soft_wrap=True)


def _shown(report: str) -> str:
    introduction, *sections = report.split(SAMPLES)[0].split("\n## ")
    by_title = {section.partition("\n")[0]: section for section in sections}
    return "\n## ".join([introduction, *(by_title[title] for title in SHOWN if title in by_title)])

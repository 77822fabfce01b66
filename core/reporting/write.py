"""Makes a report of run folders: reads, renders everything, and only then replaces an earlier report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from opendllm.core.foundation.atomic_files import writing
from opendllm.core.reporting.collect import MANIFEST, read_study
from opendllm.core.reporting.comparisons import compare
from opendllm.core.reporting.machine_readable import render_json
from opendllm.core.reporting.markdown import render_markdown
from opendllm.core.reporting.samples import samples_side_by_side
from opendllm.registries.errors import UserError
from opendllm.registries.machine_errors import in_words

LONGEST_NAME = 150


@dataclass(frozen=True)
class Report:
    """The three files of a report; `text` is the Markdown, for a terminal."""

    results: Path
    markdown: Path
    html: Path
    text: str


def write_report(*run_folders: Path, output: Path | None = None) -> Report:
    """Write results.json, report.md and report.html.

    Args:
        run_folders: one or more; of several, variants are labelled RUN/VARIANT and compared with
            the first run's first one.
        output: where to write, made if missing; by default the run folder, of several a folder beside the
            first one that is named after all of them.

    Raises:
        UserError: no folder, a folder without any result, or `output` can't be written. An earlier report is
            left as it was. A file that can't be read is named in the report.
    """
    from opendllm.core.reporting.html import render_html

    if not run_folders:
        raise UserError("a report needs at least one run folder")
    if output is None:
        output = run_folders[0] if len(run_folders) == 1 else _folder_beside(run_folders)
    study = read_study(run_folders)
    comparisons = compare(study)
    samples = samples_side_by_side(study)
    report = Report(
        results=output / "results.json",
        markdown=output / "report.md",
        html=output / "report.html",
        text=render_markdown(study, comparisons, samples),
    )
    _replace_all(
        {
            report.results: render_json(study, comparisons),
            report.markdown: report.text,
            report.html: render_html(study, comparisons),
        }
    )
    return report


def _folder_beside(run_folders: Sequence[Path]) -> Path:
    """runs/a-and-b of runs/a and runs/b.

    Raises:
        UserError: that is a run's own folder.
    """
    names = "-and-".join(folder.resolve().name for folder in run_folders)[:LONGEST_NAME]
    output = run_folders[0].resolve().parent / names
    if (output / MANIFEST).exists():
        raise UserError(f"{output} is a run's own folder: choose another one with --output")
    return output


def _replace_all(contents: Mapping[Path, str]) -> None:
    """Write every file under another name first, then move them into place."""
    partial = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in contents}
    try:
        for path, content in contents.items():
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                # A model may have written half a surrogate pair, which UTF-8 has no bytes for.
                partial[path].write_bytes(content.encode("utf-8", errors="replace"))
        for path, written in partial.items():
            with writing(path):
                written.replace(path)
    except OSError as error:
        raise UserError(f"{error.filename}: the report can't be written: {in_words(error)}") from error
    finally:
        for written in partial.values():
            with suppress(OSError):
                written.unlink(missing_ok=True)

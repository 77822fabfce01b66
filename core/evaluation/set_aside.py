"""Answers that were made by other source than the plugins have now: kept, and not used again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from opendllm.core.evaluation.samples_file import about_file
from opendllm.core.foundation.json_objects import read_json_object
from opendllm.registries.sources import changed_sources


def set_aside_other_sources(folder: Path, label: str, now: Mapping[str, str]) -> list[str]:
    """Move a benchmark's answers and result away, where a plugin that they were made by has changed since.

    Args:
        folder: the variant's.
        label: the benchmark's.
        now: the digests of the plugins' sources.

    Returns:
        One line that says what has changed and where they are; none where nothing was moved. Answers of a
        run that wrote no digests down stay where they are.
    """
    samples = folder / "samples" / f"{label}.jsonl"
    about = about_file(samples)
    written = [path for path in [samples, *samples.parent.glob(f"{samples.name}.part-*")] if path.is_file()]
    if not written or not about.is_file():
        return []
    changed = changed_sources(read_json_object(about).get("sources"), now)
    if not changed:
        return []
    number = 1
    while (target := folder / f"before-other-source-{number}").exists():
        number += 1
    for path in [*written, about, folder / "results" / f"{label}.json"]:
        if path.is_file():
            (target / path.parent.name).mkdir(parents=True, exist_ok=True)
            path.rename(target / path.parent.name / path.name)
    return [f"made anew, since {' and '.join(changed)} has changed; what was answered before is in {target}"]

"""Renders report.md, which reads well in a terminal as on GitHub."""

from __future__ import annotations

import re
from collections.abc import Sequence

from opendllm.core.foundation.visible_text import visible
from opendllm.core.reporting import cost_tables, reward_reports, score_tables, tables
from opendllm.core.reporting.comparisons import ABOUT_DIFFERENCES, Comparison
from opendllm.core.reporting.contamination_tables import contaminations
from opendllm.core.reporting.differences import variants_only_in
from opendllm.core.reporting.formatting import MISSING
from opendllm.core.reporting.parallelism import AUP_SOURCE
from opendllm.core.reporting.records import Study
from opendllm.core.reporting.samples import SideBySide
from opendllm.core.reporting.significance import ABOUT_SCORES
from opendllm.core.reporting.tables import Cell, Table

SPECIAL = re.compile(r"[\\`*\[\]<>|&]|(?<!\w)_|_(?!\w)")


def render_markdown(study: Study, comparisons: Sequence[Comparison], samples: Sequence[SideBySide]) -> str:
    """The whole report.

    What a model wrote must not steer the reader's terminal: its control characters are spelt.
    """
    parts = [
        f"# {_escape(study.name)}",
        *_introduction(study),
        *_damage(study),
        "## Variants",
        _table(tables.variant_table(study)),
    ]
    scored = score_tables.score_tables(study)
    parts += (
        ["## Scores", f"Bold: {ABOUT_SCORES} ↓: less is better."] if scored else ["Nothing was evaluated."]
    )
    for scores in scored:
        parts += [f"### {_escape(scores.benchmark)}", _table(scores.table)]
    rewards = reward_reports.reward_table(study)
    parts += ["## Learning from rewards", _table(rewards)] if rewards.rows else []
    notes = tables.notes(study)
    parts += ["## Notes", "\n".join(f"- {_escape(note)}" for note in notes)] if notes else []
    parts += ["## Paired differences", *_differences(comparisons)] if scored else []
    parts += ["## Training", _table(tables.training_table(study))]
    speeds = cost_tables.speed_table(study)
    parts += ["## Speed", _table(speeds)] if speeds.rows else []
    parts += ["## Time, memory, device-hours", _table(cost_tables.cost_table(study))]
    parts += _parallelism(study)
    parts += [f"**{_escape(absent)}**" for absent in tables.absent_samples(study)]
    for sample in samples:
        parts += _sample(sample)
    for overlap in contaminations(study):
        parts += ["## Overlap with the benchmarks", _escape(overlap.about)]
        parts += [_table(table) for table in (overlap.counts, overlap.worst) if table.rows]
    parts += _manifests(study)
    parts += ["## Versions", _table(tables.plugin_table(study))]
    return visible("\n\n".join(parts) + "\n")


def _introduction(study: Study) -> list[str]:
    several = len(study.runs) > 1
    lines = []
    for run in study.runs:
        seeds = ", ".join(str(seed) for seed in run.seeds) or MISSING
        about = f"Seed {seeds}, manifest {run.digest or MISSING}."
        label = f"{_escape(run.label)}:" if several else ""
        lines.append(" ".join(part for part in (label, _escape(run.description or ""), about) if part))
    return lines


def _damage(study: Study) -> list[str]:
    found = tables.damage(study)
    lines = "\n".join(f"- {_escape(reason)}" for reason in found)
    return [f"**Not all of it could be read:**\n\n{lines}"] if found else []


def _manifests(study: Study) -> list[str]:
    """What several runs' manifests say differently."""
    if len(study.runs) < 2:
        return []
    only = [f"Only in {_escape(run)}: {_escape(', '.join(names))}." for run, names in variants_only_in(study)]
    return ["## What the manifests say differently", _table(tables.difference_table(study)), *only]


def _parallelism(study: Study) -> list[str]:
    table = cost_tables.parallelism_table(study)
    return ["### Accuracy under parallelism (AUP)", f"{AUP_SOURCE}.", _table(table)] if table.rows else []


def _differences(comparisons: Sequence[Comparison]) -> list[str]:
    if not comparisons:
        return ["None: no two variants have a headline metric task by task."]
    baseline = _escape(comparisons[0].baseline)
    return [
        f"Minus {baseline}'s, {ABOUT_DIFFERENCES}",
        _table(tables.comparison_table(comparisons)),
    ]


def _sample(sample: SideBySide) -> list[str]:
    hidden = "" if sample.suffix is None else f"▒▒▒▒{sample.suffix}"
    parts = [
        f"## A sample: {_escape(sample.benchmark)}",
        f"Task {_escape(sample.task_id)}, setting {_escape(sample.setting)}.",
        _fence(sample.prefix + hidden),
    ]
    if sample.reference is not None:
        parts += ["Reference:", _fence(sample.reference)]
    for label, answer in sample.answers.items():
        parts += [f"{_escape(label)}:", MISSING if answer is None else _fence(answer)]
    return parts


def _fence(text: str) -> str:
    """A code block that its own content cannot close."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _table(table: Table) -> str:
    """A pipe table, padded so that it is one in a terminal too."""
    if not table.rows:
        return MISSING
    rows = [[_escape(title) for title in table.header]]
    rows += [[_cell(cell) for cell in row] for row in table.rows]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(table.header))]
    lines = [
        " | ".join(
            word.ljust(width) if column < table.names else word.rjust(width)
            for column, (word, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = " | ".join(
        "-" * width if column < table.names else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    )
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])


def _cell(cell: Cell) -> str:
    value = _escape(cell.value)
    if cell.mark == "best":
        value = f"**{value}**"
    return f"{value} {cell.detail}".strip()


def _escape(text: str) -> str:
    """One line of text that Markdown takes literally."""
    return SPECIAL.sub(_escaped, " ".join(text.split()))


def _escaped(match: re.Match[str]) -> str:
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(match[0], "\\" + match[0])

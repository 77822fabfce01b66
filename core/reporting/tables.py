"""The report's tables as rows of text: what Markdown and HTML both show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from opendllm.core.reporting.comparisons import Comparison
from opendllm.core.reporting.differences import leaves, manifest_differences
from opendllm.core.reporting.formatting import MISSING, count, interval, number, signed, text
from opendllm.core.reporting.paired_tests import PairedTasks
from opendllm.core.reporting.published_figures import published_figures
from opendllm.core.reporting.records import Curve, Study, Variant

Mark = Literal["best", "better", "worse", "broken"]


@dataclass(frozen=True)
class Cell:
    """A value; `detail` is the smaller print beside it, `order` the number that it is sorted by."""

    value: str
    detail: str = ""
    mark: Mark | None = None
    order: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows of as many cells as the header has; the first `names` columns are words, the others numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    names: int = 1


def variant_table(study: Study) -> Table:
    """What was compared."""
    header = ("variant", "backbone", "objective", "sampler", "parameters", "seed")
    rows = [
        (
            Cell(variant.label),
            _absent(variant, "variant.json") or Cell(text(variant.backbone or variant.endpoint)),
            *row(
                text(variant.objective),
                text(variant.sampler),
                count(variant.parameters),
                MISSING if variant.seed is None else str(variant.seed),
            ),
        )
        for variant in study.variants
    ]
    return Table(header, tuple(rows), names=4)


def _absent(variant: Variant, file: str) -> Cell | None:
    """What stands where a file's content would; None where it is there, or isn't to be."""
    if file in variant.absent:
        return Cell(f"{file} is missing", mark="broken")
    return Cell(f"{file} is damaged", mark="broken") if file in variant.damage else None


def absent_samples(study: Study) -> tuple[str, ...]:
    """The samples files that should be there, or couldn't be read at all."""
    return tuple(
        f"{variant.label}: samples/{name}.jsonl is {'missing' if absent else 'damaged'}"
        for variant in study.variants
        for name in study.benchmarks
        if (absent := f"samples/{name}.jsonl" in variant.absent)
        or (f"samples/{name}.jsonl" in variant.damage and not variant.samples.get(name))
    )


def training_table(study: Study) -> Table:
    """How each variant was trained; losses are those of the first and the last step logged."""
    header = (
        "variant",
        "trained in",
        "digest",
        "steps",
        "tokens",
        "tokens/s",
        "held-out loss",
        "training loss",
    )
    return Table(header, tuple(_training_row(variant) for variant in study.variants), names=3)


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Paired differences from the first variant."""
    header = ("variant", "benchmark", "metric", "verdict", "difference", "p", "tasks")
    return Table(header, tuple(map(_comparison_row, comparisons)), names=4)


def _comparison_row(comparison: Comparison) -> tuple[Cell, ...]:
    verdict, paired = comparison.verdict, comparison.paired
    return (
        *row(comparison.variant, comparison.benchmark, comparison.metric),
        Cell(
            verdict,
            f"({comparison.why})" if comparison.why else "",
            None if verdict == "undecided" else verdict,
        ),
        Cell(signed(paired.difference), _reach(paired), order=paired.difference),
        Cell(number(paired.p_value), paired.test, order=paired.p_value),
        Cell(count(len(paired.tasks))),
    )


def _reach(paired: PairedTasks) -> str:
    low, high = paired.interval
    return f"the same in all {len(paired.tasks)}" if low == high else interval(low, high)


def plugin_table(study: Study) -> Table:
    """Every plugin that some variant used, and the package that brought it."""
    versions: dict[str, dict[str, None]] = {}
    for variant in study.variants:
        for plugin, package in variant.plugins.items():
            versions.setdefault(plugin, {})[package] = None
    rows = [row(plugin, "; ".join(packages)) for plugin, packages in sorted(versions.items())]
    return Table(("plugin", "package"), tuple(rows), names=2)


def settings_table(study: Study) -> Table:
    """What each result was made with."""
    header = ("variant", "benchmark", "setting", "value")
    rows = [
        row(variant.label, name, key, value)
        for variant in study.variants
        for name, result in variant.benchmarks.items()
        for key, value in leaves({**result.settings, **_without_manifest(result.provenance)})
    ]
    return Table(header, tuple(rows), names=4)


def _without_manifest(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest stands in the report by itself, and the plugins do."""
    return {key: value for key, value in provenance.items() if key not in ("manifest", "plugins")}


def difference_table(study: Study) -> Table:
    """What the manifests of several runs say differently."""
    header = ("variant", "key", *(run.label for run in study.runs))
    rows = [
        row(difference.variant or "all", difference.key, *difference.values)
        for difference in manifest_differences(study)
    ]
    return Table(header, tuple(rows), names=len(header))


def damage(study: Study) -> tuple[str, ...]:
    """Every file that couldn't be read, or not wholly."""
    found = [reason for run in study.runs for reason in run.damage.values()]
    found += [reason for variant in study.variants for reason in variant.damage.values()]
    return tuple(dict.fromkeys(found))


def notes(study: Study) -> tuple[str, ...]:
    """What is to be known when reading the numbers, each note once."""
    found = [note for benchmark in study.benchmarks for note in _benchmark_notes(study, benchmark)]
    quoted: dict[str, dict[str, None]] = {}
    for figure in published_figures(study):
        if figure.benchmark in study.benchmarks:
            quoted.setdefault(figure.source, {})[figure.model] = None
    found += [f"published figures of {', '.join(models)}: {source}" for source, models in quoted.items()]
    found += [
        f"{variant.label}: {variant.training.unreadable_lines} lines of its train.jsonl could not be read"
        for variant in study.variants
        if variant.training and variant.training.unreadable_lines
    ]
    found += [
        f"{variant.label}: its losses are no numbers from step {variant.training.lost_from} on: its weights "
        f"are lost"
        for variant in study.variants
        if variant.training and variant.training.lost_from is not None
    ]
    found += [
        f"{variant.label}: its training was extended from step {start} to {total}, with the learning-rate "
        f"schedule of {total} steps from there on"
        for variant in study.variants
        for start, total in variant.extended
    ]
    return tuple(dict.fromkeys(found))


def _benchmark_notes(study: Study, benchmark: str) -> Iterator[str]:
    """Each with the variants whose result says it, where not all of them do."""
    with_result = [variant for variant in study.variants if benchmark in variant.benchmarks]
    saying: dict[str, list[str]] = {}
    for variant in with_result:
        for note in dict.fromkeys(variant.benchmarks[benchmark].notes):
            saying.setdefault(note, []).append(variant.label)
    for note, labels in saying.items():
        of = "" if len(labels) == len(with_result) else f" ({', '.join(labels)})"
        yield f"{benchmark}{of}: {note}"


def row(*values: str) -> tuple[Cell, ...]:
    """Cells of nothing but text."""
    return tuple(Cell(value) for value in values)


def _training_row(variant: Variant) -> tuple[Cell, ...]:
    training = variant.training
    shared = variant.trained_in or (variant.label if training else None)
    digest = text(variant.training_digest and variant.training_digest[:12])
    if training is None:
        log = _absent(variant, "train.jsonl") or Cell(MISSING)
        return (*row(variant.label, text(shared), digest), log, *row(*[MISSING] * 4))
    return row(
        variant.label,
        text(shared),
        digest,
        count(training.steps),
        count(training.tokens),
        count(training.tokens_per_second),
        _from_to(training.held_out_loss, training.lost_from),
        _from_to(training.loss, training.lost_from),
    )


def _from_to(curve: Curve, lost_from: int | None) -> str:
    """The first and the last value; no last one where the weights were lost after it."""
    if not curve:
        return MISSING
    return f"{number(curve[0][1])} → {MISSING if lost_from is not None else number(curve[-1][1])}"

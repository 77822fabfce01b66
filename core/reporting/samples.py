"""Chooses the one task of which every variant's answer is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opendllm.core.foundation.sample_records import SampleRecord
from opendllm.core.reporting.records import Study

CONTEXT_LINES = 24
PREFERRED_SETTING = "oracle"


@dataclass(frozen=True)
class SideBySide:
    """One task, asked in one setting, and the first answer of each variant that gave one.

    Attributes:
        prefix: the last lines of what stands left of the answer.
        suffix: the first lines of what stands right of it; None where the prefix was continued.
        answers: text by variant's label; None where a variant has none.
    """

    benchmark: str
    task_id: str
    setting: str
    prefix: str
    suffix: str | None
    reference: str | None
    answers: Mapping[str, str | None]


def samples_side_by_side(study: Study) -> tuple[SideBySide, ...]:
    """A task for each benchmark that has samples; those that hide a middle come first."""
    chosen = [
        shown
        for benchmark in benchmarks_with_samples(study)
        if (shown := _choose(study, benchmark)) is not None
    ]
    return tuple(sorted(chosen, key=lambda shown: shown.suffix is None))


def benchmarks_with_samples(study: Study) -> list[str]:
    """Those of which some variant has samples, in order."""
    names = [*study.benchmarks, *(name for variant in study.variants for name in variant.samples)]
    return [
        name for name in dict.fromkeys(names) if any(variant.samples.get(name) for variant in study.variants)
    ]


def _choose(study: Study, benchmark: str) -> SideBySide | None:
    """The first task that most variants answered: infilling before completion, "oracle" first."""
    answers: dict[tuple[str, str], dict[str, SampleRecord]] = {}
    for variant in study.variants:
        for sample in variant.samples.get(benchmark, ()):
            answers.setdefault(sample.key[:2], {}).setdefault(variant.label, sample)
    if not answers:
        return None

    def preference(key: tuple[str, str]) -> tuple[int, bool, bool]:
        sample = next(iter(answers[key].values()))
        return len(answers[key]), sample.suffix is not None, key[1] == PREFERRED_SETTING

    key = max(answers, key=preference)  # of equals, the first
    shown = next(iter(answers[key].values()))
    return SideBySide(
        benchmark=benchmark,
        task_id=key[0],
        setting=key[1],
        prefix=_last_lines(shown.prefix or ""),
        suffix=None if shown.suffix is None else _first_lines(shown.suffix),
        reference=shown.reference,
        answers={
            variant.label: answers[key][variant.label].text if variant.label in answers[key] else None
            for variant in study.variants
        },
    )


def _last_lines(text: str) -> str:
    lines = text.split("\n")
    return text if len(lines) <= CONTEXT_LINES else "\n".join(["…", *lines[-CONTEXT_LINES:]])


def _first_lines(text: str) -> str:
    lines = text.split("\n")
    return text if len(lines) <= CONTEXT_LINES else "\n".join([*lines[:CONTEXT_LINES], "…"])

"""What came of a benchmark: its scores, and what the answers cost."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from opendllm.core.decoding.graph_calls import GraphTiming
from opendllm.core.foundation.sample_records import SampleKey, SampleRecord
from opendllm.registries.benchmarks import Answer, GenerationRequest, Scores, TextLikelihood

NAMED_TASKS = 5


@dataclass(frozen=True)
class Evaluation:
    """A benchmark's scores, and what the answers cost.

    Attributes:
        scores: None where scoring would run generated code, which isn't allowed.
        tasks: how many there are answers to.
        texts: how many answers are texts that the model wrote.
        tokens: that these are made of; None where nobody counted them all.
        forward_passes: of all answers; None where nobody knows.
        unasked: task id -> why it couldn't be put to the model, so that its answers count as wrong.
        peak_memory_bytes: while answers were given; None where all were on file.
        first_text: a request for a text, with its answer's key; None where there is none.
        graphs: what CUDA graphs cost this process; None where there were none.
        batch_size: texts that this process wrote side by side at most; None where it wrote none.
    """

    scores: Scores | None
    tokens_per_second: float | None
    forward_passes: int | None
    seconds: float
    tasks: int
    unasked: Mapping[str, str]
    texts: int
    tokens: int | None
    peak_memory_bytes: int | None = None
    first_text: tuple[SampleKey, GenerationRequest] | None = None
    graphs: GraphTiming | None = None
    batch_size: int | None = None

    @property
    def tokens_per_forward_pass(self) -> float | None:
        """How many tokens of its text a row's forward pass gave, on average; None without a pass."""
        if self.tokens is None or not self.forward_passes:
            return None
        return self.tokens / self.forward_passes


def evaluation_of(scores: Scores | None, records: Sequence[SampleRecord]) -> Evaluation:
    """Scores, with what the answers on file say about their cost."""
    seconds = sum(record.seconds or 0 for record in records)
    # What was written here or by a server, and took its time; others' samples say nothing of that.
    texts = [
        record
        for record in records
        if record.text is not None
        and record.failure is None
        and (record.forward_passes is not None or record.seconds is not None)
    ]
    written = _sum(record.kept_tokens for record in texts)
    failed = {record.answer.task_id: record.failure for record in records if record.failure is not None}
    asked_here = {record.answer.task_id for record in records if _is_of_a_run(record.answer)}
    unasked = {task: reason for task, reason in failed.items() if task in asked_here}
    tasks = len({record.answer.task_id for record in records})
    if scores is not None and failed:
        reasons = {task: {**scores.per_task.get(task, {}), "failure": why} for task, why in failed.items()}
        notes = [unasked_note(unasked, tasks)] if unasked else []
        scores = replace(scores, per_task={**scores.per_task, **reasons}, notes=(*scores.notes, *notes))
    return Evaluation(
        scores,
        written / seconds if written and seconds else None,
        _sum(record.forward_passes for record in texts),
        seconds,
        tasks,
        unasked,
        len(texts),
        written,
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    """None where one of them isn't known."""
    found = list(counts)
    known = [count for count in found if count is not None]
    return sum(known) if len(known) == len(found) else None


def _is_of_a_run(answer: Answer) -> bool:
    return isinstance(answer, TextLikelihood) or answer.form == "written"


def unasked_note(unasked: Mapping[str, str], tasks: int) -> str:
    """How many problems couldn't be put to the model, and which."""
    named = "; ".join(f"{task}: {reason}" for task, reason in itertools.islice(unasked.items(), NAMED_TASKS))
    more = f"; and {len(unasked) - NAMED_TASKS} more" if len(unasked) > NAMED_TASKS else ""
    return f"{len(unasked)} of {tasks} problems couldn't be asked and count as failed ({named}{more})"

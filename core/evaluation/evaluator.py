"""Asks a model what a benchmark asks, and scores the answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from opendllm.core.decoding.graph_calls import GraphTiming
from opendllm.core.evaluation.answering import failed_answer, fingerprint
from opendllm.core.evaluation.answers import AnswerFile
from opendllm.core.evaluation.remarks import cut_short, same_answers
from opendllm.core.evaluation.respondent import Respondent
from opendllm.core.evaluation.shards import ALONE, Shard, take_shard
from opendllm.core.foundation.atomic_files import write_json
from opendllm.core.foundation.json_objects import read_json_object
from opendllm.core.foundation.peak_memory import peak_memory_bytes, restart_peak_memory
from opendllm.core.foundation.sample_records import SampleKey, SampleRecord
from opendllm.core.sandbox.sandbox import Sandbox
from opendllm.registries.benchmarks import (
    Answer,
    Benchmark,
    BenchmarkContext,
    CodeExecution,
    GenerationRequest,
    LikelihoodRequest,
    Metric,
    Request,
    Scores,
    TextLikelihood,
)
from opendllm.registries.errors import UserError


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


OnProgress = Callable[[int, int, float | None], None]
"""Told (answers on file, answers wanted, their score so far where that is cheap)."""
OnScoring = Callable[[int, int | None, float | None], None]
"""Told (problems judged, of how many, the share of their programs that passed); None where nobody knows."""
NAMED_TASKS = 5


def evaluate(
    asked: Respondent,
    benchmark: Benchmark,
    context: BenchmarkContext,
    answers: AnswerFile,
    on_progress: OnProgress,
    shard: Shard = ALONE,
    on_scoring: OnScoring = lambda *_: None,
) -> Evaluation | None:
    """Give the answers that aren't on file yet, then score them all.

    A problem that can't be put to the model is answered wrongly, and named; the others go on.

    Args:
        asked: the model or server, and settings.
        benchmark: what is asked.
        context: of the run.
        answers: the file that answers are kept in.
        on_progress: told how far it is.
        shard: this process's part.
        on_scoring: told how far the scoring is, if it runs code, and when it begins.

    Returns:
        None in all processes but the first.

    Raises:
        UserError: chat is asked for where likelihoods know none, or the checkpoint has no likelihood; no
            request at all fits the model, answers on file are to other requests, or there is no sandbox as
            strong as the scoring will want.
    """
    if context.code_execution is not None:
        context = replace(context, code_execution=replace(context.code_execution, on_progress=on_scoring))
    if asked.chat:
        context = replace(context, chat=asked.chat_template())
    requests, about = asked.askable(benchmark.requests(context))
    if asked.chat:
        _check_chat_has_an_effect(requests)
    wanted = _keyed(requests, asked.samples_per_task)
    _check_same_requests(wanted, answers)
    pending = [key for key in wanted if key not in answers.records]
    if pending and shard.is_first and benchmark.executes_code and context.code_execution is not None:
        check_sandbox(context.code_execution)
    unfit = asked.unanswerable({key: wanted[key] for key in pending}, context.sequence_length)
    _check_some_fit(unfit, wanted)
    # The longest together, and every process and device as many of them.
    pending.sort(key=lambda key: 0 if key in unfit else _characters(wanted[key]))
    mine = {key: wanted[key] for key in take_shard(pending, shard.rank, shard.of)}
    progress = _Progress(benchmark, on_progress, len(wanted) - len(pending) + len(mine))
    progress.start(record for key, record in answers.records.items() if key in wanted)
    failed = (failed_answer(key, mine[key], unfit[key]) for key in mine if key in unfit)
    fitting = {key: request for key, request in mine.items() if key not in unfit}
    restart_peak_memory()
    for record in itertools.chain(failed, asked.answer_all(fitting, context.sequence_length)):
        answers.add(record)
        progress.add(record)
    peak_memory = peak_memory_bytes() if pending and asked.runs_here else None
    graphs = GraphTiming.summed(asked.graphs)
    answers.gather(wanted)
    if not shard.is_first:
        return None
    records = [answers.records[key] for key in wanted]
    scores: Scores | None = None
    if not benchmark.executes_code or context.code_execution is not None:
        on_scoring(0, None, None)
        scores = benchmark.score([asked.with_kind(record.answer) for record in records])
        remarks = [
            *asked.remarks(wanted, answers.records),
            *same_answers(records),
            *cut_short(wanted, answers.records, asked.max_new_tokens),
        ]
        scores = replace(scores, notes=(*scores.notes, *about, *remarks))
    return replace(
        evaluation_of(scores, records),
        peak_memory_bytes=peak_memory,
        first_text=_first_text(wanted, answers, asked.max_new_tokens),
        graphs=graphs if graphs.graphs else None,
        batch_size=max(asked.rows, default=None),
    )


def _first_text(
    wanted: Mapping[SampleKey, Request], answers: AnswerFile, max_new_tokens: int
) -> tuple[SampleKey, GenerationRequest] | None:
    """Of the first task that asks for texts, the setting that lets the model write most."""
    texts = {
        key: request
        for key, request in wanted.items()
        if isinstance(request, GenerationRequest) and answers.records[key].failure is None
    }
    first = next(iter(texts), None)
    if first is None:
        return None

    def length(key: SampleKey) -> int:
        request = texts[key]
        return 0 if request.oracle_length else request.gap.length or max_new_tokens

    key = max((key for key in texts if key[0] == first[0]), key=length)
    return key, texts[key]


def check_sandbox(execution: CodeExecution) -> None:
    """Refuse at once what the scoring would refuse after hours of writing.

    Raises:
        UserError: this machine has no sandbox as strong as asked for.
    """
    with Sandbox(execution.level or "rlimits", 1):
        pass


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


def write_result(path: Path, benchmark: Benchmark, evaluation: Evaluation, about: Mapping[str, Any]) -> None:
    """Write results/BENCHMARK.json; an earlier file stays until this one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = evaluation.scores
    assert scores is not None
    before = _speed_on_file(path)
    memory = evaluation.peak_memory_bytes
    if memory is None:
        memory = before.get("peak_memory_bytes")
    batch_size = before.get("batch_size") if evaluation.batch_size is None else evaluation.batch_size
    graphs = before.get("graphs") if evaluation.graphs is None else asdict(evaluation.graphs)
    write_json(
        path,
        {
            **about,
            "metrics": {name: _metric(metric) for name, metric in scores.metrics.items()},
            "headline": [name for name in benchmark.headline if name in scores.metrics],
            "lower_is_better": sorted(benchmark.lower_is_better),
            "per_task": {task: dict(values) for task, values in scores.per_task.items()},
            "verdicts": [[*key, reason] for key, reason in scores.verdicts.items()],
            "notes": list(scores.notes),
            "unasked": dict(evaluation.unasked),
            "speed": {
                "tokens_per_second": evaluation.tokens_per_second,
                "forward_passes": evaluation.forward_passes,
                "tokens_per_forward_pass": evaluation.tokens_per_forward_pass,
                "seconds": evaluation.seconds,
                "texts": evaluation.texts,
                "tokens": evaluation.tokens,
                "peak_memory_bytes": memory,
                "batch_size": batch_size,
                **({} if graphs is None else {"graphs": graphs}),
            },
        },
    )


def _metric(metric: Metric) -> dict[str, Any]:
    return {name: value for name, value in asdict(metric).items() if value is not None}


def _speed_on_file(result: Path) -> dict[str, Any]:
    """Of when the answers were given, as an earlier result says it."""
    with suppress(UserError):
        speed = read_json_object(result, optional=True).get("speed")
        return speed if isinstance(speed, dict) else {}
    return {}


class _Progress:
    """Counts answers, and averages their `quick_score`, where the benchmark has one."""

    def __init__(self, benchmark: Benchmark, on_progress: OnProgress, wanted: int) -> None:
        self._benchmark = benchmark
        self._on_progress = on_progress
        self._wanted = wanted
        self._done = 0
        self._values: list[float] = []

    def start(self, records: Iterable[SampleRecord]) -> None:
        for record in records:
            self._count(record)
        self._tell()

    def add(self, record: SampleRecord) -> None:
        self._count(record)
        self._tell()

    def _count(self, record: SampleRecord) -> None:
        self._done += 1
        value = None if record.failure is not None else self._benchmark.quick_score(record.answer)
        if value is not None:
            self._values.append(value)

    def _tell(self) -> None:
        score = sum(self._values) / len(self._values) if self._values else None
        self._on_progress(self._done, self._wanted, score)


def _check_chat_has_an_effect(requests: Sequence[Request]) -> None:
    for request in requests:
        if isinstance(request, LikelihoodRequest) and not request.templated:
            raise UserError(
                f"chat has no effect on the likelihood of a text as it stands ({request.task_id}): set "
                f"`generate: {{chat: false}}` in the benchmark's `evaluate` entry"
            )


def _check_some_fit(unfit: Mapping[SampleKey, str], wanted: Mapping[SampleKey, Request]) -> None:
    if unfit and len(unfit) == len(wanted):
        first = next(iter(unfit))
        raise UserError(f"no problem of the benchmark can be put to the model; {first[0]}: {unfit[first]}")


def _keyed(requests: Sequence[Request], samples_per_task: int) -> dict[SampleKey, Request]:
    keyed: dict[SampleKey, Request] = {}
    for request in requests:
        samples = samples_per_task if isinstance(request, GenerationRequest) else 1
        for sample in range(samples):
            keyed[(request.task_id, request.setting, sample)] = request
    return keyed


def _characters(request: Request) -> int:
    if isinstance(request, LikelihoodRequest):
        return len(request.context or "") + len(request.text)
    return len(request.gap.prefix) + len(request.gap.suffix or "")


def _check_same_requests(wanted: Mapping[SampleKey, Request], answers: AnswerFile) -> None:
    """The settings' digest doesn't know what a file of problems holds."""
    for key, request in wanted.items():
        record = answers.records.get(key)
        if record is None:
            continue
        if isinstance(request, GenerationRequest):
            same = (record.prefix, record.suffix) == (request.gap.prefix, request.gap.suffix)
        else:
            same = record.request in (None, fingerprint(request))
        if not same:
            raise UserError(
                f"{answers.path}: the answer to {key[0]} was given to another prompt, so the benchmark's "
                f"problems have changed: keep it by choosing another `output` (--output of `evaluate`), or "
                f"delete the file"
            )

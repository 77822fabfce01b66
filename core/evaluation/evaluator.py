"""Asks a model what a benchmark asks, and scores the answers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from opendllm.core.decoding.graph_calls import GraphTiming
from opendllm.core.evaluation.answering import failed_answer, fingerprint
from opendllm.core.evaluation.answers import AnswerFile
from opendllm.core.evaluation.evaluation import Evaluation, evaluation_of
from opendllm.core.evaluation.progress import AnswerProgress, OnProgress, OnScoring
from opendllm.core.evaluation.remarks import cut_short, same_answers
from opendllm.core.evaluation.respondent import Respondent
from opendllm.core.evaluation.shards import ALONE, Shard, take_shard
from opendllm.core.foundation.peak_memory import peak_memory_bytes, restart_peak_memory
from opendllm.core.foundation.sample_records import SampleKey
from opendllm.core.sandbox.sandbox import Sandbox
from opendllm.registries.benchmarks import (
    Benchmark,
    BenchmarkContext,
    CodeExecution,
    GenerationRequest,
    LikelihoodRequest,
    Request,
    Scores,
)
from opendllm.registries.errors import UserError


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
    progress = AnswerProgress(benchmark, on_progress, len(wanted) - len(pending) + len(mine))
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
        remarks = _remarks(asked, wanted, answers)
        scores = replace(scores, notes=(*scores.notes, *about, *remarks))
    return replace(
        evaluation_of(scores, records),
        peak_memory_bytes=peak_memory,
        first_text=_first_text(wanted, answers, asked.max_new_tokens),
        graphs=graphs if graphs.graphs else None,
        batch_size=max(asked.rows, default=None),
    )


def _remarks(asked: Respondent, wanted: Mapping[SampleKey, Request], answers: AnswerFile) -> list[str]:
    """What the answers as a whole say of how they were asked for."""
    return [
        *asked.remarks(wanted, answers.records),
        *same_answers([answers.records[key] for key in wanted]),
        *cut_short(wanted, answers.records, asked.max_new_tokens),
    ]


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

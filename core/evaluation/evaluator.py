"""Asks a checkpoint what a benchmark asks, and scores the answers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opendllm.core.checkpoints.files import write_json
from opendllm.core.decoding.chat import chat_prompt
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.text import Blank, count_tokens, encode, write
from opendllm.core.evaluation.answers import AnswerFile, AnswerKey, answer_of
from opendllm.core.evaluation.shards import ALONE, Shard, deal
from opendllm.core.evaluation.text_likelihood import TextToScore, score_texts
from opendllm.core.toolkit.draws import hash_address, stream_id
from opendllm.core.toolkit.likelihood import Estimator
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.benchmarks import (
    Benchmark,
    BenchmarkContext,
    GenerationRequest,
    LikelihoodRequest,
    Request,
    Scores,
)
from opendllm.registries.errors import UserError
from opendllm.registries.samplers import Sampler

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Replica:
    """A copy of the model, on a device of its own; each writes its share of the answers."""

    lm: DiffusionLM
    tokenizer: PreTrainedTokenizerFast
    sampler: Sampler


@dataclass(frozen=True)
class Asked:
    """How a benchmark is put to a model.

    Attributes:
        replicas: the model, once a device.
        options: the decoder's.
        chat: whether prompts without a suffix go through the chat template.
        samples_per_task: answers to each generation request.
        batch_size: rows decoded together.
        likelihood_estimator: see `log_likelihood`.
        likelihood_draws: Monte-Carlo draws a text.
        seed: with task and sample it seeds each answer, so nothing depends on batches or order.
    """

    replicas: Sequence[Replica]
    options: DecoderOptions
    chat: bool
    samples_per_task: int
    batch_size: int
    likelihood_estimator: Estimator
    likelihood_draws: int
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """A benchmark's scores, and what the answers cost.

    Attributes:
        scores: None where scoring would run generated code, which isn't allowed.
    """

    scores: Scores | None
    tokens_per_second: float | None
    forward_passes: int
    seconds: float


OnProgress = Callable[[int, int, float | None], None]
"""Told (answers on file, answers wanted, their score so far where that is cheap)."""


def evaluate(
    asked: Asked,
    benchmark: Benchmark,
    context: BenchmarkContext,
    answers: AnswerFile,
    on_progress: OnProgress,
    shard: Shard = ALONE,
) -> Evaluation | None:
    """Give the answers that aren't on file yet, then score them all.

    Args:
        asked: model and settings.
        benchmark: what is asked.
        context: of the run.
        answers: the file that answers are kept in.
        on_progress: told how far it is.
        shard: this process's part.

    Returns:
        None in all processes but the first.

    Raises:
        UserError: a request doesn't fit the model, or answers on file are to other requests.
    """
    wanted = _keyed(benchmark.requests(context), asked.samples_per_task)
    _check_same_requests(wanted, answers)
    pending = [key for key in wanted if key not in answers.lines]
    # The longest together, and every process and device as many of them.
    pending.sort(key=lambda key: _characters(wanted[key]))
    mine = {key: wanted[key] for key in deal(pending, shard.rank, shard.of)}
    progress = _Progress(benchmark, on_progress, len(wanted) - len(pending) + len(mine))
    progress.start(line for key, line in answers.lines.items() if key in wanted)
    for key, content in _answer_all(asked, mine, context.sequence_length):
        answers.add(key, content)
        progress.add(answers.lines[key])
    answers.gather(wanted)
    if not shard.is_first:
        return None
    lines = [answers.lines[key] for key in wanted]
    allowed = not benchmark.executes_code or context.code_execution is not None
    scores = benchmark.score([answer_of(line) for line in lines]) if allowed else None
    return evaluation_of(scores, lines)


def evaluation_of(scores: Scores | None, lines: Sequence[Mapping[str, Any]]) -> Evaluation:
    """Scores, with what the answers on file say about their cost."""
    seconds = sum(line.get("seconds", 0.0) for line in lines)
    written = sum(line.get("kept_tokens", 0) for line in lines)
    return Evaluation(
        scores,
        written / seconds if written and seconds else None,
        sum(line.get("forward_passes", 0) for line in lines),
        seconds,
    )


def write_result(path: Path, benchmark: Benchmark, evaluation: Evaluation, about: Mapping[str, Any]) -> None:
    """Write results/BENCHMARK.json; an earlier file stays until this one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = evaluation.scores
    assert scores is not None
    write_json(
        path,
        {
            **about,
            "metrics": {name: asdict(metric) for name, metric in scores.metrics.items()},
            "headline": [name for name in benchmark.headline if name in scores.metrics],
            "lower_is_better": sorted(benchmark.lower_is_better),
            "per_task": {task: dict(values) for task, values in scores.per_task.items()},
            "notes": list(scores.notes),
            "speed": {
                "tokens_per_second": evaluation.tokens_per_second,
                "forward_passes": evaluation.forward_passes,
                "seconds": evaluation.seconds,
            },
        },
    )


class _Progress:
    """Counts answers, and averages what the benchmark sees in them at a glance."""

    def __init__(self, benchmark: Benchmark, on_progress: OnProgress, wanted: int) -> None:
        self._benchmark = benchmark
        self._on_progress = on_progress
        self._wanted = wanted
        self._done = 0
        self._values: list[float] = []

    def start(self, lines: Iterable[Mapping[str, Any]]) -> None:
        for line in lines:
            self._count(line)
        self._tell()

    def add(self, line: Mapping[str, Any]) -> None:
        self._count(line)
        self._tell()

    def _count(self, line: Mapping[str, Any]) -> None:
        self._done += 1
        value = self._benchmark.glance(answer_of(line))
        if value is not None:
            self._values.append(value)

    def _tell(self) -> None:
        score = sum(self._values) / len(self._values) if self._values else None
        self._on_progress(self._done, self._wanted, score)


def _keyed(requests: Sequence[Request], samples_per_task: int) -> dict[AnswerKey, Request]:
    keyed: dict[AnswerKey, Request] = {}
    for request in requests:
        samples = samples_per_task if isinstance(request, GenerationRequest) else 1
        for sample in range(samples):
            keyed[(request.task_id, request.setting, sample)] = request
    return keyed


def _characters(request: Request) -> int:
    if isinstance(request, LikelihoodRequest):
        return len(request.context or "") + len(request.text)
    return len(request.prefix) + len(request.suffix or "")


def _check_same_requests(wanted: Mapping[AnswerKey, Request], answers: AnswerFile) -> None:
    """The settings' digest doesn't know what a file of problems holds."""
    for key, request in wanted.items():
        line = answers.lines.get(key)
        if line is None:
            continue
        if isinstance(request, GenerationRequest):
            same = (line.get("prefix"), line.get("suffix")) == (request.prefix, request.suffix)
        else:
            same = line.get("request") in (None, _fingerprint(request))
        if not same:
            raise UserError(
                f"{answers.path}: the answer to {key[0]} was given to another prompt, so the benchmark's "
                f"problems have changed: keep it by choosing another `output`, or delete the file"
            )


def _fingerprint(request: LikelihoodRequest) -> str:
    return f"{stream_id(repr((request.context, request.text))):x}"


def answer_seed(seed: int, key: AnswerKey) -> int:
    """One seed for each answer."""
    task_id, setting, sample = key
    return int(hash_address(seed, stream_id(task_id), stream_id(setting), sample))


def _answer_all(
    asked: Asked, requests: dict[AnswerKey, Request], sequence_length: int
) -> Iterator[tuple[AnswerKey, dict[str, Any]]]:
    """The answers of all replicas, as they come."""
    if len(asked.replicas) == 1:
        yield from _answer(asked, asked.replicas[0], requests, sequence_length)
        return
    keys = list(requests)
    replicas = asked.replicas
    found: queue.Queue[tuple[AnswerKey, dict[str, Any]] | Exception | None] = queue.Queue()
    stop = threading.Event()

    def work(number: int) -> None:
        share = {key: requests[key] for key in deal(keys, number, len(replicas))}
        try:
            for answer in _answer(asked, replicas[number], share, sequence_length):
                found.put(answer)
                if stop.is_set():
                    return
            found.put(None)
        except Exception as error:
            found.put(error)

    with ThreadPoolExecutor(len(replicas)) as pool:
        for number in range(len(replicas)):
            pool.submit(work, number)
        busy = len(replicas)
        try:
            while busy:
                answer = found.get()
                if isinstance(answer, Exception):
                    raise answer
                if answer is None:
                    busy -= 1
                else:
                    yield answer
        finally:
            stop.set()


def _answer(
    asked: Asked, replica: Replica, requests: dict[AnswerKey, Request], sequence_length: int
) -> Iterator[tuple[AnswerKey, dict[str, Any]]]:
    replica.lm.module.eval()
    texts = {key: r for key, r in requests.items() if isinstance(r, LikelihoodRequest)}
    blanks = {key: r for key, r in requests.items() if isinstance(r, GenerationRequest)}
    yield from _score_likelihoods(asked, replica, texts, sequence_length)
    yield from _write_answers(asked, replica, blanks)


def _score_likelihoods(
    asked: Asked, replica: Replica, requests: dict[AnswerKey, LikelihoodRequest], sequence_length: int
) -> Iterator[tuple[AnswerKey, dict[str, Any]]]:
    keys = list(requests)
    texts = [
        TextToScore(request.text, answer_seed(asked.seed, key), request.context, request.greedy)
        for key, request in requests.items()
    ]
    started = time.perf_counter()
    found = score_texts(
        replica.lm,
        replica.tokenizer,
        texts,
        sequence_length,
        asked.likelihood_draws,
        asked.likelihood_estimator,
    )
    for key, scored in zip(keys, found, strict=True):
        seconds, started = time.perf_counter() - started, time.perf_counter()
        yield key, {**asdict(scored), "request": _fingerprint(requests[key]), "seconds": seconds}


def _write_answers(
    asked: Asked, replica: Replica, requests: dict[AnswerKey, GenerationRequest]
) -> Iterator[tuple[AnswerKey, dict[str, Any]]]:
    keys = list(requests)
    count = count_tokens(replica.tokenizer)
    blanks = [
        Blank(
            chat_prompt(replica.tokenizer, request.prefix)
            if asked.chat and request.suffix is None
            else request.prefix,
            request.suffix,
            _length(request, asked.options, count),
            answer_seed(asked.seed, key),
        )
        for key, request in requests.items()
    ]
    for index, written in write(
        replica.lm, replica.tokenizer, blanks, replica.sampler, asked.options, asked.batch_size
    ):
        request = requests[keys[index]]
        reference = request.reference
        text = _cut(written.text, request.stop)
        yield (
            keys[index],
            {
                "prefix": request.prefix,
                "suffix": request.suffix,
                "text": text,
                "reference": reference,
                "tokens": list(written.tokens),
                "reference_tokens": []
                if reference is None
                else encode(replica.tokenizer, reference, replica.lm.mask_token_id, "reference"),
                "kept_tokens": written.kept_tokens,
                "ended": written.kept_tokens < len(written.tokens) or text != written.text,
                "forward_passes": written.forward_passes,
                "seconds": written.seconds,
            },
        )


def _length(request: GenerationRequest, options: DecoderOptions, count: Callable[[str], int]) -> int:
    if request.length == "oracle":
        assert request.reference is not None
        return count(request.reference)
    return request.length or options.max_new_tokens


def _cut(text: str, stop: tuple[str, ...]) -> str:
    ends = [text.index(word) for word in stop if word in text]
    return text[: min(ends)] if ends else text

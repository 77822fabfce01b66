"""Asks a checkpoint what a benchmark asks, and scores the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opendllm.core.checkpoints.files import write_json
from opendllm.core.decoding.chat import chat_prompt
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.text import Blank, count_tokens, encode, write
from opendllm.core.evaluation.answers import AnswerFile, AnswerKey, answer_of
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
from opendllm.registries.samplers import Sampler

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Asked:
    """How a benchmark is put to a model.

    Attributes:
        lm: the model.
        tokenizer: its own.
        sampler: for what is to be written.
        options: the decoder's.
        chat: whether prompts without a suffix go through the chat template.
        samples_per_task: answers to each generation request.
        batch_size: rows decoded together.
        likelihood_estimator: see `log_likelihood`.
        likelihood_draws: Monte-Carlo draws a text.
        seed: with task and sample it seeds each answer, so nothing depends on batches or order.
    """

    lm: DiffusionLM
    tokenizer: PreTrainedTokenizerFast
    sampler: Sampler
    options: DecoderOptions
    chat: bool
    samples_per_task: int
    batch_size: int
    likelihood_estimator: Estimator
    likelihood_draws: int
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """A benchmark's scores, and what they cost."""

    scores: Scores
    tokens_per_second: float | None
    forward_passes: int
    seconds: float


def evaluate(
    asked: Asked,
    benchmark: Benchmark,
    context: BenchmarkContext,
    answers: AnswerFile,
    on_progress: Callable[[int, int], None],
) -> Evaluation:
    """Give the answers that aren't on file yet, then score them all.

    Args:
        asked: model and settings.
        benchmark: what is asked.
        context: of the run.
        answers: the file that answers are kept in.
        on_progress: told (answers on file, answers wanted).

    Raises:
        UserError: a request doesn't fit the model.
    """
    wanted = _keyed(benchmark.requests(context), asked.samples_per_task)
    pending = {key: request for key, request in wanted.items() if key not in answers.lines}
    done = len(wanted) - len(pending)
    on_progress(done, len(wanted))
    for key, content in _answer(asked, pending, context.sequence_length):
        answers.add(key, content)
        done += 1
        on_progress(done, len(wanted))
    lines = [answers.lines[key] for key in wanted]
    seconds = sum(line["seconds"] for line in lines)
    written = sum(line.get("kept_tokens", 0) for line in lines)
    return Evaluation(
        benchmark.score([answer_of(line) for line in lines]),
        written / seconds if written and seconds else None,
        sum(line.get("forward_passes", 0) for line in lines),
        seconds,
    )


def write_result(path: Path, benchmark: Benchmark, evaluation: Evaluation, about: dict[str, Any]) -> None:
    """Write results/BENCHMARK.json; an earlier file stays until this one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = evaluation.scores
    write_json(
        path,
        {
            **about,
            "metrics": {name: asdict(metric) for name, metric in scores.metrics.items()},
            "headline": list(benchmark.headline),
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


def _keyed(requests: Sequence[Request], samples_per_task: int) -> dict[AnswerKey, Request]:
    keyed: dict[AnswerKey, Request] = {}
    for request in requests:
        samples = samples_per_task if isinstance(request, GenerationRequest) else 1
        for sample in range(samples):
            keyed[(request.task_id, request.setting, sample)] = request
    return keyed


def answer_seed(seed: int, key: AnswerKey) -> int:
    """One seed for each answer."""
    task_id, setting, sample = key
    return int(hash_address(seed, stream_id(task_id), stream_id(setting), sample))


def _answer(
    asked: Asked, pending: dict[AnswerKey, Request], sequence_length: int
) -> Iterator[tuple[AnswerKey, dict[str, Any]]]:
    asked.lm.module.eval()
    texts = {key: r for key, r in pending.items() if isinstance(r, LikelihoodRequest)}
    blanks = {key: r for key, r in pending.items() if isinstance(r, GenerationRequest)}
    yield from _score_likelihoods(asked, texts, sequence_length)
    yield from _write_answers(asked, blanks)


def _score_likelihoods(
    asked: Asked, requests: dict[AnswerKey, LikelihoodRequest], sequence_length: int
) -> Iterator[tuple[AnswerKey, dict[str, Any]]]:
    keys = list(requests)
    texts = [TextToScore(requests[key].text, answer_seed(asked.seed, key)) for key in keys]
    started = time.perf_counter()
    found = score_texts(
        asked.lm, asked.tokenizer, texts, sequence_length, asked.likelihood_draws, asked.likelihood_estimator
    )
    for key, scored in zip(keys, found, strict=True):
        seconds, started = time.perf_counter() - started, time.perf_counter()
        yield key, {**asdict(scored), "seconds": seconds}


def _write_answers(
    asked: Asked, requests: dict[AnswerKey, GenerationRequest]
) -> Iterator[tuple[AnswerKey, dict[str, Any]]]:
    keys = list(requests)
    count = count_tokens(asked.tokenizer)
    blanks = [
        Blank(
            _prefix(asked, requests[key]),
            requests[key].suffix,
            _length(requests[key], asked.options, count),
            answer_seed(asked.seed, key),
        )
        for key in keys
    ]
    for index, written in write(
        asked.lm, asked.tokenizer, blanks, asked.sampler, asked.options, asked.batch_size
    ):
        request = requests[keys[index]]
        reference = request.reference
        yield (
            keys[index],
            {
                "prefix": request.prefix,
                "suffix": request.suffix,
                "text": _cut(written.text, request.stop),
                "reference": reference,
                "tokens": list(written.tokens),
                "reference_tokens": []
                if reference is None
                else encode(asked.tokenizer, reference, asked.lm.mask_token_id, "reference"),
                "kept_tokens": written.kept_tokens,
                "forward_passes": written.forward_passes,
                "seconds": written.seconds,
            },
        )


def _prefix(asked: Asked, request: GenerationRequest) -> str:
    if asked.chat and request.suffix is None:
        return chat_prompt(asked.tokenizer, request.prefix)
    return request.prefix


def _length(request: GenerationRequest, options: DecoderOptions, count: Callable[[str], int]) -> int:
    if request.length == "oracle":
        assert request.reference is not None
        return count(request.reference)
    return request.length or options.max_new_tokens


def _cut(text: str, stop: tuple[str, ...]) -> str:
    ends = [text.index(word) for word in stop if word in text]
    return text[: min(ends)] if ends else text

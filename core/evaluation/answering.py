"""Puts requests to a model: texts written, likelihoods estimated, on every device at once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from opendllm.core.decoding.chat import chat_prompt
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.text import Blank, count_tokens, encode, why_unfit, write
from opendllm.core.evaluation.answers import AnswerKey
from opendllm.core.evaluation.shards import take_shard
from opendllm.core.evaluation.text_likelihood import TextToScore, score_texts
from opendllm.core.toolkit.draws import hash_address, stream_id
from opendllm.core.toolkit.likelihood import Estimator
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.benchmarks import GenerationRequest, LikelihoodRequest, Request
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
        chat: whether prompts go through the chat template; those with a suffix never do.
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


def fingerprint(request: LikelihoodRequest) -> str:
    """Of what is asked: an answer on file that has another was given to another request."""
    return f"{stream_id(repr((request.context, request.text))):x}"


def answer_seed(seed: int, key: AnswerKey) -> int:
    """One seed for each answer."""
    task_id, setting, sample = key
    return int(hash_address(seed, stream_id(task_id), stream_id(setting), sample))


def unanswerable(asked: Asked, requests: Mapping[AnswerKey, Request]) -> dict[AnswerKey, str]:
    """Why problems can't be put to the model, of those that can't."""
    replica = asked.replicas[0]
    count = count_tokens(replica.tokenizer)
    reasons: dict[Request, str | None] = {}
    for key, request in requests.items():
        if isinstance(request, GenerationRequest) and request not in reasons:
            reasons[request] = why_unfit(
                replica.lm, replica.tokenizer, _blank(asked, replica, key, request, count)
            )
    found = {key: reasons.get(request) for key, request in requests.items()}
    return {key: reason for key, reason in found.items() if reason is not None}


def failed_answer(request: Request, reason: str) -> dict[str, Any]:
    """What is kept of a problem that wasn't put to the model."""
    assert isinstance(request, GenerationRequest)
    return {
        "prefix": request.prefix,
        "suffix": request.suffix,
        "text": "",
        "reference": request.reference,
        "tokens": [],
        "reference_tokens": [],
        "failure": reason,
    }


def answer_all(
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
        share = {key: requests[key] for key in take_shard(keys, number, len(replicas))}
        device = next(replicas[number].lm.module.parameters()).device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of this thread: some kernels start where it says
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
        yield key, {**asdict(scored), "request": fingerprint(requests[key]), "seconds": seconds}


def _write_answers(
    asked: Asked, replica: Replica, requests: dict[AnswerKey, GenerationRequest]
) -> Iterator[tuple[AnswerKey, dict[str, Any]]]:
    keys = list(requests)
    count = count_tokens(replica.tokenizer)
    blanks = [_blank(asked, replica, key, request, count) for key, request in requests.items()]
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


def _blank(
    asked: Asked,
    replica: Replica,
    key: AnswerKey,
    request: GenerationRequest,
    count: Callable[[str], int],
) -> Blank:
    in_chat = asked.chat and request.suffix is None and not request.templated
    return Blank(
        chat_prompt(replica.tokenizer, request.prefix) if in_chat else request.prefix,
        request.suffix,
        _length(request, asked.options, count),
        answer_seed(asked.seed, key),
    )


def _length(request: GenerationRequest, options: DecoderOptions, count: Callable[[str], int]) -> int:
    if request.length == "oracle":
        assert request.reference is not None
        return count(request.reference)
    return request.length or options.max_new_tokens


def _cut(text: str, stop: tuple[str, ...]) -> str:
    ends = [text.index(word) for word in stop if word and word in text]
    return text[: min(ends)] if ends else text

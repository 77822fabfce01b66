"""Puts requests to a model of this machine: texts written, likelihoods estimated, on every device at once."""

from __future__ import annotations

import math
import queue
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch

from opendllm.core.checkpoints.text_codec import TextCodec
from opendllm.core.decoding.chat import chat_prompt, chat_template_of
from opendllm.core.decoding.graph_calls import GraphTiming
from opendllm.core.decoding.kept_steps import release_steps
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.text import SeededGap, Written, encode, why_unfit, write
from opendllm.core.evaluation.automatic_batch import automatic_rows
from opendllm.core.evaluation.shards import take_shard
from opendllm.core.evaluation.text_likelihood import TextToScore, score_texts, why_unscorable
from opendllm.core.foundation.sample_records import SampleKey, SampleRecord
from opendllm.core.scoring.problem_files import preparation_failure
from opendllm.core.toolkit.draws import hash_address, stream_id
from opendllm.core.toolkit.likelihood import Estimator, bound_name, is_exact
from opendllm.registries.architecture import Sizes
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.benchmarks import (
    Answer,
    ChatTemplate,
    GeneratedText,
    GenerationRequest,
    LikelihoodRequest,
    Request,
    TextLikelihood,
)
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.samplers import Sampler

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Replica:
    """A copy of the model, on a device of its own; each writes its share of the answers."""

    lm: DiffusionLM
    tokenizer: PreTrainedTokenizerFast
    codec: TextCodec
    sampler: Sampler


@dataclass(frozen=True)
class Asked:
    """How a benchmark is put to a model of this machine.

    Attributes:
        replicas: the model, once a device.
        options: the decoder's.
        chat: whether prompts go through the chat template; those with a suffix never do.
        samples_per_task: answers to each generation request.
        batch_size: rows decoded together; see `automatic_rows`.
        likelihood_estimator: see `log_likelihood`.
        likelihood_draws: Monte-Carlo draws a text.
        seed: with task and sample it seeds each answer, so nothing depends on batches or order.
        sizes: of the model's architecture; None where its backbone doesn't tell.
        graphs: what CUDA graphs have cost, of each replica that is done.
        rows: how many were decoded together at most, of each replica that wrote texts.
    """

    replicas: Sequence[Replica]
    options: DecoderOptions
    chat: bool
    samples_per_task: int
    batch_size: int | Literal["auto"]
    likelihood_estimator: Estimator
    likelihood_draws: int
    seed: int
    sizes: Sizes | None = None
    graphs: list[GraphTiming] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    runs_here = True

    @property
    def max_new_tokens(self) -> int:
        """Where a request doesn't say how many."""
        return self.options.max_new_tokens

    def chat_template(self) -> ChatTemplate:
        """The checkpoint's."""
        replica = self.replicas[0]
        return chat_template_of(replica.tokenizer, replica.codec)

    def askable(self, requests: Sequence[Request]) -> tuple[Sequence[Request], Sequence[str]]:
        """All of them; and where likelihoods are asked for, what they are."""
        if not any(isinstance(request, LikelihoodRequest) for request in requests):
            return requests, ()
        return requests, (f"its likelihood is {bound_name(self.replicas[0].lm)}",)

    def remarks(
        self, wanted: Mapping[SampleKey, Request], records: Mapping[SampleKey, SampleRecord]
    ) -> Sequence[str]:
        """The decoder does what it is told."""
        return ()

    def with_kind(self, answer: Answer) -> Answer:
        """Likelihoods on file of before they said whether they are bounds; the model is the same."""
        if isinstance(answer, TextLikelihood) and answer.failure is None and answer.exact is None:
            return replace(answer, exact=is_exact(self.replicas[0].lm))
        return answer

    def unanswerable(
        self, requests: Mapping[SampleKey, Request], sequence_length: int
    ) -> dict[SampleKey, str]:
        """See `Respondent`."""
        reasons: dict[Request, str | None] = {}
        for request in requests.values():
            if request not in reasons:
                reasons[request] = _why_unanswerable(self, request, sequence_length)
        found = {key: reasons[request] for key, request in requests.items()}
        return {key: reason for key, reason in found.items() if reason is not None}

    def answer_all(self, requests: dict[SampleKey, Request], sequence_length: int) -> Iterator[SampleRecord]:
        """Of all replicas."""
        return _answer_all(self, requests, sequence_length)


def fingerprint(request: LikelihoodRequest) -> str:
    """Of what is asked: an answer on file that has another was given to another request."""
    return f"{stream_id(repr((request.context, request.text))):x}"


def answer_seed(seed: int, key: SampleKey) -> int:
    """One seed for each answer."""
    task_id, setting, sample = key
    return int(hash_address(seed, stream_id(task_id), stream_id(setting), sample))


def _why_unanswerable(asked: Asked, request: Request, sequence_length: int) -> str | None:
    if request.failure is not None:
        return request.failure
    replica = asked.replicas[0]
    try:
        if isinstance(request, LikelihoodRequest):
            text = TextToScore(request.text, 0, request.context, templated=request.templated)
            return why_unscorable(replica.codec, text, sequence_length)
        gap = gap_of(asked, replica, request)
        _reference_tokens(replica, request)
        return why_unfit(replica.lm, replica.codec, gap, asked.options)
    except UserError as error:
        return str(error)
    except Exception as error:  # whatever a tokenizer or a chat template makes of one odd text
        return preparation_failure(error)


def failed_answer(key: SampleKey, request: Request, reason: str) -> SampleRecord:
    """What is kept of a problem that wasn't put to the model."""
    if isinstance(request, GenerationRequest):
        return record_of(request, GeneratedText(*key, text="", failure=reason))
    task_id, setting, _ = key
    answer = TextLikelihood(task_id, setting, math.nan, 0.0, 0, 0, failure=reason)
    return SampleRecord(answer, request=fingerprint(request))


def _answer_all(
    asked: Asked, requests: dict[SampleKey, Request], sequence_length: int
) -> Iterator[SampleRecord]:
    if len(asked.replicas) == 1:
        yield from _answer(asked, asked.replicas[0], requests, sequence_length)
        return
    keys = list(requests)
    replicas = asked.replicas
    found: queue.Queue[SampleRecord | Exception | None] = queue.Queue()
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
    asked: Asked, replica: Replica, requests: dict[SampleKey, Request], sequence_length: int
) -> Iterator[SampleRecord]:
    replica.lm.module.eval()
    texts = {key: r for key, r in requests.items() if isinstance(r, LikelihoodRequest)}
    blanks = {key: r for key, r in requests.items() if isinstance(r, GenerationRequest)}
    yield from _score_likelihoods(asked, replica, texts, sequence_length)
    try:
        yield from _write_answers(asked, replica, blanks)
    finally:  # the next benchmark may want the memory for something else
        asked.graphs.append(release_steps(replica.lm))


def _score_likelihoods(
    asked: Asked, replica: Replica, requests: dict[SampleKey, LikelihoodRequest], sequence_length: int
) -> Iterator[SampleRecord]:
    keys = list(requests)
    texts = [
        TextToScore(
            request.text, answer_seed(asked.seed, key), request.context, request.greedy, request.templated
        )
        for key, request in requests.items()
    ]
    started = time.perf_counter()
    found = score_texts(
        replica.lm,
        replica.codec,
        texts,
        sequence_length,
        asked.likelihood_draws,
        asked.likelihood_estimator,
    )
    for key, scored in zip(keys, found, strict=True):
        seconds, started = time.perf_counter() - started, time.perf_counter()
        task_id, setting, _ = key
        if math.isnan(scored.log_likelihood):
            raise UserError(f"the model's likelihood of {task_id} is no number: are its weights whole?")
        yield SampleRecord(
            TextLikelihood(task_id, setting, **asdict(scored)),
            request=fingerprint(requests[key]),
            seconds=seconds,
        )


def _write_answers(
    asked: Asked, replica: Replica, requests: dict[SampleKey, GenerationRequest]
) -> Iterator[SampleRecord]:
    keys = list(requests)
    gaps = [
        SeededGap(gap_of(asked, replica, request), answer_seed(asked.seed, key))
        for key, request in requests.items()
    ]

    def rows(lengths: Sequence[int]) -> int:
        wanted = asked.batch_size
        if wanted == "auto":
            wanted = automatic_rows(replica.lm, asked.sizes, asked.options, lengths)
        asked.rows.append(min(wanted, len(lengths)))
        return wanted

    for index, written in write(replica.lm, replica.codec, gaps, replica.sampler, asked.options, rows):
        key, request = keys[index], requests[keys[index]]
        text = cut(written.text, request.stop)
        answer = GeneratedText(
            *key,
            text=text,
            tokens=written.tokens,
            reference_tokens=_reference_tokens(replica, request),
            ended=written.kept_tokens < len(written.tokens) or text != written.text,
        )
        yield replace(
            record_of(request, answer),
            kept_tokens=tokens_of(replica.codec, written, text),
            forward_passes=written.forward_passes,
            seconds=written.seconds,
        )


def tokens_of(codec: TextCodec, written: Written, text: str) -> int:
    """How many of the tokens written it takes for the beginning `text` of what was written.

    What a stop string cut off was decoded in vain: it counts for no speed, as in d3LLM's evaluation.
    """
    if text == written.text:
        return written.kept_tokens
    tokens = written.tokens[: written.kept_tokens]
    # A SentencePiece tokenizer drops a space where nothing stands on the left.
    dropped = len(written.text) - len(codec.decode(tokens))

    def length(count: int) -> int:
        return len(codec.decode_beginning(tokens[:count])) + dropped if count else 0

    return bisect_left(range(len(tokens)), len(text), key=length)


def record_of(request: GenerationRequest, answer: GeneratedText) -> SampleRecord:
    """The line of an answer, with what it was asked."""
    return SampleRecord(answer, request.gap.prefix, request.gap.suffix, request.reference)


def _reference_tokens(replica: Replica, request: GenerationRequest) -> tuple[int, ...]:
    if request.reference is None:
        return ()
    return tuple(encode(replica.codec, request.reference, "reference", begins=False))


def gap_of(asked: Asked, replica: Replica, request: GenerationRequest) -> Gap:
    """What is put to the model: in its chat template if wished, and as long as the reference if asked so."""
    gap = request.gap
    if asked.chat and gap.suffix is None and not gap.templated:
        gap = replace(gap, prefix=chat_prompt(replica.tokenizer, replica.codec, gap.prefix), templated=True)
    if request.oracle_length and request.reference is None:
        raise UserError("is to be as long as its reference, and has none")
    if request.oracle_length:
        gap = replace(gap, length=len(_reference_tokens(replica, request)))
    return gap


def cut(text: str, stop: tuple[str, ...]) -> str:
    """Up to the first stop string."""
    ends = [text.index(word) for word in stop if word and word in text]
    return text[: min(ends)] if ends else text

"""Puts a benchmark's requests to a server, and makes records of what it writes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from opendllm.core.decoding.graph_calls import GraphTiming
from opendllm.core.endpoints.asking import Asking, Known, Refused
from opendllm.core.endpoints.completions import (
    ApiRequest,
    Sampling,
    ServedText,
    chat_request,
    completion_request,
    packed_messages,
    unpacked_messages,
)
from opendllm.core.evaluation.answering import answer_seed, cut, failed_answer, record_of
from opendllm.core.foundation.sample_records import SampleKey, SampleRecord
from opendllm.core.manifest.endpoint_schema import Endpoint
from opendllm.core.manifest.schema import Generate
from opendllm.registries.benchmarks import (
    Answer,
    ChatTemplate,
    GeneratedText,
    GenerationRequest,
    LikelihoodRequest,
    Request,
)
from opendllm.registries.errors import UserError

_MEANT = {"stop": True, "length": False}
"""`finish_reason` -> whether the model, or a stop string, ended the text."""


@dataclass(frozen=True)
class EndpointRespondent:
    """How a benchmark is put to a server.

    Attributes:
        endpoint: who is asked.
        generate: how text is written.
        samples_per_task: answers to each request, each one a request of its own with its own seed.
        seed: with task and sample it seeds each answer, as in `Asked`.
        known: what was found out about the server; is added to.
    """

    endpoint: Endpoint
    generate: Generate
    samples_per_task: int
    seed: int
    known: Known
    runs_here = False
    graphs: Sequence[GraphTiming] = ()
    rows: Sequence[int] = ()

    @property
    def chat(self) -> bool:
        """Whether prompts are turns of a chat."""
        return self.generate.chat or self.endpoint.api == "chat"

    @property
    def max_new_tokens(self) -> int:
        """Where a request doesn't say how many."""
        return self.generate.max_new_tokens

    def chat_template(self) -> ChatTemplate:
        """The server has it: a benchmark's own turns are kept as they are until they are sent."""
        return packed_messages

    def askable(self, requests: Sequence[Request]) -> tuple[Sequence[Request], Sequence[str]]:
        """Texts, of a length that doesn't hang on the model's tokens.

        Raises:
            UserError: likelihoods are asked for; or nothing else than what a server can't be asked.
        """
        for request in requests:
            if isinstance(request, LikelihoodRequest):
                raise UserError(
                    f"{request.task_id} asks for a likelihood, which a server's API doesn't give: leave the "
                    f"benchmark out for {self.endpoint.called}"
                )
        texts = [request for request in requests if isinstance(request, GenerationRequest)]
        infilled = next((request for request in texts if request.gap.suffix is not None), None)
        if infilled is not None and self.endpoint.api == "chat":
            raise UserError(
                f"{infilled.task_id} is to be filled in, and chat completions have no suffix: leave the "
                f"benchmark out for {self.endpoint.called}, or set `api: completions`"
            )
        asked = [request for request in texts if not request.oracle_length]
        if texts and not asked:
            raise UserError(
                "the benchmark asks at the reference's own length only, which is counted in the model's "
                "tokens, and a server's are not known here: give it other `lengths`"
            )
        settings = dict.fromkeys(request.setting for request in texts if request.oracle_length)
        notes = [f"written by {self.endpoint.called}; its weights and decoder aren't known here"]
        if settings:
            why = "the reference's length in the server's tokens isn't known here"
            notes.append(f"not asked ({', '.join(settings)}): {why}")
        return asked, notes

    def unanswerable(
        self, requests: Mapping[SampleKey, Request], sequence_length: int
    ) -> dict[SampleKey, str]:
        """See `Respondent`; whether a prompt is too long, the server says."""
        reasons = {}
        for key, request in requests.items():
            try:
                self._request(key, request)
            except UserError as error:
                reasons[key] = str(error)
        return reasons

    def answer_all(self, requests: dict[SampleKey, Request], sequence_length: int) -> Iterator[SampleRecord]:
        """As many at once as the endpoint's `concurrency`.

        Raises:
            UserError: see `Asking.answers`.
        """
        sent = {key: self._request(key, request) for key, request in requests.items()}
        started = time.perf_counter()
        for key, found in Asking(self.endpoint, sent, self.known).answers():
            # The share of the time that all of them take together, retries and waits with it.
            seconds, started = time.perf_counter() - started, time.perf_counter()
            request = requests[key]
            assert isinstance(request, GenerationRequest)
            if isinstance(found, Refused):
                yield replace(failed_answer(key, request, found.reason), seconds=seconds)
            else:
                yield _record(key, request, found, seconds)

    def remarks(
        self, wanted: Mapping[SampleKey, Request], records: Mapping[SampleKey, SampleRecord]
    ) -> Sequence[str]:
        """Whether suffixes may have been ignored; and how many answers are longer than they should be, as the
        server itself counts.
        """
        found = []
        if self.known.suffixes_unclear and any(_has_suffix(request) for request in wanted.values()):
            found.append(
                "whether the server reads a `suffix` or ignores it couldn't be told, since it doesn't count "
                "the tokens of a prompt"
            )
        longer = []
        for key, request in wanted.items():
            assert isinstance(request, GenerationRequest)
            length = self.max_new_tokens if request.gap.length is None else request.gap.length
            tokens = records[key].kept_tokens or 0
            if tokens > length:
                longer.append((tokens, length))
        if longer:
            tokens, length = max(longer, key=lambda pair: pair[0] - pair[1])
            found.append(
                f"{len(longer)} of {len(wanted)} answers have more tokens than were asked for, as the server "
                f"counts them: up to {tokens} in place of {length}"
            )
        return found

    def with_kind(self, answer: Answer) -> Answer:
        """A text is a text."""
        return answer

    def _request(self, key: SampleKey, request: Request) -> ApiRequest:
        """What is sent.

        Raises:
            UserError: the problem can't be put to any server.
        """
        assert isinstance(request, GenerationRequest)
        if request.failure is not None:
            raise UserError(request.failure)
        gap = request.gap
        for what, text in (("prompt", gap.prefix), ("suffix", gap.suffix or "")):
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise UserError(f"the {what} holds half of a surrogate pair, which is no character")
        if not gap.prefix and not gap.suffix:
            raise UserError("prompt is empty")
        sampling = Sampling(
            self.max_new_tokens if gap.length is None else gap.length,
            self.generate.temperature,
            self.generate.top_p,
            answer_seed(self.seed, key),
        )
        stop = [word for word in request.stop if word]
        if gap.templated:
            return chat_request(self.endpoint, sampling, unpacked_messages(gap.prefix), stop)
        if self.chat and gap.suffix is None:
            turn = {"role": "user", "content": gap.prefix}
            return chat_request(self.endpoint, sampling, [turn], stop)
        return completion_request(self.endpoint, sampling, gap.prefix, gap.suffix, stop)


def _has_suffix(request: Request) -> bool:
    return isinstance(request, GenerationRequest) and request.gap.suffix is not None


def _record(key: SampleKey, request: GenerationRequest, found: ServedText, seconds: float) -> SampleRecord:
    text = cut(found.text, request.stop)
    ended = True if text != found.text else _MEANT.get(found.finish_reason or "")
    answer = GeneratedText(*key, text=text, ended=ended)
    return replace(record_of(request, answer), kept_tokens=found.tokens, seconds=seconds)

"""Who answers a benchmark: a model of this machine, or a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from opendllm.core.decoding.graph_calls import GraphTiming
from opendllm.core.foundation.sample_records import SampleKey, SampleRecord
from opendllm.registries.benchmarks import Answer, ChatTemplate, Request


class Respondent(Protocol):
    """What the evaluator wants of a model, and how it is asked."""

    @property
    def chat(self) -> bool:
        """Whether prompts go through the chat template; those with a suffix never do."""

    @property
    def samples_per_task(self) -> int:
        """Answers to each generation request."""

    @property
    def max_new_tokens(self) -> int:
        """That are written where a request doesn't say how many."""

    @property
    def runs_here(self) -> bool:
        """Whether it takes this process's memory."""

    @property
    def graphs(self) -> Sequence[GraphTiming]:
        """What CUDA graphs have cost."""

    @property
    def rows(self) -> Sequence[int]:
        """How many texts were written side by side, each time that this process wrote some."""

    def chat_template(self) -> ChatTemplate:
        """What benchmarks with turns of their own put them into."""

    def askable(self, requests: Sequence[Request]) -> tuple[Sequence[Request], Sequence[str]]:
        """Those of a benchmark's requests that it can be asked at all, and notes for the result.

        Raises:
            UserError: none can, or those that can't leave nothing whole.
        """

    def unanswerable(
        self, requests: Mapping[SampleKey, Request], sequence_length: int
    ) -> dict[SampleKey, str]:
        """Why problems can't be put to the model, of those that can't."""

    def answer_all(self, requests: dict[SampleKey, Request], sequence_length: int) -> Iterator[SampleRecord]:
        """The answers, as they come.

        Raises:
            UserError: one can't be had, for a reason that isn't the problem's own.
        """

    def remarks(
        self, wanted: Mapping[SampleKey, Request], records: Mapping[SampleKey, SampleRecord]
    ) -> Sequence[str]:
        """What is odd about the answers to what was wanted, for the result's notes."""

    def with_kind(self, answer: Answer) -> Answer:
        """An answer on file, with what this model's answers are where the file doesn't say it."""

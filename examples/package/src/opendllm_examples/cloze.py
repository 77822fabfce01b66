"""A hidden word of each held-out text."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from opendllm.core.scoring.scores_by_setting import mean_by_task, scores_by_setting
from opendllm.registries.benchmarks import (
    Answer,
    Benchmark,
    BenchmarkContext,
    GeneratedText,
    GenerationRequest,
    Scores,
)
from opendllm.registries.gaps import Gap

from opendllm_examples import ClozeOptions


class Cloze(Benchmark):
    """Asks for a word between its neighbours, in as many tokens as it has; any corpus will do."""

    headline = ("exact_match", "similarity")

    def __init__(self, options: ClozeOptions) -> None:
        self._options = options
        self._words: dict[str, str] = {}

    def requests(self, context: BenchmarkContext) -> Sequence[GenerationRequest]:
        """One word of each held-out text that has one long enough, drawn by the seed and the text's name."""
        wanted = self._options.problems
        if context.limit is not None:
            wanted = min(wanted, context.limit)
        found = list(itertools.islice(self._problems(context), wanted))
        self._words = {request.task_id: request.reference or "" for request in found}
        return found

    def score(self, answers: Sequence[Answer]) -> Scores:
        """Whether the word was found, and how much of it (difflib's ratio)."""
        texts = [answer for answer in answers if isinstance(answer, GeneratedText)]
        values = {
            "exact_match": mean_by_task(texts, lambda answer: answer.text == self._words[answer.task_id]),
            "similarity": mean_by_task(texts, self._similarity),
        }
        return scores_by_setting(values, ["a hidden word of each held-out text, at its own length"])

    def quick_score(self, answer: Answer) -> float | None:
        """Its similarity."""
        return self._similarity(answer) if isinstance(answer, GeneratedText) else None

    def _problems(self, context: BenchmarkContext) -> Iterator[GenerationRequest]:
        letters = re.compile(rf"[^\W\d_]{{{self._options.min_letters},}}")
        around = rf"(?:\S+\s+){{0,{self._options.context_words}}}"
        for document in context.held_out():
            words = list(letters.finditer(document.text))
            if not words:
                continue
            word = random.Random(f"{context.seed} {document.name}").choice(words)
            left, right = document.text[: word.start()], document.text[word.end() :]
            before = re.search(rf"{around}\S*\Z", left)
            after = re.match(rf"\S*(?:\s+\S+){{0,{self._options.context_words}}}", right)
            assert before is not None
            assert after is not None
            yield GenerationRequest(
                f"{document.name}:{word.start()}",
                Gap(before[0], after[0]),
                reference=word[0],
                oracle_length=True,
            )

    def _similarity(self, answer: GeneratedText) -> float:
        return SequenceMatcher(None, answer.text, self._words[answer.task_id], autojunk=False).ratio()

"""A penalty on answers that repeat themselves, as open-r1 has it."""

from __future__ import annotations

from collections.abc import Sequence

from opendllm.registries.problems import Completion
from opendllm.registries.rewards import Reward, RewardContext

from opendllm_examples import RepetitionOptions


class Repetition(Reward):
    """Less by the share of an answer's n-grams of words that were there before."""

    def __init__(self, options: RepetitionOptions) -> None:
        self._words = options.words
        self._penalty = options.penalty
        self.bounds = (-options.penalty, 0.0)

    def values(self, completions: Sequence[Completion], context: RewardContext) -> list[float]:
        """Of each answer by itself."""
        return [self._value(completion.text) for completion in completions]

    def _value(self, text: str) -> float:
        words = text.lower().split()
        found = [tuple(words[start : start + self._words]) for start in range(len(words) - self._words + 1)]
        return -self._penalty * (1 - len(set(found)) / len(found)) if found else 0.0

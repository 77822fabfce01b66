"""Whether an answer is the problem's own."""

from __future__ import annotations

from collections.abc import Sequence

from opendllm.plugins.rewards import ExactMatchOptions
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.rewards import Reward, RewardContext


class ExactMatchReward(Reward):
    """1 where both are the same, but for white space at either end; else 0."""

    def __init__(self, options: ExactMatchOptions) -> None:
        self._tag = options.tag

    def values(self, completions: Sequence[Completion], context: RewardContext) -> list[float]:
        """See `Reward.values`."""
        return [float(self._answer(each.text) == (each.problem.answer or "").strip()) for each in completions]

    def issue_with(self, problem: Problem) -> str | None:
        """It compares with the problem's answer."""
        return None if problem.answer is not None else "it has no `answer`"

    def _answer(self, text: str) -> str:
        if self._tag is None:
            return text.strip()
        return text.rpartition(f"<{self._tag}>")[2].partition(f"</{self._tag}>")[0].strip()

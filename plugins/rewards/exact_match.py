"""Whether an answer is the problem's own."""

from __future__ import annotations

from collections.abc import Sequence

from opendllm.plugins.rewards import ExactMatchOptions
from opendllm.plugins.rewards.sections import last_section
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.rewards import Reward, RewardContext


class ExactMatchReward(Reward):
    """1 where both are the same, but for white space at either end; else 0."""

    def __init__(self, options: ExactMatchOptions) -> None:
        self._tag = options.tag

    def values(self, completions: Sequence[Completion], context: RewardContext) -> list[float]:
        """See `Reward.values`."""
        return [float(self._given(each.text) == (each.problem.answer or "").strip()) for each in completions]

    def issue_with(self, problem: Problem) -> str | None:
        """It compares with the problem's answer."""
        return None if problem.answer is not None else "it has no `answer`"

    def _given(self, text: str) -> str:
        return text.strip() if self._tag is None else last_section(text, self._tag)

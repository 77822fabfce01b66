"""The soft punishment of overlong answers (DAPO, arXiv:2503.14476, equation 13)."""

from __future__ import annotations

from collections.abc import Sequence

from opendllm.plugins.rewards import LengthOptions
from opendllm.registries.errors import UserError
from opendllm.registries.problems import Completion
from opendllm.registries.rewards import Reward, RewardContext


class LengthReward(Reward):
    """0 for up to `max_tokens - buffer` tokens, from there on in a straight line to -1 at `max_tokens`."""

    bounds = (-1.0, 0.0)

    def __init__(self, options: LengthOptions) -> None:
        self._max_tokens = options.max_tokens
        self._buffer = options.buffer

    def values(self, completions: Sequence[Completion], context: RewardContext) -> list[float]:
        """See `Reward.values`.

        Raises:
            UserError: nobody says how long an answer may be, or the buffer is longer.
        """
        longest = self._max_tokens or context.max_new_tokens
        if longest is None:
            raise UserError("it needs `max_tokens`, since the run gives answers no common length")
        if self._buffer > longest:
            raise UserError(f"its buffer of {self._buffer} tokens is longer than an answer may be, {longest}")
        return [self._value(len(completion.tokens), longest) for completion in completions]

    def _value(self, length: int, longest: int) -> float:
        over = length - (longest - self._buffer)
        return -min(max(over, 0), self._buffer) / self._buffer

"""The model's proposals at the positions that a sampler asked for."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from opendllm.core.toolkit.draws import draw_from
from opendllm.core.toolkit.filters import filter_logits


class LogitProposals:
    """Implements `Proposals` on the logits of N gathered positions.

    A confidence is computed when it is first asked for, in float32: bfloat16 would tie.
    """

    def __init__(
        self,
        logits: Tensor,
        wanted: Tensor,
        uniforms: Tensor,
        mask_token_id: int,
        temperature: float,
        top_p: float | None,
        top_k: int | None,
    ) -> None:
        """Take the logits in.

        Args:
            logits: [N, V], of the true positions of `wanted` in row-major order.
            wanted: [B, L] bool.
            uniforms: [N] float64, one draw a position.
            mask_token_id: never proposed.
            temperature: of the draw; 0 takes the mode.
            top_p: see `filter_logits`.
            top_k: see `filter_logits`.
        """
        self._logits = logits.float()
        self._wanted = wanted
        self._uniforms = uniforms
        self._mask_token_id = mask_token_id
        self._temperature = temperature
        self._top_p = top_p
        self._top_k = top_k

    @cached_property
    def tokens(self) -> Tensor:
        """See `Proposals.tokens`."""
        tokens = torch.full(self._wanted.shape, self._mask_token_id, device=self._wanted.device)
        tokens[self._wanted] = self._drawn
        return tokens

    def probability(self) -> Tensor:
        """See `Proposals.probability`."""
        return self._spread(self._filtered_probabilities.gather(-1, self._drawn[:, None]).squeeze(-1))

    def model_probability(self) -> Tensor:
        """See `Proposals.model_probability`."""
        chosen = self._logits.gather(-1, self._drawn[:, None]).squeeze(-1)
        return self._spread(torch.exp(chosen - self._logits.logsumexp(-1)))

    def margin(self) -> Tensor:
        """See `Proposals.margin`."""
        best = self._filtered_probabilities.topk(2, dim=-1).values
        return self._spread(best[:, 0] - best[:, 1])

    def negative_entropy(self) -> Tensor:
        """See `Proposals.negative_entropy`."""
        return self._spread(-torch.special.entr(self._filtered_probabilities).sum(-1))

    @cached_property
    def _filtered_probabilities(self) -> Tensor:
        return filter_logits(self._logits, self._temperature, self._top_p, self._top_k).softmax(-1)

    @cached_property
    def _drawn(self) -> Tensor:
        """[N] int64. The mask itself is left out of the draw, but not of the confidences.

        Before the filters: where it is the model's favourite, they may keep nothing else.
        """
        logits = self._logits.clone()
        logits[:, self._mask_token_id] = -torch.inf
        if self._temperature == 0:
            return logits.argmax(-1)
        logits = filter_logits(logits, self._temperature, self._top_p, self._top_k)
        return draw_from(logits.softmax(-1), self._uniforms)

    def _spread(self, values: Tensor) -> Tensor:
        canvas = torch.full(self._wanted.shape, -torch.inf, dtype=values.dtype, device=values.device)
        canvas[self._wanted] = values
        return canvas

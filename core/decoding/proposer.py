"""From the canvas to a proposal at each position that the sampler asks for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opendllm.core.decoding.cached_forward import CachedForward
from opendllm.core.decoding.decode_state import DecodeState, StepDraws
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plan import IntArray
from opendllm.core.decoding.proposals import Filters, Proposals, SuppressedToken, propose
from opendllm.registries.backbones import DiffusionLM, TokenPositions
from opendllm.registries.errors import UserError
from opendllm.registries.samplers import Sampler, SpecialTokens

LOGITS_AT_ONCE = {"cpu": 1 << 23, "cuda": 1 << 28}
"""How many the LM head makes together: enough for a fast product, few enough to stay in memory."""
CHECK_EVERY = 32
"""Steps between looks at whether all logits were finite, where a look would wait for the GPU."""


class NotFiniteError(UserError):
    """A logit was not finite.

    Attributes:
        row: of the canvas.
        column: of the canvas.
    """

    def __init__(self, row: int, column: int) -> None:
        super().__init__(f"the model's logits at row {row}, position {column} are not finite")
        self.row, self.column = row, column


class Proposer:
    """Asks the model, and draws.

    Attributes:
        special: ids that samplers treat apart.
        block_length: of the model's own blocks; None where it has none.
    """

    def __init__(
        self, lm: DiffusionLM, forward: CachedForward, sampler: Sampler, options: DecoderOptions
    ) -> None:
        self.special = SpecialTokens(lm.mask_token_id, lm.eos_token_id, lm.end_of_turn_token_id, lm.stops)
        self.block_length = lm.attention.block_length
        self._lm = lm
        self._forward = forward
        self._sampler = sampler
        self._guidance_scale = options.guidance_scale
        self._filters = Filters(options.temperature, options.top_p, options.top_k)
        self._without_token = torch.tensor(lm.ids_without_token, dtype=torch.int64)
        self._unchecked: list[tuple[Tensor, Tensor, Tensor]] = []

    def propose(
        self,
        state: DecodeState,
        at: TokenPositions,
        block: IntArray,
        idle: NDArray[np.bool_],
        draws: StepDraws,
        last: Tensor,
    ) -> Proposals:
        """One proposal at each of the N positions `at`.

        Args:
            state: the rows, as they are now.
            at: in row-major order.
            block: [R] which block each row is at; on the host.
            idle: [R] rows without a position; on the host.
            draws: of this step.
            last: [R] bool, rows at the last step of their block.

        Raises:
            NotFiniteError: a logit is not finite.
        """
        if not len(at.rows):
            nothing = torch.zeros(0, device=state.tokens.device)
            return Proposals(nothing.long(), nothing, nothing.bool())
        canvases = [state.tokens]
        if self._guidance_scale > 0:
            fixed = state.real & ~state.editable
            canvases.append(torch.where(fixed, self.special.mask, state.tokens))
        hidden = self._forward.states(canvases, at, block, idle)
        uniforms = draws.at("token", at.rows, at.columns)
        suppressed = self._suppressed(state, at, last)
        at_once = max(1, LOGITS_AT_ONCE[hidden[0].device.type] // self._lm.vocab_size)
        parts = []
        for start in range(0, len(at.rows), at_once):
            chosen = slice(start, start + at_once)
            parts.append(
                propose(
                    self._logits([each[chosen] for each in hidden]),
                    uniforms[chosen],
                    self.special.mask,
                    self._filters,
                    self._sampler.confidence,
                    [token.among(chosen) for token in suppressed],
                )
            )
        proposed = Proposals.joined(parts)
        self._unchecked.append((proposed.finite, state.number[at.rows], at.columns))
        if not proposed.finite.is_cuda or len(self._unchecked) == CHECK_EVERY:
            self.raise_if_not_finite()
        return proposed

    def raise_if_not_finite(self) -> None:
        """Look at all logits since the last look.

        Raises:
            NotFiniteError: one was not finite; the message names the first one's position.
        """
        for finite, row, column in self._unchecked:
            if not bool(finite.all()):
                first = int((~finite).nonzero()[0])
                raise NotFiniteError(int(row[first]), int(column[first]))
        self._unchecked.clear()

    def _logits(self, hidden: list[Tensor]) -> Tensor:
        """[N, V] float32, guided away from the masked prompt where there are two hidden states."""
        logits = self._lm.project(hidden[0]).float()
        if len(hidden) == 1:
            return logits
        without = self._lm.project(hidden[1]).float()
        return without + (self._guidance_scale + 1) * (logits - without)

    def _suppressed(self, state: DecodeState, at: TokenPositions, last: Tensor) -> list[SuppressedToken]:
        suppressed = []
        if len(self._without_token):
            self._without_token = self._without_token.to(state.tokens.device)
            suppressed.append(SuppressedToken(self._without_token, None))
        for token_id, where in self._sampler.suppressed_tokens(self.special, state.room, last).items():
            if not 0 <= token_id < self._lm.vocab_size:
                raise UserError(
                    f"the sampler's token id {token_id} is outside the model's vocabulary of "
                    f"{self._lm.vocab_size}: this checkpoint wasn't made for it"
                )
            suppressed.append(
                SuppressedToken(token_id, where[at.rows] if isinstance(where, Tensor) else None)
            )
        return suppressed

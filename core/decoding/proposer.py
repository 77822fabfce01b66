"""From the canvas to a proposal at each position that the sampler asks for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opendllm.core.decoding.cached_forward import CachedForward
from opendllm.core.decoding.decode_state import DecodeState, StepDraws
from opendllm.core.decoding.distributions import ChunkedDistributions
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plan import IntArray
from opendllm.core.decoding.proposals import ELEMENTS_AT_ONCE, Filters, Proposals, SuppressedToken, propose
from opendllm.core.toolkit.corrupting import noise_level
from opendllm.core.toolkit.draws import stream_id, uniform
from opendllm.core.toolkit.posteriors import pure_noise
from opendllm.registries.backbones import DiffusionLM, TokenPositions
from opendllm.registries.errors import UserError
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.plugin_calls import owner_of
from opendllm.registries.samplers import Sampler, SpecialTokens
from opendllm.registries.sequences import TokenIds

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
        vocab_size: V.
        noise_schedule: that the model was trained with, if it says so.
    """

    def __init__(
        self, lm: DiffusionLM, forward: CachedForward, sampler: Sampler, options: DecoderOptions
    ) -> None:
        self.special = SpecialTokens(lm.mask_token_id, lm.eos_token_id, lm.end_of_turn_token_id, lm.stops)
        self.block_length = lm.attention.block_length
        self.vocab_size = lm.vocab_size
        self.noise_schedule = None if lm.noise.schedule is None else lm.noise.schedule.build()
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
        hidden = self._hidden(state, at, block, idle)
        if self._filters.temperature == 0:  # the mode, whatever is drawn
            uniforms = torch.zeros(len(at.rows), dtype=torch.float64, device=at.rows.device)
        else:
            uniforms = draws.at("token", at.rows, at.columns)
        suppressed = self._suppressed(state, at, last)
        at_once = self._at_once(LOGITS_AT_ONCE, state.tokens)
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
        self._remember(proposed.finite, state.number[at.rows], at.columns)
        return proposed

    def distributions(
        self,
        state: DecodeState,
        at: TokenPositions,
        block: IntArray,
        idle: NDArray[np.bool_],
        draws: StepDraws,
        last: Tensor,
    ) -> ChunkedDistributions:
        """The distributions at the N positions `at`, not made before they are read; see `propose`."""
        hidden = self._hidden(state, at, block, idle)
        suppressed = self._suppressed(state, at, last)

        def logits(chosen: slice) -> tuple[Tensor, Tensor | None]:
            both = [self._project(each[chosen]) for each in hidden]
            finite = torch.isfinite(torch.stack([each.sum(-1) for each in both])).all(0)
            self._remember(finite, state.number[at.rows[chosen]], at.columns[chosen])
            for found in both:
                if found.is_cuda:
                    found.masked_fill_(~finite[:, None], 0.0)  # named later; here they only must not crash
                for token in suppressed:
                    where = token.among(chosen).where
                    found[slice(None) if where is None else where, token.token_id] = -torch.inf
            return both[0], both[1] if len(both) == 2 else None

        return ChunkedDistributions(
            at=at,
            canvas=state.tokens,
            uniforms=draws.at("token", at.rows, at.columns),
            logits=logits,
            filters=self._filters,
            guidance_scale=self._guidance_scale,
            projected_at_once=self._at_once(LOGITS_AT_ONCE, state.tokens),
            read_at_once=self._at_once(ELEMENTS_AT_ONCE, state.tokens),
        )

    def _hidden(
        self, state: DecodeState, at: TokenPositions, block: IntArray, idle: NDArray[np.bool_]
    ) -> list[Tensor]:
        """[N, D] at the positions, of the canvas and, for guidance, of the one without its prompt."""
        canvases = [state.tokens]
        if self._guidance_scale > 0:
            fixed = state.real & ~state.editable
            canvases.append(torch.where(fixed, self._noise(state), state.tokens))
        return self._forward.states(canvases, at, block, idle)

    def _noise(self, state: DecodeState) -> Tensor | int:
        """What stands for a prompt that isn't given: masks, or the same noise at every step."""
        if self.noise_schedule is None:
            return self.special.mask
        return start_of(self.noise_schedule, state.seeds, state.positions, self._lm, "unconditional")

    def _remember(self, finite: Tensor, row: Tensor, column: Tensor) -> None:
        """Look at whether all logits were finite: at once, or on a GPU a few steps later."""
        self._unchecked.append((finite, row, column))
        if not finite.is_cuda or len(self._unchecked) == CHECK_EVERY:
            self.raise_if_not_finite()

    def tell_time(self, time: Tensor | None, state: DecodeState) -> None:
        """Tell the model the time of its next pass, if it was told it in training.

        Args:
            time: [R] float64, the noise schedule's; None where the sampler has none.
            state: the rows.

        Raises:
            UserError: the sampler has none, and the model has to be told.
        """
        if not self._lm.noise.time_conditioning:
            return
        if time is None or self.noise_schedule is None:
            raise UserError(
                f"this model was trained with the time as an input, and "
                f"{owner_of(self._sampler, 'sampler')} has none to tell it: choose one that has `times`"
            )
        told = noise_level(self.noise_schedule, time)
        self._forward.tell_time(told.float()[:, None].expand(state.tokens.shape))

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
        logits = self._project(hidden[0])
        if len(hidden) == 1:
            return logits
        without = self._project(hidden[1])
        return without + (self._guidance_scale + 1) * (logits - without)

    def _at_once(self, logits: Mapping[str, int], like: Tensor) -> int:
        """How many positions make that many logits on the device of `like`."""
        return max(1, logits[like.device.type] // self._lm.vocab_size)

    def _project(self, hidden: Tensor) -> Tensor:
        """[N, V] float32 of [N, D], if the model keeps its word about them."""
        logits = self._lm.project(hidden)
        expected = (len(hidden), self._lm.vocab_size)
        if logits.shape != expected or not logits.is_floating_point():
            raise UserError(
                f"{type(self._lm).__name__}.project gave {str(logits.dtype).removeprefix('torch.')} "
                f"{list(logits.shape)}, and float {list(expected)} was expected"
            )
        return logits.float()

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


def start_of(
    schedule: NoiseSchedule, seeds: Tensor, positions: Tensor, lm: DiffusionLM, stream: str
) -> Tensor:
    """[R, L] int64: pure noise for rows of `seeds` [R] at their `positions` [R, L], always the same."""
    draws = uniform(seeds[:, None], stream_id(stream), 0, positions)
    return pure_noise(schedule, draws, TokenIds(lm.vocab_size, lm.mask_token_id))

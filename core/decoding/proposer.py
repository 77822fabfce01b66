"""From the canvas to a proposal at each position that the sampler asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from opendllm.core.decoding.decode_state import DecodeState, StepDraws
from opendllm.core.decoding.device_kernels import DeviceKernels, chooses
from opendllm.core.decoding.distributions import ChunkedDistributions
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.proposals import ELEMENTS_AT_ONCE, Filters, Proposals, SuppressedToken, propose
from opendllm.core.toolkit.corrupting import noise_level
from opendllm.core.toolkit.draws import stream_id, uniform
from opendllm.core.toolkit.posteriors import pure_noise
from opendllm.registries.backbones import DiffusionLM, TokenPositions
from opendllm.registries.errors import UserError
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.plugin_calls import owner_of, wrong_answer
from opendllm.registries.samplers import Sampler, SpecialTokens, Step
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
        self,
        lm: DiffusionLM,
        sampler: Sampler,
        options: DecoderOptions,
        kernels: DeviceKernels | None = None,
    ) -> None:
        self.special = SpecialTokens(lm.mask_token_id, lm.eos_token_id, lm.end_of_turn_token_id, lm.stops)
        self.block_length = lm.attention.block_length
        self.vocab_size = lm.vocab_size
        self.noise_schedule = None if lm.noise.schedule is None else lm.noise.schedule.build()
        self._lm = lm
        self._sampler = sampler
        self._guidance_scale = options.guidance_scale
        self._filters = Filters(options.temperature, options.top_p, options.top_k, sampler.cuts_top_k_first)
        self._without_token = torch.tensor(lm.ids_without_token, dtype=torch.int64)
        self._unchecked: list[tuple[Tensor, Tensor, Tensor]] = []
        self._kernels = kernels
        self._hidden: dict[tuple[int, ...], Tensor] = {}

    def answer(
        self, step: Step, hidden: list[Tensor], state: DecodeState, at: TokenPositions, draws: StepDraws
    ) -> Step:
        """The step with the model's proposals `at` some positions, or its distributions there; see `propose`.

        Raises:
            NotFiniteError: a logit is not finite.
        """
        last = step.index == step.steps - 1
        if self._sampler.needs_distributions:
            return replace(step, distributions=self.distributions(hidden, state, at, draws, last))
        proposed = self.propose(hidden, state, at, draws, last)
        self.remember(proposed.finite, state.number[at.rows], at.columns)
        return replace(
            step,
            tokens=_spread(proposed.tokens, at, step.tokens),
            confidence=_spread(proposed.confidence, at, step.confidence),
        )

    def propose(
        self, hidden: list[Tensor], state: DecodeState, at: TokenPositions, draws: StepDraws, last: Tensor
    ) -> Proposals:
        """One proposal at each of the N positions `at`, of which there is one at least.

        Args:
            hidden: [N, D] there, of each of the `canvases`.
            state: the rows, as they are now.
            at: in row-major order.
            draws: of this step.
            last: [R] bool, rows at the last step of their block.
        """
        if self._filters.temperature == 0:  # the mode, whatever is drawn
            uniforms = torch.zeros(len(at.rows), dtype=torch.float64, device=at.rows.device)
        else:
            uniforms = draws.at("token", at.rows, at.columns)
        suppressed = self._suppressed(state, at, last)
        at_once = self._at_once(LOGITS_AT_ONCE, state.tokens)
        parts = []
        for start in range(0, len(at.rows), at_once):
            chosen = slice(start, start + at_once)
            logits = self._logits([each[chosen] for each in hidden])
            plain = all(token.where is None for token in suppressed)
            if self._kernels and plain and chooses(logits, self._filters, self._sampler.confidence):
                hidden_tokens = self._hidden_tokens(suppressed, logits)
                parts.append(self._kernels.choose(logits, self.special.mask, hidden_tokens))
                continue
            parts.append(
                propose(
                    logits,
                    uniforms[chosen],
                    self.special.mask,
                    self._filters,
                    self._sampler.confidence,
                    [token.among(chosen) for token in suppressed],
                )
            )
        return Proposals.joined(parts)

    def distributions(
        self, hidden: list[Tensor], state: DecodeState, at: TokenPositions, draws: StepDraws, last: Tensor
    ) -> ChunkedDistributions:
        """The distributions at the N positions `at`, not made before they are read; see `propose`."""
        suppressed = self._suppressed(state, at, last)

        def logits(chosen: slice) -> tuple[Tensor, Tensor | None]:
            both = [self._project(each[chosen]) for each in hidden]
            finite = torch.isfinite(torch.stack([each.sum(-1) for each in both])).all(0)
            self.remember(finite, state.number[at.rows[chosen]], at.columns[chosen])
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

    def canvases(self, state: DecodeState) -> list[Tensor]:
        """[R, L] int64 each: what the model reads; for guidance, the same without its prompt, too."""
        canvases = [state.tokens]
        if self._guidance_scale > 0:
            fixed = state.real & ~state.editable
            canvases.append(torch.where(fixed, self._noise(state), state.tokens))
        return canvases

    def _noise(self, state: DecodeState) -> Tensor | int:
        """What stands for a prompt that isn't given: masks, or the same noise at every step."""
        if self.noise_schedule is None:
            return self.special.mask
        return start_of(self.noise_schedule, state.seeds, state.positions, self._lm, "unconditional")

    def remember(self, finite: Tensor, row: Tensor, column: Tensor) -> None:
        """Look at whether all logits were finite: at once, or on a GPU a few steps later.

        Raises:
            NotFiniteError: one was not.
        """
        self._unchecked.append((finite, row, column))
        if not finite.is_cuda or len(self._unchecked) == CHECK_EVERY:
            self.raise_if_not_finite()

    def told_time(self, time: Tensor | None, state: DecodeState) -> Tensor | None:
        """[R, L] what the model is told of its next pass's time; None if it wasn't in training.

        Args:
            time: [R] float64, the noise schedule's; None where the sampler has none.
            state: the rows.

        Raises:
            UserError: the sampler has none, and the model has to be told.
        """
        if not self._lm.noise.time_conditioning:
            return None
        if time is None or self.noise_schedule is None:
            raise UserError(
                f"this model was trained with the time as an input, and "
                f"{owner_of(self._sampler, 'sampler')} has none to tell it: choose one that has `times`"
            )
        _check_rows(time, state, self._sampler, "times", floating=True)
        told = noise_level(self.noise_schedule, time)
        return told.float()[:, None].expand(state.tokens.shape)

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
        """[N, V], in float32 and guided away from the masked prompt where there are two hidden states."""
        if len(hidden) == 1:
            return self._projected(hidden[0])
        logits = self._project(hidden[0])
        without = self._project(hidden[1])
        return without + (self._guidance_scale + 1) * (logits - without)

    def _at_once(self, logits: Mapping[str, int], like: Tensor) -> int:
        """How many positions make that many logits on the device of `like`."""
        return max(1, logits[like.device.type] // self._lm.vocab_size)

    def _hidden_tokens(self, suppressed: list[SuppressedToken], like: Tensor) -> Tensor | None:
        """[V] bool, the tokens that are suppressed at all positions; None for none."""
        if not suppressed:
            return None
        # Those without a token never change.
        ids = tuple(-1 if isinstance(each.token_id, Tensor) else each.token_id for each in suppressed)
        if ids not in self._hidden:
            where = torch.zeros(like.shape[1], dtype=torch.bool, device=like.device)
            for each in suppressed:
                where[each.token_id] = True
            self._hidden[ids] = where
        return self._hidden[ids]

    def _project(self, hidden: Tensor) -> Tensor:
        """[N, V] float32 of [N, D]."""
        return self._projected(hidden).float()

    def _projected(self, hidden: Tensor) -> Tensor:
        """[N, V] of [N, D], if the model keeps its word about them."""
        logits = self._lm.project(hidden)
        expected = (len(hidden), self._lm.vocab_size)
        if logits.shape != expected or not logits.is_floating_point():
            raise UserError(
                f"{type(self._lm).__name__}.project gave {str(logits.dtype).removeprefix('torch.')} "
                f"{list(logits.shape)}, and float {list(expected)} was expected"
            )
        return logits

    def _suppressed(self, state: DecodeState, at: TokenPositions, last: Tensor) -> list[SuppressedToken]:
        suppressed = []
        if len(self._without_token):
            self._without_token = self._without_token.to(state.tokens.device)
            suppressed.append(SuppressedToken(self._without_token, None))
        for token_id, where in self._sampler.suppressed_tokens(self.special, state.room, last).items():
            if not 0 <= token_id < self._lm.vocab_size:
                raise UserError(
                    f"{owner_of(self._sampler, 'sampler')}: its token id {token_id} is outside the model's "
                    f"vocabulary of {self._lm.vocab_size}: this checkpoint wasn't made for it"
                )
            if where is False:
                continue
            if isinstance(where, Tensor):
                _check_rows(where, state, self._sampler, "suppressed_tokens", floating=False)
            suppressed.append(
                SuppressedToken(token_id, where[at.rows] if isinstance(where, Tensor) else None)
            )
        return suppressed


def _check_rows(values: Tensor, state: DecodeState, sampler: Sampler, call: str, floating: bool) -> None:
    """Whether a sampler gave one value a row: of another shape it would be spread over positions.

    Raises:
        UserError: it didn't.
    """
    right = values.is_floating_point() if floating else values.dtype == torch.bool
    if not right or values.shape != state.seeds.shape:
        issue = (
            f"gave {str(values.dtype).removeprefix('torch.')} {list(values.shape)}, and "
            f"{'float' if floating else 'bool'} {list(state.seeds.shape)} was expected, one a row"
        )
        raise wrong_answer(sampler, "sampler", call, issue)


def _spread(values: Tensor, at: TokenPositions, elsewhere: Tensor) -> Tensor:
    """[R, L] with `values` [N] at their positions."""
    return elsewhere.index_put((at.rows, at.columns), values)


def start_of(
    schedule: NoiseSchedule, seeds: Tensor, positions: Tensor, lm: DiffusionLM, stream: str
) -> Tensor:
    """[R, L] int64: pure noise for rows of `seeds` [R] at their `positions` [R, L], always the same."""
    draws = uniform(seeds[:, None], stream_id(stream), 0, positions)
    return pure_noise(schedule, draws, TokenIds(lm.vocab_size, lm.mask_token_id))

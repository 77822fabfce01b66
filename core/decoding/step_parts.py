"""The parts of a step that run on the model's device, whatever shapes the step has."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opendllm.core.decoding.decode_state import DecodeState, StepDraws
from opendllm.core.decoding.early_stop import settled_tails
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plan import IntArray, PlannedSteps
from opendllm.core.decoding.proposer import Proposer
from opendllm.core.decoding.selection_checks import checked_positions
from opendllm.registries.samplers import Sampler, Selection, SpecialTokens, Step


@dataclass(frozen=True)
class StepPlan:
    """What a step's rows have planned, on the device.

    Attributes:
        block: [R] int64, see `PlannedSteps`; so are `index`, `steps`, `target` and `number`.
        index: [R] int64.
        steps: [R] int64.
        target: [R] int64.
        number: [R] int64.
        width: [R] int64, see `Step`.
        unfinished: [R] bool, whether a row has this step to take at all.
    """

    block: Tensor
    index: Tensor
    steps: Tensor
    target: Tensor
    number: Tensor
    width: Tensor
    unfinished: Tensor

    @staticmethod
    def packed(planned: PlannedSteps, unfinished: NDArray[np.bool_], width: int | None) -> IntArray:
        """[7, R] int64, in the order of the attributes: one copy takes them all to the device."""
        widths = planned.size if width is None else np.full_like(planned.size, width)
        return np.stack(
            [
                planned.block,
                planned.index,
                planned.steps,
                planned.target,
                planned.number,
                widths,
                unfinished.astype(np.int64),
            ]
        )

    @staticmethod
    def unpacked(packed: Tensor) -> StepPlan:
        """From [7, R] int64."""
        block, index, steps, target, number, width, unfinished = packed.unbind()
        return StepPlan(block, index, steps, target, number, width, unfinished.bool())

    @property
    def last(self) -> Tensor:
        """[R] bool, rows at the last step of their block."""
        return self.index == self.steps - 1


def begin_step(
    state: DecodeState, plan: StepPlan, proposer: Proposer, options: DecoderOptions
) -> tuple[StepDraws, Step]:
    """A step's draws, and what the sampler sees of it while there are no proposals."""
    special = proposer.special
    writable = in_block(state, plan.block) & plan.unfinished[:, None]
    draws = StepDraws(state.seeds, plan.number, state.positions)
    step = Step(
        canvas=state.tokens,
        masked=writable & (state.tokens == special.mask),
        editable=writable,
        tokens=torch.full_like(state.tokens, special.mask),
        confidence=torch.full_like(state.confidence, -torch.inf),
        committed_confidence=state.confidence,
        memory=state.memory.masked_fill((plan.index == 0)[:, None], -1),
        index=plan.index,
        steps=plan.steps,
        target=plan.target,
        block=state.part_of,
        width=plan.width,
        room=state.room,
        alg_temp=options.alg_temp,
        special=special,
        vocab_size=proposer.vocab_size,
        draws=draws,
        noise_schedule=proposer.noise_schedule,
    )
    return draws, step


def positions_to_ask(sampler: Sampler, step: Step) -> Tensor:
    """[R, L] bool, where a sampler that doesn't decide first needs proposals.

    Raises:
        UserError: what the sampler asks for are no positions.
    """
    if sampler.proposes == "masked":
        return step.masked
    if sampler.proposes == "editable":
        return step.editable
    return checked_positions(sampler.asks(step), sampler, step.canvas) & step.editable


def in_block(state: DecodeState, block: Tensor) -> Tensor:
    """[R, L] bool, the editable positions of the block [R] int64 that each row is at."""
    return state.editable & (state.block_of == block[:, None])


@dataclass(frozen=True)
class Outcome:
    """A step that has been taken.

    Attributes:
        state: the rows after it.
        stopped: [R] bool, rows whose rest can be left out; None where none can.
        finished: [R] bool, rows whose block the sampler calls done; None where it doesn't say.
    """

    state: DecodeState
    stopped: Tensor | None
    finished: Tensor | None


def carry_out(
    state: DecodeState,
    plan: StepPlan,
    step: Step,
    selection: Selection,
    sampler: Sampler,
    options: DecoderOptions,
    special: SpecialTokens,
) -> Outcome:
    """Do what the sampler has decided; stop rows whose text can't change any more."""
    state = replace(state, taken=state.taken + plan.unfinished)
    state = state.after(selection, step, special.mask)
    stopped = None
    if options.early_stop:
        done = plan.last if selection.finished is None else plan.last | selection.finished
        unsettled = _unsettled(state, plan.block, done if sampler.revises else None, special.mask)
        state, stopped = _stop_where_settled(state, unsettled, special)
    return Outcome(state, stopped, selection.finished)


def masks_left(state: DecodeState, plan: StepPlan, mask_token_id: int) -> Tensor:
    """[R] int64, masks of each row's block."""
    return (in_block(state, plan.block) & (state.tokens == mask_token_id)).sum(-1)


def counts_masks(sampler: Sampler) -> bool:
    """Whether only the device knows how many masks a step leaves, and the loop has to know."""
    return not sampler.plans and (sampler.proposes != "editable" or not sampler.revises)


def _unsettled(state: DecodeState, block: Tensor, done: Tensor | None, mask_token_id: int) -> Tensor:
    """[R, L] bool, the editable positions that may still change.

    Args:
        state: the rows.
        block: [R] int64, the block that each is at.
        done: [R] bool, whether that is done; None where only masks can change.
        mask_token_id: what isn't written yet.
    """
    if done is None:
        return state.editable & (state.tokens == mask_token_id)
    return state.editable & (state.block_of >= (block + done.long())[:, None])


def _stop_where_settled(
    state: DecodeState, unsettled: Tensor, special: SpecialTokens
) -> tuple[DecodeState, Tensor]:
    """Rows of which only settled tails are left become EOS there; and [R] bool, which they are."""
    tails = settled_tails(state.tokens, state.editable, unsettled, special.stops)
    settled = ~(unsettled & ~tails).any(-1)
    filled = tails & settled[:, None] & (state.tokens != special.stops[0])
    return state.writing(torch.full_like(state.tokens, special.stops[0]), filled), settled

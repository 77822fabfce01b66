"""The parts of a step that run on the model's device, whatever shapes the step has."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from opendllm.core.decoding.decode_state import DecodeState, StepDraws
from opendllm.core.decoding.early_stop import settled_tails
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plain_step import Beginning, StepPlan, beginning, in_block
from opendllm.core.decoding.proposer import Proposer
from opendllm.core.decoding.selection_checks import checked_positions
from opendllm.registries.samplers import Sampler, Selection, SpecialTokens, Step


def begin_step(
    state: DecodeState, plan: StepPlan, proposer: Proposer, options: DecoderOptions
) -> tuple[StepDraws, Step]:
    """A step's draws, and what the sampler sees of it while there are no proposals."""
    return step_of(state, plan, beginning(state, plan, proposer.special.mask), proposer, options)


def step_of(
    state: DecodeState, plan: StepPlan, begun: Beginning, proposer: Proposer, options: DecoderOptions
) -> tuple[StepDraws, Step]:
    """A step's draws, and the step that begins so."""
    draws = StepDraws(state.seeds, plan.number, state.positions)
    step = Step(
        canvas=state.tokens,
        masked=begun.masked,
        editable=begun.editable,
        tokens=begun.tokens,
        confidence=begun.confidence,
        committed_confidence=state.confidence,
        memory=begun.memory,
        index=plan.index,
        steps=plan.steps,
        target=plan.target,
        block=state.part_of,
        width=plan.width,
        room=state.room,
        alg_temp=options.alg_temp,
        special=proposer.special,
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

"""Rows that are written side by side, each at its own step."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opendllm.core.decoding.cached_forward import CachedForward, readers_of
from opendllm.core.decoding.decode_state import DecodeState
from opendllm.core.decoding.fixed_step import FixedStep
from opendllm.core.decoding.kept_steps import kept_steps
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plain_step import StepPlan
from opendllm.core.decoding.plan import IntArray, Plan
from opendllm.core.decoding.prepared_rows import PreparedRows
from opendllm.core.decoding.proposer import Proposer
from opendllm.core.decoding.selection_checks import checked_selection
from opendllm.core.decoding.step_cursor import StepCursor
from opendllm.core.decoding.step_parts import (
    begin_step,
    carry_out,
    counts_masks,
    masks_left,
    positions_to_ask,
)
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import DiffusionLM, TokenPositions
from opendllm.registries.samplers import Sampler, Selection


class DecodingRun:
    """Takes steps. As a context it keeps what was captured for the next run, unless something went wrong.

    Attributes:
        cursor: how far each row is.
        state: the rows.
    """

    def __init__(
        self, lm: DiffusionLM, rows: PreparedRows, sampler: Sampler, options: DecoderOptions, padded: bool
    ) -> None:
        """Begin.

        Args:
            lm: the model.
            rows: the first ones.
            sampler: decides.
            options: the decoder's.
            padded: whether one of these rows, or of those that will take their places, has padding.
        """
        self._lm, self._sampler, self._options = lm, sampler, options
        self.cursor = StepCursor(Plan(rows.blocks.sizes, options.steps, sampler), len(rows.state.tokens))
        self.state: DecodeState = rows.state
        self._proposer = Proposer(lm, sampler, options)
        self._fixed: FixedStep | None = None
        if options.compile and not sampler.edits_length:
            self._fixed = kept_steps(lm).take(lm, (*rows.state.tokens.shape, padded), sampler, options)
            self._fixed.begin(rows)
            self.state = self._fixed.state
        self._readers = readers_of(lm, rows.layout, options) if self._fixed is None else self._fixed.readers
        self._forward = CachedForward(lm, rows.layout, rows.read_in, options, self._readers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fixed is not None and (kind is None or kind is GeneratorExit):
            kept_steps(self._lm).give_back(self._fixed)

    @property
    def is_fixed(self) -> bool:
        """Whether its shapes are: rows that are finished stay, and aren't read."""
        return self._fixed is not None

    @property
    def unfinished(self) -> NDArray[np.bool_]:
        """[R] whether a row has a step left."""
        return self.cursor.unfinished

    def take_step(self) -> None:
        """One step of every row that has one left."""
        if self._fixed is not None:
            self._fixed.take(self.cursor, self._forward)
        else:
            self.state = self._take_step(self.state)
        if self._sampler.edits_length:
            self._forward.relayout(inputs_from_mask(self.state.tokens, self.state.real))

    def drop_finished(self) -> IntArray | None:
        """Go on with the rows that have a step left, which are given; None where all have."""
        kept = self.cursor.drop_finished()
        if kept is not None:
            index = torch.from_numpy(kept).to(self.state.tokens.device)
            self.state = self.state.select_rows(index)
            self._forward.select_rows(kept, index)
        return kept

    def select_rows(self, rows: IntArray) -> None:
        """Go on with the rows at these positions only, numbered anew; not where shapes are fixed.

        A row may be there several times, so that others can take the places of its copies.
        """
        index = torch.from_numpy(rows).to(self.state.tokens.device)
        self.cursor.select_rows(rows)
        self.state = self.state.select_rows(index)
        self._forward.select_rows(rows, index)

    def finish_rows(self, rows: IntArray) -> None:
        """Take no more steps of the rows at these positions."""
        self.cursor.finish_rows(rows)

    def replace_rows(self, slots: IntArray, rows: PreparedRows) -> bool:
        """Go on with other rows in the place of some; none may have been dropped since rows were numbered.

        Args:
            slots: [R] int64, where.
            rows: R rows as long as the others.

        Returns:
            Whether the model's readers can; nothing is done if not.
        """
        index = torch.from_numpy(slots).to(self.state.tokens.device)
        if self._fixed is not None:
            self._fixed.replace_rows(slots, rows)
        elif all(reader.replace_rows(index, rows.layout) for reader in self._readers):
            self.state = self.state.replace_rows(index, rows.state)
        else:
            return False
        self._forward.replace_rows(slots, rows.layout, rows.read_in)
        self.cursor.replace_rows(slots, rows.blocks.sizes)
        return True

    def raise_if_not_finite(self) -> None:
        """Look at all logits since the last look.

        Raises:
            NotFiniteError: one was not finite.
        """
        (self._proposer if self._fixed is None else self._fixed).raise_if_not_finite()

    def _take_step(self, state: DecodeState) -> DecodeState:
        """One step of every row; the cursor goes on to the next."""
        cursor, proposer, forward = self.cursor, self._proposer, self._forward
        sampler, options = self._sampler, self._options
        special, device = proposer.special, state.tokens.device

        # 1. Where each row is in its plan; what the sampler sees of it before the model is asked.
        planned, unfinished = cursor.current_steps(), cursor.unfinished
        packed = StepPlan.packed(planned, unfinished, options.block_length or proposer.block_length)
        plan = StepPlan.unpacked(torch.from_numpy(packed).to(device, non_blocking=True))
        draws, step = begin_step(state, plan, proposer, options)
        forward.tell_time(proposer.told_time(sampler.times(step.index, step.steps), state))

        # 2. Where the model is asked: at the positions already chosen, those masked, or all editable ones.
        chosen: Selection | None = None
        if sampler.decides_first:
            chosen = checked_selection(sampler.select(step), sampler, state.tokens)
            commit = plan.last[:, None] if chosen.commit is None else chosen.commit | plan.last[:, None]
            wanted = step.masked & commit
            count = wanted.sum(-1).cpu().numpy()
        else:
            wanted = positions_to_ask(sampler, step)
            if sampler.edits_length or sampler.proposes == "asked":
                count = wanted.sum(-1).cpu().numpy()
            else:
                count = planned.masks if sampler.proposes == "masked" else planned.size
        at = _positions_of(wanted, int(count[unfinished].sum()))

        # 3. The model's proposals there, or its distributions for a sampler that draws itself.
        idle = ~unfinished | (count == 0)
        cursor.count_passes(2 if options.guidance_scale > 0 else 1, ~idle)
        if len(at.rows):
            hidden = forward.states(proposer.canvases(state), at, planned.block, idle)
            step = proposer.answer(step, hidden, state, at, draws)
        elif sampler.needs_distributions:
            chosen = Selection()  # nothing is left to read, nor to decide

        # 4. The sampler's decision, carried out.
        selection = chosen or checked_selection(sampler.select(step), sampler, state.tokens)
        outcome = carry_out(state, plan, step, selection, sampler, options, special)

        # 5. How many masks each row's block has left, where that matters and the plan doesn't say; on to the
        #    next step.
        stopped = None if outcome.stopped is None else outcome.stopped.cpu().numpy()
        finished = None if outcome.finished is None else outcome.finished.cpu().numpy()
        masks: IntArray | None = None
        if chosen is not None and chosen.remask is None and chosen.overwrite is None:
            masks = planned.masks - count
        elif counts_masks(sampler):
            # Only the device knows: the step's one wait for it.
            masks = masks_left(outcome.state, plan, special.mask).cpu().numpy()
        if masks is not None and not sampler.revises and not sampler.finishes:
            finished = masks == 0
        cursor.go_on()
        cursor.learn(planned, unfinished, masks, finished, stopped)
        return outcome.state


def _positions_of(wanted: Tensor, count: int) -> TokenPositions:
    """The true positions of `wanted` [R, L], of which there are `count`, in row-major order."""
    if wanted.is_cuda:
        found = wanted.nonzero_static(size=count)  # doesn't wait for the GPU to count them
        return TokenPositions(found[:, 0], found[:, 1])
    return TokenPositions(*wanted.nonzero(as_tuple=True))

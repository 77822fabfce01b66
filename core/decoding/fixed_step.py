"""Steps whose shapes and memory never change, so that a GPU replays them as CUDA graphs."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opendllm.core.decoding.cached_forward import CachedForward, HostSpan, readers_of
from opendllm.core.decoding.compiled_shapes import round_up_to_power_of_two
from opendllm.core.decoding.decode_state import DecodeState
from opendllm.core.decoding.graph_calls import GraphCalls
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plan import IntArray
from opendllm.core.decoding.proposer import CHECK_EVERY, NotFiniteError, Proposer
from opendllm.core.decoding.selection_checks import checked_selection
from opendllm.core.decoding.step_cursor import StepCursor
from opendllm.core.decoding.step_parts import (
    Outcome,
    StepPlan,
    begin_step,
    carry_out,
    counts_masks,
    masks_left,
    positions_to_ask,
)
from opendllm.registries.backbones import CanvasReader, DiffusionLM, RefreshSpan, TokenPositions
from opendllm.registries.samplers import Sampler, Selection, Step
from opendllm.registries.sequences import ModelInputs

MOST_KEPT = 4
"""Shapes of canvases whose graphs and keys a model keeps at a time."""


class FixedStep:
    """Takes the steps of canvases of one shape: three calls each, `ask`, `read` and `decide`.

    `ask` finds the positions that the model is asked at, padded to a power of two; `read` reads the rows;
    `decide` proposes, lets the sampler decide and carries that out. The state lies in tensors that all of
    them write to. Rows that are finished stay, and are not written.

    Attributes:
        readers: one for each canvas, with the keys that they keep.
        state: the rows; written over by each step.
    """

    def __init__(
        self,
        lm: DiffusionLM,
        state: DecodeState,
        layout: ModelInputs,
        sampler: Sampler,
        options: DecoderOptions,
    ) -> None:
        """Make room for canvases of the state's shape.

        Args:
            lm: the model.
            state: of which the shapes are taken.
            layout: of the first canvas.
            sampler: decides.
            options: the decoder's.
        """
        self.readers: list[CanvasReader] = readers_of(lm, layout, options)
        self._proposer = Proposer(lm, sampler, options)
        self._sampler = sampler
        self._options = options
        self._width = options.block_length or lm.attention.block_length
        self.state = replace(state, **{name: value.clone() for name, value in _tensors(state).items()})
        rows, length = state.tokens.shape
        device = state.tokens.device
        self._plan = torch.zeros(7, rows, dtype=torch.int64, device=device)
        self._span = torch.zeros(3, rows, dtype=torch.int64, device=device)
        self._asked = torch.zeros(rows, length, dtype=torch.int64, device=device)
        self._count = torch.zeros(rows, dtype=torch.int64, device=device)
        self._bad = torch.zeros(rows, length + 1, dtype=torch.bool, device=device)
        self._flags = torch.zeros(3, rows, dtype=torch.int64, device=device)
        self._hidden: list[Tensor] = []
        self._rows = torch.arange(rows, device=device)
        self._calls = GraphCalls(device)
        self._since_check = 0
        self._masks_only_fall = False

    def restart(self, state: DecodeState, layout: ModelInputs) -> bool:
        """Begin with another canvas of the same shape; gives whether the model's readers can."""
        if not all(reader.restart(layout) for reader in self.readers):
            return False
        for name, value in _tensors(state).items():
            getattr(self.state, name).copy_(value)
        self._bad.zero_()
        self._since_check = 0
        return True

    def take(self, cursor: StepCursor, forward: CachedForward) -> None:
        """One step of every row; `cursor` goes on to the next."""
        sampler, planned, unfinished = self._sampler, cursor.current_steps(), cursor.unfinished
        packed = StepPlan.packed(planned, unfinished, self._width)
        self._plan.copy_(torch.from_numpy(packed), non_blocking=True)
        most = planned.size if sampler.proposes != "masked" else planned.masks
        size = min(round_up_to_power_of_two(max(1, int(most[unfinished].max()))), self.state.tokens.shape[1])
        self._calls(("ask", size), lambda: self._ask(size))
        count = self._count.cpu().numpy() if sampler.decides_first else most
        idle = ~unfinished | (count == 0)
        cursor.count_passes(2 if self._options.guidance_scale > 0 else 1, ~idle)
        if not idle.all():
            for span in forward.plan(planned.block, idle, self.state.tokens):
                self._read(span, size)
        if self._decides_in_fixed_shapes and not idle.all():
            self._calls(("decide", size), lambda: self._decide(size))
        else:
            self._decide_exactly(size)
        self._advance(cursor, planned.masks - count)

    def raise_if_not_finite(self) -> None:
        """Look at all logits since the start.

        Raises:
            NotFiniteError: one was not finite.
        """
        self._since_check = 0
        bad = self._bad[:, :-1]
        if bool(bad.any()):
            row, column = bad.nonzero()[0].tolist()
            raise NotFiniteError(int(self.state.number[row]), column)

    @property
    def _decides_in_fixed_shapes(self) -> bool:
        """Top-p sorts as many candidates as there are, and a sampler may read what it likes."""
        return not self._sampler.needs_distributions and self._options.top_p in (None, 1)

    def _begin(self) -> tuple[StepPlan, Any, Step, Selection | None, Tensor]:
        """The step before the model is asked; and [R, L] where it is."""
        plan = StepPlan.unpacked(self._plan)
        draws, step = begin_step(self.state, plan, self._proposer, self._options)
        if self._sampler.decides_first:
            chosen = checked_selection(self._sampler.select(step), self._sampler, self.state.tokens)
            self._masks_only_fall = chosen.remask is None and chosen.overwrite is None
            commit = plan.last[:, None] if chosen.commit is None else chosen.commit | plan.last[:, None]
            return plan, draws, step, chosen, step.masked & commit
        return plan, draws, step, None, positions_to_ask(self._sampler, step)

    def _ask(self, size: int) -> None:
        """The columns of each row that the model is asked at; beyond their number its first one again."""
        *_, wanted = self._begin()
        # A sampler that leaves more masks than it planned is named in the end: here is no room for them.
        order = torch.where(wanted, (wanted.cumsum(-1) - 1).clamp(max=size), size)
        columns = torch.arange(wanted.shape[1], device=wanted.device).expand_as(wanted)
        first = wanted.to(torch.int8).argmax(-1, keepdim=True)
        found = first.repeat(1, size + 1).scatter(1, order, columns)
        self._asked[:, :size] = found[:, :size]
        self._count.copy_(wanted.sum(-1))

    def _read(self, span: HostSpan | None, size: int) -> None:
        """Hidden states at the asked columns, of the rows of a span."""
        if span is None:
            self._calls(("read", None, size), lambda: self._keep(self._rows, None, size))
            return
        some, everyone = len(span.first), span.rows is None
        rows = np.arange(some) if span.rows is None else span.rows
        packed: IntArray = np.stack([rows, span.first, span.last])
        self._span[:, :some].copy_(torch.from_numpy(packed), non_blocking=True)
        rows_on_device, first, last = self._span[:, :some]
        refresh = RefreshSpan(None if everyone else rows_on_device, first, last, span.width)
        key = ("read", some, span.width, everyone, size)
        self._calls(key, lambda: self._keep(rows_on_device, refresh, size))

    def _keep(self, rows: Tensor, refresh: RefreshSpan | None, size: int) -> None:
        at = TokenPositions(rows.repeat_interleave(size), self._asked[rows, :size].flatten())
        for number, canvas in enumerate(self._proposer.canvases(self.state)):
            states = self.readers[number].states(canvas, at, refresh)
            if number == len(self._hidden):
                self._hidden.append(states.new_zeros(*self._asked.shape, states.shape[-1]))
            self._hidden[number][rows, :size] = states.unflatten(0, (len(rows), size))

    def _decide(self, size: int) -> None:
        plan, draws, step, chosen, _ = self._begin()
        length = self.state.tokens.shape[1]
        is_asked = torch.arange(size, device=self._count.device) < self._count[:, None]
        columns = self._asked[:, :size]
        at = TokenPositions(self._rows.repeat_interleave(size), columns.flatten())
        hidden = [kept[:, :size].flatten(0, 1) for kept in self._hidden]
        proposed = self._proposer.propose(hidden, self.state, at, draws, plan.last)
        # What nobody asked for goes into a column of its own, beside the canvas.
        to = torch.where(is_asked, columns, length)
        self._bad.scatter_(1, to, self._bad.gather(1, to) | ~proposed.finite.view_as(to))

        def spread(values: Tensor, elsewhere: float) -> Tensor:
            like = torch.full((len(to), length + 1), elsewhere, dtype=values.dtype, device=values.device)
            return like.scatter(1, to, values.view_as(to))[:, :length]

        step = replace(
            step,
            tokens=spread(proposed.tokens, self._proposer.special.mask),
            confidence=spread(proposed.confidence, -torch.inf),
        )
        self._finish(plan, step, chosen)

    def _decide_exactly(self, size: int) -> None:
        """The same in the shapes that it has."""
        plan, draws, step, chosen, _ = self._begin()
        is_asked = torch.arange(size, device=self._count.device) < self._count[:, None]
        rows, slots = is_asked.nonzero(as_tuple=True)
        at = TokenPositions(rows, self._asked[rows, slots])
        hidden = [kept[rows, slots] for kept in self._hidden]
        if len(rows):
            step = self._proposer.answer(step, hidden, self.state, at, draws)
        elif self._sampler.needs_distributions:
            chosen = Selection()  # nothing is left to read, nor to decide
        self._finish(plan, step, chosen)

    def _finish(self, plan: StepPlan, step: Step, chosen: Selection | None) -> None:
        selection = chosen or checked_selection(self._sampler.select(step), self._sampler, self.state.tokens)
        outcome = carry_out(
            self.state, plan, step, selection, self._sampler, self._options, self._proposer.special
        )
        for name, value in _tensors(outcome.state).items():
            kept = getattr(self.state, name)
            if kept is not value:
                kept.copy_(value)
        self._write_flags(plan, outcome)

    def _write_flags(self, plan: StepPlan, outcome: Outcome) -> None:
        if counts_masks(self._sampler):
            self._flags[0].copy_(masks_left(self.state, plan, self._proposer.special.mask))
        if outcome.finished is not None:
            self._flags[1].copy_(outcome.finished)
        else:
            self._flags[1].zero_()
        if outcome.stopped is not None:
            self._flags[2].copy_(outcome.stopped)

    def _advance(self, cursor: StepCursor, masks_after: IntArray) -> None:
        sampler = self._sampler
        counted, finishes, stops = counts_masks(sampler), sampler.finishes, self._options.early_stop
        masks = finished = stopped = None
        if counted or finishes or stops:
            flags = self._flags.cpu().numpy()
            masks = flags[0] if counted else None
            finished = flags[1].astype(np.bool_) if finishes else None
            stopped = flags[2].astype(np.bool_) if stops else None
        if sampler.decides_first and self._masks_only_fall:
            masks = masks_after
        if masks is not None and not sampler.revises and not finishes:
            finished = masks == 0
        cursor.advance(masks, finished, stopped)
        self._since_check += 1
        if self._since_check >= CHECK_EVERY:
            self.raise_if_not_finite()


def fixed_step(
    lm: DiffusionLM, state: DecodeState, layout: ModelInputs, sampler: Sampler, options: DecoderOptions
) -> FixedStep:
    """The one for canvases of this shape: kept with the model from call to call, with its graphs."""
    kept: dict[Hashable, FixedStep] = vars(lm).setdefault("_fixed_steps", {})
    key = (*state.tokens.shape, bool(state.real.all()), _identity(sampler), options)
    found = kept.pop(key, None)
    if found is None or not found.restart(state, layout):
        while len(kept) >= MOST_KEPT:
            del kept[next(iter(kept))]
        found = FixedStep(lm, state, layout, sampler, options)
    kept[key] = found
    return found


def _identity(sampler: Sampler) -> Hashable:
    """Equal for samplers that decide alike."""
    try:
        identity = (type(sampler), tuple(sorted(vars(sampler).items())))
        hash(identity)
    except TypeError:
        return sampler
    return identity


def _tensors(state: DecodeState) -> dict[str, Tensor]:
    return {field.name: getattr(state, field.name) for field in fields(state)}

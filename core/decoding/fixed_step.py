"""Steps whose shapes and memory never change, so that a GPU replays them as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opendllm.core.decoding.cached_forward import CachedForward, HostSpan, readers_of
from opendllm.core.decoding.compiled_shapes import round_up_to_power_of_two
from opendllm.core.decoding.decode_state import DecodeState, StepDraws
from opendllm.core.decoding.graph_calls import GraphCalls
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plan import IntArray, PlannedSteps
from opendllm.core.decoding.prepared_rows import PreparedRows
from opendllm.core.decoding.proposer import CHECK_EVERY, NotFiniteError, Proposer
from opendllm.core.decoding.selection_checks import checked_selection
from opendllm.core.decoding.sent_arrays import SentArray
from opendllm.core.decoding.step_cursor import StepCursor
from opendllm.core.decoding.step_flags import FlagsOnHost
from opendllm.core.decoding.step_parts import (
    Outcome,
    StepPlan,
    begin_step,
    carry_out,
    counts_masks,
    masks_left,
    positions_to_ask,
)
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import CanvasReader, DiffusionLM, RefreshSpan, TokenPositions
from opendllm.registries.errors import UserError
from opendllm.registries.samplers import Sampler, Selection, Step

READ_LATE_BELOW_BYTES = 4 << 30
"""Weights below which a wait for the device (some 0.2 ms) costs more than reading a row once in vain: what
is read of a step only after the next one was launched costs a pass a block, some 8 passes long. (Where the
plan says when a block is done, a pass a row, if it stops early: it is always read late.)"""
NO_BLOCK = -1
PLANNED = 7
"""Numbers of a row in a `StepPlan`."""
MOST_SPANS = 2
"""Of a step: of rows that enter a block, and of the others."""
ALL_BLOCKS = 1 << 40


@dataclass
class _Launched:
    """A step that the device has been given, and whose outcome the host doesn't know.

    Attributes:
        planned: the step, by row.
        took_part: [R] bool, rows that were read.
        known: [R] bool, rows whose outcome matters to nobody any more: others are in their place.
        flags: see `FlagsOnHost`.
    """

    planned: PlannedSteps
    took_part: NDArray[np.bool_]
    known: NDArray[np.bool_]
    flags: Callable[[], IntArray]


@dataclass(frozen=True)
class _Begun:
    """A step before the model is asked.

    Attributes:
        plan: its rows'.
        draws: its own.
        step: without proposals.
        chosen: what a sampler that decides first has decided; None of others.
        wanted: [R, L] bool, where the model is asked.
    """

    plan: StepPlan
    draws: StepDraws
    step: Step
    chosen: Selection | None
    wanted: Tensor


class FixedStep:
    """Takes the steps of canvases of one shape: by one call each, or three, `ask`, `read` and `decide`.

    `ask` finds the positions that the model is asked at, padded to a power of two; `read` reads the rows;
    `decide` proposes, lets the sampler decide and carries that out. The state lies in tensors that all of
    them write to. Rows that are finished stay, and are not written, until others take their place.

    Where the host has to know what a step came to, small models' steps are read late: the next one is
    launched first. A row that turns out to be through with its block is left alone by that one.

    Attributes:
        readers: one for each canvas, with the keys that they keep.
        state: the rows; written over by each step.
        memory_bytes: what stays on the device between steps.
    """

    def __init__(
        self,
        lm: DiffusionLM,
        shape: tuple[int, int, bool],
        sampler: Sampler,
        options: DecoderOptions,
        calls: GraphCalls,
    ) -> None:
        """Make room.

        Args:
            lm: the model.
            shape: rows, columns, and whether a row may have padding.
            sampler: decides.
            options: the decoder's.
            calls: what the parts of a step are called by.

        Raises:
            UserError: the model's readers have no memory that stays where it is.
        """
        rows, length, padded = shape
        device = next(lm.module.parameters()).device
        canvas = torch.zeros(rows, length, dtype=torch.int64, device=device)
        real = torch.ones_like(canvas, dtype=torch.bool)
        if padded:
            real[:, 1:] = False
        layout = inputs_from_mask(canvas, real)
        self.readers: list[CanvasReader] = readers_of(lm, layout, options)
        sizes = [reader.fix_memory() for reader in self.readers]
        if None in sizes:
            raise UserError(
                f"{lm.__class__.__name__} has no form that CUDA graphs could replay: leave compile out"
            )
        self._proposer = Proposer(lm, sampler, options)
        self._sampler = sampler
        self._options = options
        self._width = options.block_length or lm.attention.block_length
        self.state = DecodeState(
            **{name: canvas.new_zeros(rows) for name in ("number", "seeds", "room", "taken")},
            **{
                name: torch.zeros_like(canvas)
                for name in (
                    "tokens",
                    "block_of",
                    "part_of",
                    "positions",
                    "memory",
                    "origin",
                    "committed_at",
                )
            },
            real=real,
            editable=torch.zeros_like(real),
            confidence=torch.zeros(rows, length, device=device),
        )
        self._sent = SentArray((PLANNED + 3 * MOST_SPANS, rows), device)
        self._asked = torch.zeros(rows, length, dtype=torch.int64, device=device)
        self._count = torch.zeros(rows, dtype=torch.int64, device=device)
        self._bad = torch.zeros(rows, length + 1, dtype=torch.bool, device=device)
        self._flags = torch.zeros(3, rows, dtype=torch.int64, device=device)
        self._done = torch.full((rows,), NO_BLOCK, device=device)
        self._hidden: list[Tensor] = []
        self._rows = torch.arange(rows, device=device)
        self._calls = calls
        self._is_whole = True
        self._on_host = FlagsOnHost(self._flags)
        self._launched: _Launched | None = None
        self._since_check = 0
        self._masks_only_fall = False
        self._passes = 2 if options.guidance_scale > 0 else 1
        weights = sum(parameter.nbytes for parameter in lm.module.parameters())
        self._may_be_late = self._late_changes_nothing and (sampler.plans or weights < READ_LATE_BELOW_BYTES)
        # Hidden states are as wide as the embedding's rows, or thereabouts: keys are what counts.
        self.memory_bytes = sum(size or 0 for size in sizes)

    def begin(self, rows: PreparedRows) -> None:
        """Write these rows from now on, all of another canvas."""
        self._launched, self._since_check = None, 0
        self.replace_rows(np.arange(len(self._rows)), rows)

    def replace_rows(self, slots: IntArray, rows: PreparedRows) -> None:
        """Write others in the place of some rows.

        Args:
            slots: [R] int64, where.
            rows: R rows as long as the canvas.
        """
        index = torch.from_numpy(slots).to(self._rows.device)
        for reader in self.readers:
            if not reader.replace_rows(index, rows.layout):
                raise UserError(f"{reader.__class__.__name__} doesn't take other rows: leave compile out")
        for name, value in _tensors(rows.state).items():
            getattr(self.state, name).index_copy_(0, index, value)
        self._bad.index_fill_(0, index, False)
        self._done.index_fill_(0, index, NO_BLOCK)
        if self._launched is not None:
            self._launched.known[slots] = True

    def take(self, cursor: StepCursor, forward: CachedForward) -> None:
        """One step of every row; `cursor` goes on to the next."""
        sampler, planned, unfinished = self._sampler, cursor.current_steps(), cursor.unfinished
        # How many positions each row asks at, at most.
        most = planned.size if sampler.proposes != "masked" else planned.masks
        size = min(round_up_to_power_of_two(max(1, int(most[unfinished].max()))), self.state.tokens.shape[1])
        packed = StepPlan.packed(planned, unfinished, self._width)
        if sampler.decides_first:
            # Here a wait pays: a sampler that has chosen nothing asks the model nothing.
            self._send(packed, [])
            self._calls(("ask", size), lambda: self._ask(self._begin(), size))
            most = self._count.cpu().numpy()
        idle = ~unfinished | (most == 0)
        cursor.count_passes(self._passes, ~idle)
        spans = [] if idle.all() else forward.plan(planned.block, idle, self.state.tokens)
        self._send(packed, spans)
        self._launch(spans, size)
        cursor.go_on()
        if sampler.decides_first and self._masks_only_fall and not self._options.early_stop:
            masks = planned.masks - most
            cursor.learn(planned, unfinished, masks, masks == 0, None)
        elif self._is_told:
            before = self._launched
            self._launched = _Launched(planned, ~idle, ~unfinished, self._on_host.send())
            if not (self._may_be_late and not forward.looks_at_canvas):
                self._learn(cursor, self._launched, None)
            elif before is not None:
                self._learn(cursor, before, self._launched)
        self._since_check += 1
        if self._since_check >= CHECK_EVERY:
            self.raise_if_not_finite()

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

    @property
    def _is_told(self) -> bool:
        """Whether the plan alone doesn't say how rows go on."""
        return counts_masks(self._sampler) or self._sampler.finishes or self._options.early_stop

    @property
    def _late_changes_nothing(self) -> bool:
        """A row may be read once more than it has to, but nothing else may hang on what isn't known yet."""
        sampler = self._sampler
        simple = sampler.plans or sampler.proposes == "editable" or not (sampler.revises or sampler.finishes)
        return simple and not sampler.decides_first and self._decides_in_fixed_shapes

    def _begin(self) -> _Begun:
        """The step before the model is asked."""
        plan = StepPlan.unpacked(self._sent.tensor[:PLANNED])
        # The host may not know yet which rows are through with their block.
        plan = replace(plan, unfinished=plan.unfinished & (plan.block > self._done))
        draws, step = begin_step(self.state, plan, self._proposer, self._options)
        if self._sampler.decides_first:
            chosen = checked_selection(self._sampler.select(step), self._sampler, self.state.tokens)
            self._masks_only_fall = not (self._sampler.revises or self._sampler.finishes)
            commit = plan.last[:, None] if chosen.commit is None else chosen.commit | plan.last[:, None]
            return _Begun(plan, draws, step, chosen, step.masked & commit)
        return _Begun(plan, draws, step, None, positions_to_ask(self._sampler, step))

    def _ask(self, begun: _Begun, size: int) -> None:
        """The columns of each row that the model is asked at; beyond their number its first one again."""
        wanted = begun.wanted
        # A sampler that leaves more masks than it planned is named in the end: here is no room for them.
        order = torch.where(wanted, (wanted.cumsum(-1) - 1).clamp(max=size), size)
        columns = torch.arange(wanted.shape[1], device=wanted.device).expand_as(wanted)
        first = wanted.to(torch.int8).argmax(-1, keepdim=True)
        found = first.repeat(1, size + 1).scatter(1, order, columns)
        self._asked[:, :size] = found[:, :size]
        self._count.copy_(wanted.sum(-1))

    def _send(self, packed: IntArray, spans: list[HostSpan | None]) -> None:
        """A step's plan, and its spans: of each the rows, their first and their last columns."""
        sent = np.zeros(self._sent.tensor.shape, dtype=np.int64)
        sent[:PLANNED] = packed
        for number, span in enumerate(spans):
            if span is not None:
                rows = np.arange(len(span.first)) if span.rows is None else span.rows
                at = PLANNED + 3 * number
                sent[at : at + 3, : len(rows)] = rows, span.first, span.last
        self._sent.send(sent)

    def _launch(self, spans: list[HostSpan | None], size: int) -> None:
        """Ask where that hasn't been done, read the spans, and decide: by one call, if it can be captured."""
        decides = bool(spans) and self._decides_in_fixed_shapes
        reads = [self._read(span, number, size) for number, span in enumerate(spans)]
        if len(reads) == 1 and decides and not self._sampler.decides_first and self._is_whole:
            [(key, read)] = reads

            def step() -> None:
                begun = self._begin()
                self._ask(begun, size)
                read()
                self._decide(begun, size)

            self._calls(("whole", *key), step)
            self._is_whole = not self._calls.was_refused(("whole", *key))
            return
        if not self._sampler.decides_first:
            self._calls(("ask", size), lambda: self._ask(self._begin(), size))
        for key, read in reads:
            self._calls(("read", *key), read)
        if decides:
            self._calls(("decide", size), lambda: self._decide(self._begin(), size))
        else:
            self._decide_exactly(size)

    def _read(
        self, span: HostSpan | None, number: int, size: int
    ) -> tuple[tuple[Hashable, ...], Callable[[], None]]:
        """Of a step's spans the `number`th: what tells its shapes from others', and what takes hidden states
        at its rows' asked columns."""
        if span is None:
            return (None, size), lambda: self._keep(self._rows, None, size)
        some, everyone, at = len(span.first), span.rows is None, PLANNED + 3 * number
        rows_on_device, first, last = self._sent.tensor[at : at + 3, :some]
        refresh = RefreshSpan(None if everyone else rows_on_device, first, last, span.width, span.seen)
        key = (number, some, span.width, span.seen, everyone, size)
        return key, lambda: self._keep(rows_on_device, refresh, size)

    def _keep(self, rows: Tensor, refresh: RefreshSpan | None, size: int) -> None:
        at = TokenPositions(rows.repeat_interleave(size), self._asked[rows, :size].flatten())
        if refresh is not None:  # the keys of a row that isn't asked at all stay as they are
            last = torch.where(self._count[rows] > 0, refresh.last, refresh.first - 1)
            refresh = replace(refresh, last=last)
        for number, canvas in enumerate(self._proposer.canvases(self.state)):
            states = self.readers[number].states(canvas, at, refresh)
            if number == len(self._hidden):
                self._hidden.append(states.new_zeros(*self._asked.shape, states.shape[-1]))
            self._hidden[number][rows, :size] = states.unflatten(0, (len(rows), size))

    def _decide(self, begun: _Begun, size: int) -> None:
        plan, draws, step = begun.plan, begun.draws, begun.step
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
        self._finish(plan, step, begun.chosen)

    def _decide_exactly(self, size: int) -> None:
        """The same in the shapes that it has."""
        begun = self._begin()
        step, chosen = begun.step, begun.chosen
        is_asked = torch.arange(size, device=self._count.device) < self._count[:, None]
        rows, slots = is_asked.nonzero(as_tuple=True)
        at = TokenPositions(rows, self._asked[rows, slots])
        hidden = [kept[rows, slots] for kept in self._hidden]
        if len(rows):
            step = self._proposer.answer(step, hidden, self.state, at, begun.draws)
        elif self._sampler.needs_distributions:
            chosen = Selection()  # nothing is left to read, nor to decide
        self._finish(begun.plan, step, chosen)

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
        sampler, finished = self._sampler, outcome.finished
        if counts_masks(sampler):
            left = masks_left(self.state, plan, self._proposer.special.mask)
            self._flags[0].copy_(left)
            if not sampler.revises and not sampler.finishes:
                finished = left == 0
        if finished is not None:
            self._flags[1].copy_(finished)
            self._done.copy_(torch.where(finished & plan.unfinished, plan.block, self._done))
        else:
            self._flags[1].zero_()
        if outcome.stopped is not None:
            self._flags[2].copy_(outcome.stopped)
            self._done.copy_(torch.where(outcome.stopped & plan.unfinished, ALL_BLOCKS, self._done))

    def _learn(self, cursor: StepCursor, step: _Launched, following: _Launched | None) -> None:
        """What a step came to; `following`, launched since, was in vain for rows that are done."""
        flags, told = step.flags(), ~step.known
        counted = counts_masks(self._sampler)
        masks = flags[0] if counted else None
        finished = flags[1].astype(np.bool_) & told
        stopped = flags[2].astype(np.bool_) & told
        cursor.learn(step.planned, told, masks, finished, stopped)
        if following is not None:
            same_block = following.planned.block == step.planned.block
            in_vain = following.took_part & (stopped | (finished & same_block)) & ~following.known
            cursor.count_passes(-self._passes, in_vain)


def _tensors(state: DecodeState) -> dict[str, Tensor]:
    return {field.name: getattr(state, field.name) for field in fields(state)}

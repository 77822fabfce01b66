"""The parts of a step on the model's device: their shapes and their memory never change."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from opendllm.core.decoding.cached_forward import readers_of
from opendllm.core.decoding.decode_state import DecodeState, StepDraws
from opendllm.core.decoding.device_kernels import device_kernels, only_commits
from opendllm.core.decoding.host_span import HostSpan
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plain_step import StepPlan, asked_columns, beginning, spread_proposals
from opendllm.core.decoding.plan import IntArray
from opendllm.core.decoding.prepared_rows import PreparedRows
from opendllm.core.decoding.proposer import Proposer
from opendllm.core.decoding.selection_checks import checked_selection
from opendllm.core.decoding.sent_arrays import SentArray
from opendllm.core.decoding.step_parts import (
    Outcome,
    carry_out,
    counts_masks,
    masks_left,
    positions_to_ask,
    step_of,
)
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import CanvasReader, DiffusionLM, RefreshSpan, TokenPositions
from opendllm.registries.errors import UserError
from opendllm.registries.samplers import Sampler, Selection, Step

NO_BLOCK = -1
PLANNED = 7
"""Numbers of a row in a `StepPlan`."""
MOST_SPANS = 2
"""Of a step: of rows that enter a block, and of the others."""
ALL_BLOCKS = 1 << 40


@dataclass(frozen=True)
class BegunStep:
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


class DeviceStep:
    """What a step does, in parts that a CUDA graph can replay: `ask`, what `reading` gives, and `decide`.

    `ask` finds the positions that the model is asked at, padded to a power of two; a read takes the hidden
    states there; `decide` proposes, lets the sampler decide and carries that out. The state lies in tensors
    that all of them write to. Rows that are finished stay, and are not written, until others take their
    place.

    Attributes:
        readers: one for each canvas, with the keys that they keep.
        state: the rows; written over by each step.
        flags: [3, R] int64, what a step came to: the masks that the row's block has left, whether the block
            is done, and whether the rest of the row can be left out.
        memory_bytes: what stays on the device between steps.
    """

    def __init__(
        self, lm: DiffusionLM, shape: tuple[int, int, bool], sampler: Sampler, options: DecoderOptions
    ) -> None:
        """Make room.

        Args:
            lm: the model.
            shape: rows, columns, and whether a row may have padding.
            sampler: decides.
            options: the decoder's.

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
        self._kernels = device_kernels(device) if options.compile is True else None
        self._proposer = Proposer(lm, sampler, options, self._kernels)
        self._mask = self._proposer.special.mask
        self._sampler = sampler
        self._options = options
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
            confidence=torch.zeros(rows, length, dtype=torch.float32, device=device),
        )
        self._sent = SentArray((PLANNED + 3 * MOST_SPANS, rows), device)
        self._asked = torch.zeros(rows, length, dtype=torch.int64, device=device)
        self._count = torch.zeros(rows, dtype=torch.int64, device=device)
        self._bad = torch.zeros(rows, length + 1, dtype=torch.bool, device=device)
        self.flags = torch.zeros(3, rows, dtype=torch.int64, device=device)
        self._done = torch.full((rows,), NO_BLOCK, device=device)
        self._hidden: list[Tensor] = []
        self._rows = torch.arange(rows, device=device)
        # Hidden states are as wide as the embedding's rows, or thereabouts: keys are what counts.
        self.memory_bytes = sum(size or 0 for size in sizes)

    def replace_rows(self, index: Tensor, rows: PreparedRows) -> None:
        """Write others in the place of some rows.

        Args:
            index: [R] int64, where.
            rows: R rows as long as the canvas.

        Raises:
            UserError: the model's readers don't take other rows.
        """
        for reader in self.readers:
            if not reader.replace_rows(index, rows.layout):
                raise UserError(f"{reader.__class__.__name__} doesn't take other rows: leave compile out")
        for name, value in _tensors(rows.state).items():
            getattr(self.state, name).index_copy_(0, index, value)
        self._bad.index_fill_(0, index, False)
        self._done.index_fill_(0, index, NO_BLOCK)

    def send(self, packed: IntArray, spans: list[HostSpan | None]) -> None:
        """A step's plan, and its spans: of each the rows, their first and their last columns."""
        sent = np.zeros(self._sent.tensor.shape, dtype=np.int64)
        sent[:PLANNED] = packed
        for number, span in enumerate(spans):
            if span is not None:
                rows = np.arange(len(span.first)) if span.rows is None else span.rows
                at = PLANNED + 3 * number
                sent[at : at + 3, : len(rows)] = rows, span.first, span.last
        self._sent.send(sent)

    def ask(self, size: int) -> None:
        """Find where the model is asked, at `size` positions of a row at most."""
        self._ask(self._begin(), size)

    def asked(self) -> IntArray:
        """[R] int64, at how many positions of each row the model is asked: waits for the device."""
        found: IntArray = self._count.cpu().numpy()
        return found

    def reading(
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

    def decide(self, size: int) -> None:
        """Carry out what the sampler makes of what was read."""
        self._decide(self._begin(), size)

    def ask_read_and_decide(self, read: Callable[[], None], size: int) -> None:
        """All of a step whose spans are one."""
        begun = self._begin()
        self._ask(begun, size)
        read()
        self._decide(begun, size)

    def decide_exactly(self, size: int) -> None:
        """The same as `decide` in the shapes that it has, so that no graph can replay it."""
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

    def first_not_finite(self) -> tuple[int, int] | None:
        """The row's number and the column of a logit that was not finite since the start; waits."""
        bad = self._bad[:, :-1]
        if not bool(bad.any()):
            return None
        row, column = bad.nonzero()[0].tolist()
        return int(self.state.number[row]), column

    def _begin(self) -> BegunStep:
        """The step before the model is asked."""
        packed = self._sent.tensor[:PLANNED]
        plan = StepPlan.unpacked(packed)
        # The host may not know yet which rows are through with their block.
        if self._kernels is None:
            plan = replace(plan, unfinished=plan.unfinished & (plan.block > self._done))
            begun = beginning(self.state, plan, self._mask)
        else:
            unfinished, begun = self._kernels.begin(self.state, packed, self._done, self._mask)
            plan = replace(plan, unfinished=unfinished)
        draws, step = step_of(self.state, plan, begun, self._proposer, self._options)
        if self._sampler.decides_first:
            chosen = checked_selection(self._sampler.select(step), self._sampler, self.state.tokens)
            commit = plan.last[:, None] if chosen.commit is None else chosen.commit | plan.last[:, None]
            return BegunStep(plan, draws, step, chosen, step.masked & commit)
        return BegunStep(plan, draws, step, None, positions_to_ask(self._sampler, step))

    def _ask(self, begun: BegunStep, size: int) -> None:
        """The columns of each row that the model is asked at; beyond their number its first one again."""
        if self._kernels is not None:
            self._kernels.ask(begun.wanted, self._asked, self._count, size)
            return
        columns, count = asked_columns(begun.wanted, size)
        self._asked[:, :size] = columns
        self._count.copy_(count)

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

    def _decide(self, begun: BegunStep, size: int) -> None:
        plan, draws, step = begun.plan, begun.draws, begun.step
        columns = self._asked[:, :size]
        at = TokenPositions(self._rows.repeat_interleave(size), columns.flatten())
        hidden = [kept[:, :size].flatten(0, 1) for kept in self._hidden]
        proposed = self._proposer.propose(hidden, self.state, at, draws, plan.last)
        spread = spread_proposals if self._kernels is None else self._kernels.spread
        tokens, confidence = spread(proposed, columns, self._count, self._bad, self._mask)
        step = replace(step, tokens=tokens, confidence=confidence)
        self._finish(plan, step, begun.chosen)

    def _finish(self, plan: StepPlan, step: Step, chosen: Selection | None) -> None:
        selection = chosen or checked_selection(self._sampler.select(step), self._sampler, self.state.tokens)
        if self._kernels is not None and only_commits(selection) and not self._options.early_stop:
            packed = self._sent.tensor[:PLANNED]
            self._kernels.commit(self.state, packed, plan.unfinished, step, selection)
            self._write_flags(plan, Outcome(self.state, None, None))
            return
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
            left = masks_left(self.state, plan, self._mask)
            self.flags[0].copy_(left)
            if not sampler.revises and not sampler.finishes:
                finished = left == 0
        if finished is not None:
            self.flags[1].copy_(finished)
            self._done.copy_(torch.where(finished & plan.unfinished, plan.block, self._done))
        else:
            self.flags[1].zero_()
        if outcome.stopped is not None:
            self.flags[2].copy_(outcome.stopped)
            self._done.copy_(torch.where(outcome.stopped & plan.unfinished, ALL_BLOCKS, self._done))


def _tensors(state: DecodeState) -> dict[str, Tensor]:
    return {field.name: getattr(state, field.name) for field in fields(state)}

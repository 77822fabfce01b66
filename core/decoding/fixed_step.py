"""Steps whose shapes and memory never change, so that a GPU replays them as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from opendllm.core.decoding.cached_forward import CachedForward
from opendllm.core.decoding.compiled_shapes import round_up_to_power_of_two
from opendllm.core.decoding.decode_state import DecodeState
from opendllm.core.decoding.device_step import DeviceStep
from opendllm.core.decoding.graph_calls import GraphCalls
from opendllm.core.decoding.host_span import HostSpan
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plain_step import StepPlan
from opendllm.core.decoding.plan import IntArray, PlannedSteps
from opendllm.core.decoding.prepared_rows import PreparedRows
from opendllm.core.decoding.proposer import CHECK_EVERY, NotFiniteError
from opendllm.core.decoding.step_cursor import StepCursor
from opendllm.core.decoding.step_flags import FlagsOnHost
from opendllm.core.decoding.step_parts import counts_masks
from opendllm.registries.backbones import CanvasReader, DiffusionLM
from opendllm.registries.samplers import Sampler

READ_LATE_BELOW_BYTES = 4 << 30
"""Weights below which a wait for the device (some 0.2 ms) costs more than reading a row once in vain: what
is read of a step only after the next one was launched costs a pass a block, some 8 passes long. (Where the
plan says when a block is done, a pass a row, if it stops early: it is always read late.)"""


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


class FixedStep:
    """Takes the steps of canvases of one shape: by one call of the device's parts each, or three.

    Where the host has to know what a step came to, small models' steps are read late: the next one is
    launched first. A row that turns out to be through with its block is left alone by that one.
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
        self._device = DeviceStep(lm, shape, sampler, options)
        self._sampler = sampler
        self._options = options
        self._width = options.block_length or lm.attention.block_length
        self._calls = calls
        self._is_whole = True
        self._on_host = FlagsOnHost(self._device.flags)
        self._launched: _Launched | None = None
        self._since_check = 0
        self._passes = 2 if options.guidance_scale > 0 else 1
        weights = sum(parameter.nbytes for parameter in lm.module.parameters())
        self._may_be_late = self._late_changes_nothing and (sampler.plans or weights < READ_LATE_BELOW_BYTES)

    @property
    def readers(self) -> list[CanvasReader]:
        """One for each canvas, with the keys that they keep."""
        return self._device.readers

    @property
    def state(self) -> DecodeState:
        """The rows; written over by each step."""
        return self._device.state

    @property
    def memory_bytes(self) -> int:
        """What stays on the device between steps."""
        return self._device.memory_bytes

    def begin(self, rows: PreparedRows) -> None:
        """Write these rows from now on, all of another canvas."""
        self._launched, self._since_check = None, 0
        self.replace_rows(np.arange(len(rows.state.tokens)), rows)

    def replace_rows(self, slots: IntArray, rows: PreparedRows) -> None:
        """Write others in the place of some rows.

        Args:
            slots: [R] int64, where.
            rows: R rows as long as the canvas.

        Raises:
            UserError: the model's readers don't take other rows.
        """
        self._device.replace_rows(torch.from_numpy(slots).to(self.state.tokens.device), rows)
        if self._launched is not None:
            self._launched.known[slots] = True

    def take(self, cursor: StepCursor, forward: CachedForward) -> None:
        """One step of every row; `cursor` goes on to the next."""
        device, sampler = self._device, self._sampler
        planned, unfinished = cursor.current_steps(), cursor.unfinished
        # How many positions each row asks at, at most.
        most = planned.size if sampler.proposes != "masked" else planned.masks
        size = min(round_up_to_power_of_two(max(1, int(most[unfinished].max()))), self.state.tokens.shape[1])
        packed = StepPlan.packed(planned, unfinished, self._width)
        if sampler.decides_first:
            # Here a wait pays: a sampler that has chosen nothing asks the model nothing.
            device.send(packed, [])
            self._calls(("ask", size), lambda: device.ask(size))
            most = device.asked()
        idle = ~unfinished | (most == 0)
        cursor.count_passes(self._passes, ~idle)
        spans = [] if idle.all() else forward.plan(planned.block, idle, self.state.tokens)
        device.send(packed, spans)
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
        found = self._device.first_not_finite()
        if found is not None:
            raise NotFiniteError(*found)

    @property
    def _decides_in_fixed_shapes(self) -> bool:
        """Top-p sorts as many candidates as there are, and a sampler may read what it likes."""
        return not self._sampler.needs_distributions and self._options.top_p in (None, 1)

    @property
    def _is_told(self) -> bool:
        """Whether the plan alone doesn't say how rows go on."""
        return counts_masks(self._sampler) or self._sampler.finishes or self._options.early_stop

    @property
    def _masks_only_fall(self) -> bool:
        return not (self._sampler.revises or self._sampler.finishes)

    @property
    def _late_changes_nothing(self) -> bool:
        """A row may be read once more than it has to, but nothing else may hang on what isn't known yet."""
        sampler = self._sampler
        simple = sampler.plans or sampler.proposes == "editable" or not (sampler.revises or sampler.finishes)
        return simple and not sampler.decides_first and self._decides_in_fixed_shapes

    def _launch(self, spans: list[HostSpan | None], size: int) -> None:
        """Ask where that hasn't been done, read the spans, and decide: by one call, if it can be captured."""
        device = self._device
        decides = bool(spans) and self._decides_in_fixed_shapes
        reads = [device.reading(span, number, size) for number, span in enumerate(spans)]
        if len(reads) == 1 and decides and not self._sampler.decides_first and self._is_whole:
            [(key, read)] = reads
            self._calls(("whole", *key), lambda: device.ask_read_and_decide(read, size))
            self._is_whole = not self._calls.was_refused(("whole", *key))
            return
        if not self._sampler.decides_first:
            self._calls(("ask", size), lambda: device.ask(size))
        for key, read in reads:
            self._calls(("read", *key), read)
        if decides:
            self._calls(("decide", size), lambda: device.decide(size))
        else:
            device.decide_exactly(size)

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

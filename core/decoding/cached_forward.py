"""What the model reads at each step: everything, or what has changed since its keys were kept."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opendllm.core.decoding.block_spans import block_spans
from opendllm.core.decoding.blocks import Blocks
from opendllm.core.decoding.compiled_shapes import (
    refresh_width,
    round_up_to_power_of_two,
    seen_bucket,
)
from opendllm.core.decoding.delayed_cache import DelayedKeys
from opendllm.core.decoding.host_span import HostSpan
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plan import IntArray
from opendllm.registries.backbones import (
    CanvasReader,
    DiffusionLM,
    TokenPositions,
    WholeReader,
)
from opendllm.registries.sequences import ModelInputs

DEFAULT_DELAY = 2
"""d3LLM's own."""


def readers_of(lm: DiffusionLM, layout: ModelInputs, options: DecoderOptions) -> list[CanvasReader]:
    """One for each canvas: with guidance there are two."""
    count = 2 if options.guidance_scale else 1
    if lm.noise.time_conditioning:
        return [WholeReader(lm, layout) for _ in range(count)]
    keeps = options.cache != "none" or (lm.attention.kind != "bidirectional" and lm.supports_kv_cache)
    return [lm.reader(layout, keeps, options.compile is True) for _ in range(count)]


class CachedForward:
    """Turns (rows, the blocks they are at) into hidden states, reading as little as the cache allows.

    Without a cache, everything is read at every step. `prefix` reads a block's first step whole, and
    later ones from the block on; `dual` reads the block alone (Fast-dLLM, arXiv:2505.22618, section
    3.2). A causal or block-causal checkpoint needs no approximation: whatever stands left of the block
    is read once more when it is settled, and what stands right of it never.
    """

    def __init__(
        self,
        lm: DiffusionLM,
        layout: ModelInputs,
        blocks: Blocks,
        options: DecoderOptions,
        readers: list[CanvasReader],
    ) -> None:
        """Prepare to read.

        Args:
            lm: the model.
            layout: of the canvas.
            blocks: that it is written in.
            options: `cache`, `cache_refresh`, `guidance_scale` and `compile`.
            readers: of the layout, see `readers_of`.
        """
        self._lm = lm
        self._exact = lm.attention.kind != "bidirectional" and lm.supports_kv_cache
        self._options = options
        self._readers = readers
        if lm.noise.time_conditioning:
            self._exact = False
        self._use_kv_cache = self._exact or options.cache != "none"
        self._spans = block_spans(lm, layout, blocks, options)
        self._delayed = self._delayed_keys(layout, blocks) if options.cache == "delayed" else None
        rows, self._length = layout.tokens.shape
        # The block that each row was last read at, and how many steps it had been at it by then.
        self._block: IntArray = np.full(rows, -1, dtype=np.int64)
        self._age: IntArray = np.zeros(rows, dtype=np.int64)

    def select_rows(self, rows: IntArray, index: Tensor) -> None:
        """Go on with these rows only.

        Args:
            rows: [R] their numbers, on the host.
            index: the same on the device.
        """
        for reader in self._readers:
            reader.select_rows(index)
        self._spans = self._spans.select_rows(rows)
        if self._delayed is not None:
            self._delayed = self._delayed.select_rows(rows, index)
        self._block, self._age = self._block[rows], self._age[rows]

    def replace_rows(self, rows: IntArray, layout: ModelInputs, blocks: Blocks) -> None:
        """Read other rows in place of some; the readers have been told.

        Args:
            rows: [R] int64, those that make way; none has been dropped yet.
            layout: of the others.
            blocks: that they are written in.
        """
        self._spans = self._spans.replace_rows(rows, block_spans(self._lm, layout, blocks, self._options))
        if self._delayed is not None:
            self._delayed = self._delayed.replace_rows(rows, self._delayed_keys(layout, blocks))
        self._block[rows], self._age[rows] = -1, 0

    @property
    def looks_at_canvas(self) -> bool:
        """Whether a step's plan hangs on what the step before has written."""
        return self._delayed is not None or (self._spans.sub_blocks is not None and self._lm.logit_shift)

    def _delayed_keys(self, layout: ModelInputs, blocks: Blocks) -> DelayedKeys:
        options = self._options
        delay = DEFAULT_DELAY if options.cache_delay is None else options.cache_delay
        predictors = self._lm.predictors(layout.segments).cpu().numpy()
        return DelayedKeys.of(blocks, predictors, delay, options.cache_refresh)

    def relayout(self, inputs: ModelInputs) -> None:
        """Go on with rows whose layout has changed; without a cache only."""
        self._readers = [
            WholeReader(self._lm, inputs) if isinstance(reader, WholeReader) else self._lm.reader(inputs)
            for reader in self._readers
        ]

    def tell_time(self, time: Tensor | None) -> None:
        """Read at this `ModelInputs.time` [B, L] from now on; None where the model isn't told any."""
        for reader in self._readers:
            if time is not None and isinstance(reader, WholeReader):
                reader.tell_time(time)

    def states(
        self, canvases: list[Tensor], at: TokenPositions, block: IntArray, idle: NDArray[np.bool_]
    ) -> list[Tensor]:
        """[N, D] hidden states at some positions, for each of the canvases.

        Args:
            canvases: [B, L] each: the canvas itself, and the one without its prompt for guidance.
            at: where, in row-major order, within each row's block.
            block: [B] which block each row is at; on the host.
            idle: [B] rows without a position, whose keys in the cache stay as they are: alone, such a row
                would not be read at this step; on the host.
        """
        spans = [
            None if span is None else span.on(canvases[0].device)
            for span in self.plan(block, idle, canvases[0])
        ]
        if len(spans) == 1:
            refresh = spans[0]
            return [r.states(c, at, refresh) for r, c in zip(self._readers, canvases, strict=True)]
        found: list[Tensor | None] = [None] * len(canvases)
        for refresh in spans:
            assert refresh is not None
            assert refresh.rows is not None
            mine = torch.isin(at.rows, refresh.rows)
            positions = TokenPositions(at.rows[mine], at.columns[mine])
            for number, (reader, canvas) in enumerate(zip(self._readers, canvases, strict=True)):
                states = reader.states(canvas, positions, refresh)
                whole = found[number]
                if whole is None:
                    whole = found[number] = states.new_empty(len(at.rows), states.shape[-1])
                whole[mine] = states
        return [states for states in found if states is not None]

    def plan(self, block: IntArray, idle: NDArray[np.bool_], canvas: Tensor) -> list[HostSpan | None]:
        """What a step refreshes, in groups of rows that are read together; None alone is everything.

        Args:
            block: see `states`.
            idle: see `states`.
            canvas: [B, L].
        """
        if not self._use_kv_cache:
            return [None]
        read = ~idle
        if self._delayed is not None:
            first = self._delayed.next_pass(canvas == self._lm.mask_token_id, read)
            if read.all() and not first.any():
                return [None]  # which would read the rows that sit this pass out, too
            return self._grouped(first, np.full_like(first, self._length - 1), None, first == 0, read)
        rows, device = np.arange(len(block)), canvas.device
        first, last = self._spans.first[rows, block], self._spans.last[rows, block]
        entering = self._block != block
        self._age = np.where(read, np.where(entering, 0, self._age + 1), self._age)
        self._block = np.where(read, block, self._block)
        if self._exact:
            first, seen = np.where(entering, self._spans.entry[rows, block], first), last + 1
            sub_blocks = self._spans.sub_blocks
            if sub_blocks is not None:
                begin, end = sub_blocks.first[rows, block], sub_blocks.last[rows, block]
                whole = sub_blocks.never[rows, block] | (sub_blocks.fresh[rows, block] & (self._age == 0))
                if self._lm.logit_shift:  # nothing in the sub-block predicts its first token
                    opening = torch.from_numpy(begin).to(device)[:, None]
                    whole |= (canvas.gather(1, opening)[:, 0] == self._lm.mask_token_id).cpu().numpy()
                first, last = np.where(whole, first, begin), np.where(whole, last, end)
                entering = whole
            return self._grouped(first, last, seen, entering, read)
        whole = (
            self._age == 0
            if self._options.cache_refresh is None
            else self._age % self._options.cache_refresh == 0
        )
        if (whole & read).all():
            return [None]
        first, last = np.where(whole, 0, first), np.where(whole, self._length - 1, last)
        return self._grouped(first, last, None, whole, read)

    def _grouped(
        self,
        first: IntArray,
        last: IntArray,
        seen: IntArray | None,
        apart: NDArray[np.bool_],
        read: NDArray[np.bool_],
    ) -> list[HostSpan | None]:
        """Spans of columns of the rows to `read`; those that are `apart` are longer, so on their own.

        Of each row, its first so many columns are `seen` [R]; all of them where None.
        """
        groups: list[HostSpan | None] = []
        for chosen in (np.flatnonzero(read & apart), np.flatnonzero(read & ~apart)):
            if not len(chosen):
                continue
            everyone = len(chosen) == len(first)
            width = int((last - first)[chosen].max()) + 1
            if self._options.compile:
                # Few shapes: some columns go nowhere, and one row may be read (and written) several times.
                width = refresh_width(width, self._length)
                some = min(len(first), round_up_to_power_of_two(len(chosen)))
                chosen = np.pad(chosen, (0, some - len(chosen)), mode="edge")
            sight = self._sight(chosen, first, last, seen)
            groups.append(HostSpan(None if everyone else chosen, first[chosen], last[chosen], width, *sight))
        return groups

    def _sight(
        self, rows: IntArray, first: IntArray, last: IntArray, seen: IntArray | None
    ) -> tuple[int | None, bool]:
        """`RefreshSpan.seen` and `see_alike` of these rows; where compiled, a shape serves several blocks."""
        own = self._spans.own
        if seen is None or own is None:
            return None, False
        if self._options.compile:
            bucket = seen_bucket(int(seen[rows].max()), fused=self._options.compile is True)
            return (bucket if bucket < self._length else None), False
        in_one_block = own[rows, first[rows]] == own[rows, last[rows]]
        most = int(seen[rows].max())
        return most, bool((in_one_block & (seen[rows] == most)).all())

"""Rows that are ready to be written: their canvas, their layout and their blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.decoding.blocks import Blocks, check_lengths, find_blocks
from opendllm.core.decoding.decode_state import DecodeState, WholeCanvas
from opendllm.core.decoding.length_edits import room_to_grow
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.proposer import start_of
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.samplers import Sampler
from opendllm.registries.sequences import ModelInputs


@dataclass(frozen=True)
class PreparedRows:
    """R rows before their first step.

    Attributes:
        state: what is known of them.
        layout: as the model reads them.
        blocks: that they are written in.
        read_in: the blocks by which keys are kept.
    """

    state: DecodeState
    layout: ModelInputs
    blocks: Blocks
    read_in: Blocks

    @property
    def whole(self) -> WholeCanvas:
        """The canvas that they are."""
        state = self.state
        return WholeCanvas(
            state.tokens, state.real, state.editable, state.confidence, state.origin, state.committed_at
        )


def prepare_rows(
    lm: DiffusionLM,
    canvas: Tensor,
    real: Tensor,
    seeds: Tensor,
    sampler: Sampler,
    options: DecoderOptions,
    number: Tensor | None = None,
) -> PreparedRows:
    """Find what is to be written, and start it from noise where the model was trained on other than masks.

    Args:
        lm: the model.
        canvas: [R, L] int64.
        real: [R, L] bool, False on padding.
        seeds: [R] int64.
        sampler: may need room to grow.
        options: the decoder's.
        number: [R] int64, what the rows are called; by default 0, 1, 2...

    Raises:
        UserError: a row has no tokens or is longer than the model's context, or the block length is none of
            the checkpoint's.
    """
    room = check_lengths(lm, real, sampler.growth)
    canvas, real = room_to_grow(canvas, real, int(room.max()) if len(room) else 0)
    layout = inputs_from_mask(canvas, real)
    editable = (canvas == lm.mask_token_id) & real
    parts = find_blocks(lm, layout, editable, options.block_length)
    blocks = parts.as_one() if sampler.spans_blocks else parts
    if lm.noise.schedule is not None:
        start = start_of(lm.noise.schedule.build(), seeds, layout.positions, lm, "canvas")
        canvas = torch.where(editable, start, canvas)
    state = DecodeState(
        number=torch.arange(len(canvas), device=canvas.device) if number is None else number,
        tokens=canvas,
        real=real,
        editable=editable,
        block_of=blocks.of,
        part_of=parts.of,
        positions=layout.positions,
        confidence=torch.zeros(canvas.shape, dtype=torch.float32, device=canvas.device),
        memory=torch.full_like(canvas, -1),
        seeds=seeds,
        room=room,
        origin=torch.where(real, torch.arange(canvas.shape[1], device=canvas.device), -1),
        taken=torch.zeros_like(seeds),
        committed_at=torch.zeros_like(canvas),
    )
    return PreparedRows(state, layout, blocks, parts if options.cache == "delayed" else blocks)

"""The rows that are still being written, and the whole canvas that they are part of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from opendllm.core.decoding.length_edits import edited, within_room
from opendllm.core.toolkit.draws import stream_id, uniform
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.samplers import Selection, Step


@dataclass(frozen=True)
class DecodeState:
    """What is known of R rows; everything lies on the model's device.

    Attributes:
        number: [R] int64, which rows of the canvas they are.
        tokens: [R, L] int64.
        real: [R, L] bool, False on padding.
        editable: [R, L] bool.
        block_of: [R, L] int64, which block is active when each position is written; -1 where none is.
        part_of: [R, L] int64, see `Step.block`.
        positions: [R, L] int64, counting from 0 at a row's first real column.
        confidence: [R, L] float32, each committed position's when it was committed.
        memory: [R, L] int64, what the sampler wants to find at its next step.
        seeds: [R] int64.
        room: [R] int64, by how many positions each may still grow.
        origin: [R, L] int64, a number of its own for each position of a row, which it keeps where others are
            put in or taken out left of it; -1 on padding.
        taken: [R] int64, steps that each has taken.
        committed_at: [R, L] int64, at which of them, from 1, each position was written last; 0: never.
    """

    number: Tensor
    tokens: Tensor
    real: Tensor
    editable: Tensor
    block_of: Tensor
    part_of: Tensor
    positions: Tensor
    confidence: Tensor
    memory: Tensor
    seeds: Tensor
    room: Tensor
    origin: Tensor
    taken: Tensor
    committed_at: Tensor

    def select_rows(self, index: Tensor) -> DecodeState:
        """Only the rows in `index` [R'] int64."""
        return DecodeState(
            number=self.number[index],
            tokens=self.tokens[index],
            real=self.real[index],
            editable=self.editable[index],
            block_of=self.block_of[index],
            part_of=self.part_of[index],
            positions=self.positions[index],
            confidence=self.confidence[index],
            memory=self.memory[index],
            seeds=self.seeds[index],
            room=self.room[index],
            origin=self.origin[index],
            taken=self.taken[index],
            committed_at=self.committed_at[index],
        )

    def replace_rows(self, index: Tensor, others: DecodeState) -> DecodeState:
        """With other rows in place of those in `index` [R'] int64."""
        return DecodeState(
            **{name: value.index_copy(0, index, getattr(others, name)) for name, value in vars(self).items()}
        )

    def writing(self, tokens: Tensor, where: Tensor) -> DecodeState:
        """With `tokens` [R, L] at the positions `where` [R, L] bool, written at the step being taken."""
        return replace(
            self,
            tokens=torch.where(where, tokens, self.tokens),
            committed_at=torch.where(where, self.taken[:, None], self.committed_at),
        )

    def after(self, selection: Selection, step: Step, mask_token_id: int) -> DecodeState:
        """With a sampler's decision carried out; at a block's last step, nothing stays masked."""
        at_end = (step.index == step.steps - 1)[:, None]
        nothing = torch.zeros_like(step.masked)
        delete = nothing if selection.delete is None else selection.delete & step.editable
        commit = at_end if selection.commit is None else selection.commit | at_end
        commit = commit & step.masked & ~delete
        written = self.writing(step.tokens, commit)
        confidence = torch.where(commit, step.confidence, self.confidence)
        if selection.remask is not None:
            remask = selection.remask & step.editable & ~at_end
            written = replace(written, tokens=torch.where(remask, mask_token_id, written.tokens))
        if selection.overwrite is not None:
            where = selection.overwrite.where & step.editable
            # What is written over by the same token was settled before.
            written = written.writing(
                selection.overwrite.tokens, where & (selection.overwrite.tokens != written.tokens)
            )
            confidence = torch.where(where, step.confidence, confidence)
        memory = self.memory if selection.memory is None else selection.memory
        changed = replace(written, confidence=confidence, memory=memory)
        if selection.insert is None and selection.delete is None:
            return changed
        insert, inserted = nothing, torch.zeros_like(self.tokens)
        if selection.insert is not None:
            inserted = selection.insert
            wanted = self.real & (inserted >= 0) & ~(at_end & (inserted == mask_token_id))
            insert = within_room(wanted, self.room)
        return changed._edited(insert, inserted, delete)

    def _edited(self, insert: Tensor, inserted: Tensor, delete: Tensor) -> DecodeState:
        real = edited(self.real, insert, delete, True, False)
        tokens = edited(self.tokens, insert, delete, inserted, 0)
        fresh = self.origin.amax(-1, keepdim=True) + insert.long().cumsum(-1)
        put_in_at = self.taken[:, None].expand_as(self.tokens)
        return replace(
            self,
            tokens=tokens,
            real=real,
            editable=edited(self.editable, insert, delete, True, False),
            block_of=edited(self.block_of, insert, delete, 0, -1),
            part_of=edited(self.part_of, insert, delete, 0, -1),
            positions=inputs_from_mask(tokens, real).positions,
            confidence=edited(self.confidence, insert, delete, 0.0, 0.0),
            memory=edited(self.memory, insert, delete, -1, -1),
            room=self.room - insert.sum(-1),
            origin=edited(self.origin, insert, delete, fresh, -1),
            committed_at=edited(self.committed_at, insert, delete, put_in_at, 0),
        )


@dataclass(frozen=True)
class WholeCanvas:
    """All rows, those that are finished too.

    Attributes:
        tokens: [B, L] int64.
        real: [B, L] bool, False on padding.
        editable: [B, L] bool.
        confidence: [B, L] float32, see `DecodeState`.
        origin: [B, L] int64, see `DecodeState`.
        committed_at: [B, L] int64, see `DecodeState`.
    """

    tokens: Tensor
    real: Tensor
    editable: Tensor
    confidence: Tensor
    origin: Tensor
    committed_at: Tensor

    def with_rows(self, state: DecodeState) -> WholeCanvas:
        """This canvas, with some of its rows as `state` has them."""
        rows = (state.number,)
        return WholeCanvas(
            tokens=self.tokens.index_put(rows, state.tokens),
            real=self.real.index_put(rows, state.real),
            editable=self.editable.index_put(rows, state.editable),
            confidence=self.confidence.index_put(rows, state.confidence),
            origin=self.origin.index_put(rows, state.origin),
            committed_at=self.committed_at.index_put(rows, state.committed_at),
        )

    def snapshot(self) -> Snapshot:
        """As it stands."""
        return Snapshot(torch.where(self.real, self.tokens, -1), self.confidence, self.origin)


@dataclass(frozen=True)
class Snapshot:
    """The canvas between two steps.

    Attributes:
        tokens: [B, L] int64; -1 on padding.
        confidence: [B, L] float32, each committed position's when it was committed.
        origin: [B, L] int64, a number for each position that goes with it where rows grow and shrink.
    """

    tokens: Tensor
    confidence: Tensor
    origin: Tensor

    def first_columns(self, width: int) -> Snapshot:
        """Only the columns up to `width`."""
        return Snapshot(self.tokens[:, :width], self.confidence[:, :width], self.origin[:, :width])


@dataclass(frozen=True)
class StepDraws:
    """Implements `Draws` for the rows of one step.

    Attributes:
        seeds: [R] int64.
        numbers: [R] int64, of each row's step.
        positions: [R, L] int64.
    """

    seeds: Tensor
    numbers: Tensor
    positions: Tensor

    def uniform(self, stream: str) -> Tensor:
        """[R, L] float64, addressed by row seed, step and position."""
        return self.at(stream, slice(None), slice(None))

    def at(self, stream: str, rows: Tensor | slice, columns: Tensor | slice) -> Tensor:
        """The same at some positions only: [N] for index tensors."""
        positions = self.positions[rows, columns]
        seeds, numbers = self.seeds[rows], self.numbers[rows]
        if positions.ndim == 2:
            seeds, numbers = seeds[:, None], numbers[:, None]
        return uniform(seeds, stream_id(stream), numbers, positions)

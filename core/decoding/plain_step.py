"""What a step's rows have planned, and the parts of a step that `device_kernels` has another form of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opendllm.core.decoding.decode_state import DecodeState
from opendllm.core.decoding.plan import IntArray, PlannedSteps
from opendllm.core.decoding.proposals import Proposals


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


@dataclass(frozen=True)
class Beginning:
    """What a step begins with; see `Step`, whose attributes these are.

    Attributes:
        editable: [R, L] bool.
        masked: [R, L] bool.
        memory: [R, L] int64.
        tokens: [R, L] int64, masks.
        confidence: [R, L] float32, -inf.
    """

    editable: Tensor
    masked: Tensor
    memory: Tensor
    tokens: Tensor
    confidence: Tensor


def beginning(state: DecodeState, plan: StepPlan, mask_token_id: int) -> Beginning:
    """What the step of a plan begins with."""
    writable = in_block(state, plan.block) & plan.unfinished[:, None]
    return Beginning(
        editable=writable,
        masked=writable & (state.tokens == mask_token_id),
        memory=state.memory.masked_fill((plan.index == 0)[:, None], -1),
        tokens=torch.full_like(state.tokens, mask_token_id),
        confidence=torch.full_like(state.confidence, -torch.inf),
    )


def in_block(state: DecodeState, block: Tensor) -> Tensor:
    """[R, L] bool, the editable positions of the block [R] int64 that each row is at."""
    return state.editable & (state.block_of == block[:, None])


def asked_columns(wanted: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """([R, size] the columns that are wanted, [R] how many they are); beyond, the first one again.

    Args:
        wanted: [R, L] bool.
        size: columns at most.
    """
    # A sampler that leaves more masks than it planned is named in the end: here is no room for them.
    order = torch.where(wanted, (wanted.cumsum(-1) - 1).clamp(max=size), size)
    columns = torch.arange(wanted.shape[1], device=wanted.device).expand_as(wanted)
    first = wanted.to(torch.int8).argmax(-1, keepdim=True)
    found = first.repeat(1, size + 1).scatter(1, order, columns)
    return found[:, :size], wanted.sum(-1)


def spread_proposals(
    proposed: Proposals, columns: Tensor, count: Tensor, bad: Tensor, mask_token_id: int
) -> tuple[Tensor, Tensor]:
    """([R, L] tokens, [R, L] confidences) of proposals at some columns; masks and -inf elsewhere.

    Args:
        proposed: at each of R x size positions.
        columns: [R, size] int64.
        count: [R] int64, how many of a row's columns were asked for.
        bad: [R, L + 1] bool, true from now on where a proposal isn't finite.
        mask_token_id: of the mask.
    """
    rows, size = columns.shape
    length = bad.shape[1] - 1
    is_asked = torch.arange(size, device=count.device) < count[:, None]
    # What nobody asked for goes into a column of its own, beside the canvas.
    to = torch.where(is_asked, columns, length)
    bad.scatter_(1, to, bad.gather(1, to) | ~proposed.finite.view_as(to))

    def spread(values: Tensor, elsewhere: float) -> Tensor:
        like = torch.full((rows, length + 1), elsewhere, dtype=values.dtype, device=values.device)
        return like.scatter(1, to, values.view_as(to))[:, :length]

    return spread(proposed.tokens, mask_token_id), spread(proposed.confidence, -torch.inf)

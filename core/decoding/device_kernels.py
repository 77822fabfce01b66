"""What a step does beside reading by one kernel each, where steps are compiled for a GPU.

Each stands for a function of torch's, and has to give what that gives in a small case right before it is
used.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from opendllm.core.decoding.decode_state import DecodeState
from opendllm.core.decoding.plain_step import Beginning
from opendllm.core.decoding.proposals import Filters, Proposals
from opendllm.core.decoding.step_case import small_steps
from opendllm.core.foundation.notices import warn_once
from opendllm.registries.samplers import Confidence, Selection, Step

PROBABILITIES = ("probability", "model_probability", "tempered_probability")
"""Confidences that are one number at temperature 0, without filters."""
LOGITS_OF_PART = 8192
MOST_OF_A_ROW = 1024
"""Columns at once."""
MOST_POSITIONS = 1 << 14
"""That tokens are chosen for together."""


class DeviceKernels:
    """The kernels' launches, on the device of what they are given."""

    def __init__(self) -> None:
        """Import them.

        Raises:
            ImportError: there is no triton.
        """
        from opendllm.core.decoding import step_kernels

        self._kernels: Any = step_kernels
        self._counters: Tensor | None = None  # at one place for good: graphs read it

    def begin(
        self, state: DecodeState, plan: Tensor, done: Tensor, mask_token_id: int
    ) -> tuple[Tensor, Beginning]:
        """([R] bool the rows that aren't finished, what their step begins with), see `beginning`.

        Args:
            state: the rows.
            plan: [7, R] int64, see `StepPlan`.
            done: [R] int64, the blocks that are done.
            mask_token_id: of the mask.
        """
        tokens = state.tokens
        rows, length = tokens.shape
        unfinished = torch.empty(rows, dtype=torch.bool, device=tokens.device)
        begun = Beginning(
            torch.empty_like(state.editable),
            torch.empty_like(state.editable),
            torch.empty_like(tokens),
            torch.empty_like(tokens),
            torch.empty_like(state.confidence),
        )
        with torch.cuda.device_of(tokens):
            self._kernels.begin[(rows,)](
                _bytes(state.editable), state.block_of, tokens, state.memory, plan, done,
                _bytes(unfinished), _bytes(begun.editable), _bytes(begun.masked),
                begun.memory, begun.tokens, begun.confidence,
                rows, length, mask_token_id, _block(length),
            )  # fmt: skip
        return unfinished, begun

    def ask(self, wanted: Tensor, asked: Tensor, count: Tensor, size: int) -> None:
        """See `asked_columns`; into `asked` [R, size or more] and `count` [R] int64."""
        rows, length = wanted.shape
        with torch.cuda.device_of(wanted):
            self._kernels.ask[(rows,)](
                _bytes(wanted.contiguous()), asked, count, length, size, asked.stride(0), _block(length)
            )

    def spread(
        self, proposed: Proposals, columns: Tensor, count: Tensor, bad: Tensor, mask_token_id: int
    ) -> tuple[Tensor, Tensor]:
        """See `spread_proposals`."""
        rows, size = columns.shape
        length = bad.shape[1] - 1
        tokens = columns.new_empty(rows, length)
        confidence = proposed.confidence.new_empty(rows, length)
        with torch.cuda.device_of(columns):
            self._kernels.spread[(rows,)](
                columns, count, proposed.tokens, proposed.confidence, _bytes(proposed.finite), _bytes(bad),
                tokens, confidence, length, size, columns.stride(0), mask_token_id, _block(length),
            )  # fmt: skip
        return tokens, confidence

    def commit(
        self, state: DecodeState, plan: Tensor, unfinished: Tensor, step: Step, selection: Selection
    ) -> None:
        """Carry out a decision that only commits, into `state`; see `DecodeState.after`.

        Args:
            state: the rows, written over.
            plan: [7, R] int64, see `StepPlan`.
            unfinished: [R] bool.
            step: with proposals.
            selection: the decision.
        """
        assert selection.commit is not None
        rows, length = state.tokens.shape
        with torch.cuda.device_of(state.tokens):
            self._kernels.commit[(rows,)](
                _bytes(selection.commit.contiguous()), _bytes(step.masked.contiguous()),
                step.tokens.contiguous(), step.confidence.contiguous(), plan, _bytes(unfinished),
                state.tokens, state.confidence, state.taken, state.committed_at,
                rows, length, _block(length),
            )  # fmt: skip

    def choose(self, logits: Tensor, mask_token_id: int, suppressed: Tensor | None) -> Proposals:
        """What `propose` gives at temperature 0, without filters, with a probability for a confidence.

        Args:
            logits: [N, V] half precision, contiguous in V.
            mask_token_id: never proposed.
            suppressed: [V] bool, other tokens that are never proposed; None for none.
        """
        count, size = logits.shape
        parts = -(-size // LOGITS_OF_PART)
        if self._counters is None:
            self._counters = torch.zeros(MOST_POSITIONS, dtype=torch.int32, device=logits.device)
        numbers = logits.new_empty(2, count, parts, dtype=torch.float32)
        places = logits.new_empty(2, count, parts, dtype=torch.int32)
        tokens = logits.new_empty(count, dtype=torch.int64)
        confidence = logits.new_empty(count, dtype=torch.float32)
        finite = logits.new_empty(count, dtype=torch.bool)
        with torch.cuda.device_of(logits):
            self._kernels.choose[(count, parts)](
                logits, logits if suppressed is None else _bytes(suppressed),
                numbers[0], places[0], numbers[1], places[1], self._counters,
                tokens, confidence, _bytes(finite),
                size, logits.stride(0), mask_token_id, parts,
                suppressed is not None, 1 << (parts - 1).bit_length(), LOGITS_OF_PART, num_warps=8,
            )  # fmt: skip
        return Proposals(tokens, confidence, finite)


def only_commits(selection: Selection) -> bool:
    """Whether a decision does nothing else."""
    others = (name for name in vars(selection) if name != "commit")
    return selection.commit is not None and all(getattr(selection, name) is None for name in others)


def chooses(logits: Tensor, filters: Filters, confidence: Confidence | None) -> bool:
    """Whether `DeviceKernels.choose` gives what `propose` gives."""
    return (
        logits.dtype in (torch.float16, torch.bfloat16)
        and 0 < len(logits) <= MOST_POSITIONS
        and logits.stride(1) == 1
        and filters.temperature == 0
        and not filters.cut
        and confidence in PROBABILITIES
    )


def device_kernels(device: torch.device) -> DeviceKernels | None:
    """Those of a GPU, with counters of their own; None where they are not there, or wrong, which is said."""
    return DeviceKernels() if _serve(device) else None


@cache
def _serve(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    try:
        kernels = DeviceKernels()
    except ImportError:
        return False
    try:
        wrong = first_mistake(kernels, device)
    except Exception as error:
        wrong = f"{type(error).__name__}: {str(error)[:200]}"
    if wrong is not None:
        warn_once(f"kernels for steps are left out: {wrong}")
    return wrong is None


@torch.no_grad()
def first_mistake(kernels: DeviceKernels, device: torch.device) -> str | None:
    """Which kernel doesn't give what torch gives in a small case; None if all do."""
    for name, ours, wanted in small_steps(kernels, device):
        for own, other in zip(ours, wanted, strict=True):
            if own.dtype != other.dtype or not torch.allclose(own, other, rtol=1e-5, atol=0, equal_nan=True):
                return f"`{name}` doesn't give what torch gives"
    return None


def _block(length: int) -> int:
    return min(MOST_OF_A_ROW, max(16, 1 << (length - 1).bit_length()))


def _bytes(values: Tensor) -> Tensor:
    return values.view(torch.uint8)

"""What each step changed, from the canvases that the decoder kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from opendllm.core.decoding.decode_state import Snapshot
from opendllm.core.foundation.decoding_traces import RowTrace, TraceStep, WrittenToken


@dataclass(frozen=True)
class RowCanvas:
    """A row without its padding: of each position the token, its confidence, and what it is told apart by."""

    tokens: list[int]
    confidence: list[float]
    origin: list[int]


@dataclass(frozen=True)
class CanvasLists:
    """A snapshot on the CPU."""

    tokens: list[list[int]]
    confidence: list[list[float]]
    origin: list[list[int]]

    @classmethod
    def of(cls, snapshot: Snapshot) -> CanvasLists:
        """Fetch it once for all rows."""
        return cls(snapshot.tokens.tolist(), snapshot.confidence.tolist(), snapshot.origin.tolist())

    def row(self, number: int) -> RowCanvas:
        """One row."""
        real = [column for column, token in enumerate(self.tokens[number]) if token >= 0]
        return RowCanvas(
            [self.tokens[number][column] for column in real],
            [self.confidence[number][column] for column in real],
            [self.origin[number][column] for column in real],
        )


def row_trace(canvases: Sequence[RowCanvas], editable: frozenset[int], mask_token_id: int) -> RowTrace:
    """The changes between a row's canvases.

    Args:
        canvases: before the first and after every step.
        editable: the origins of the positions that are to be written and are there in the end.
        mask_token_id: of the model.
    """
    first, last = canvases[0], canvases[-1]
    kept = set(last.origin)
    return RowTrace(
        start=tuple(first.tokens),
        editable=tuple(
            column for column, origin in enumerate(first.origin) if origin in editable or origin not in kept
        ),
        steps=tuple(
            step_between(before, after, mask_token_id) for before, after in itertools.pairwise(canvases)
        ),
    )


def step_between(before: RowCanvas, after: RowCanvas, mask: int) -> TraceStep:
    """What changed from one canvas to the next; `mask` is the model's mask id."""
    there, stays = dict(zip(before.origin, before.tokens, strict=True)), set(after.origin)
    commit: list[WrittenToken] = []
    edit: list[WrittenToken] = []
    insert: list[WrittenToken] = []
    remask: list[int] = []
    for column, (token, confidence, origin) in enumerate(
        zip(after.tokens, after.confidence, after.origin, strict=True)
    ):
        stated = confidence if math.isfinite(confidence) and token != mask else None
        written = (column, token, stated)
        if origin not in there:
            insert.append(written)
        elif token == there[origin]:
            continue
        elif token == mask:
            remask.append(column)
        else:
            (commit if there[origin] == mask else edit).append(written)
    delete = tuple(column for column, origin in enumerate(before.origin) if origin not in stays)
    return TraceStep(tuple(commit), tuple(edit), tuple(remask), tuple(insert), delete)


def spellings(decode: Callable[[list[int]], str], tokens: Iterable[int]) -> dict[int, str]:
    """How each token is spelt in the middle of a text: some tokenizers drop the space that begins one.

    Args:
        decode: the tokenizer's.
        tokens: ids.
    """
    found = {}
    for token in sorted(set(tokens)):
        alone, twice = decode([token]), decode([token, token])
        found[token] = twice[len(alone) :] if twice.startswith(alone) and len(twice) > len(alone) else alone
    return found

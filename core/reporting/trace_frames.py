"""A trace's canvases one after the other, for whoever draws them outside a browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from opendllm.core.foundation.decoding_traces import DecodingTrace, TraceStep

Change = Literal["commit", "edit", "remask", "insert"]


@dataclass(frozen=True)
class CanvasCell:
    """A position of the canvas.

    Attributes:
        token: its id.
        editable: whether it is to be written.
        step: that wrote it; 0 of what was there before the first.
        confidence: with which it was written, where that is stated.
        change: what the step just taken did to it.
        gone: how many positions that step took out left of it; of the last one, right of it too.
    """

    token: int
    editable: bool
    step: int = 0
    confidence: float | None = None
    change: Change | None = None
    gone: int = 0


def canvases(trace: DecodingTrace) -> Iterator[list[CanvasCell]]:
    """The canvas before the first and after every step."""
    editable = frozenset(trace.row.editable)
    cells = [CanvasCell(token, column in editable) for column, token in enumerate(trace.row.start)]
    yield cells
    for number, step in enumerate(trace.row.steps, start=1):
        cells = _after(cells, step, number, trace.mask_token_id)
        yield cells


def _after(cells: list[CanvasCell], step: TraceStep, number: int, mask: int) -> list[CanvasCell]:
    deleted, gone = frozenset(step.delete), 0
    kept: list[CanvasCell] = []
    for column, cell in enumerate(cells):
        if column in deleted:
            gone += 1
        else:
            kept.append(replace(cell, change=None, gone=gone))
            gone = 0
    if gone and kept:
        kept[-1] = replace(kept[-1], gone=kept[-1].gone + gone)
    for column, token, confidence in step.insert:
        kept.insert(column, CanvasCell(token, True, number, confidence, "insert"))
    changes: tuple[tuple[Change, tuple[tuple[int, int, float | None], ...]], ...] = (
        ("commit", step.commit),
        ("edit", step.edit),
    )
    for change, written in changes:
        for column, token, confidence in written:
            kept[column] = CanvasCell(token, True, number, confidence, change, kept[column].gone)
    for column in step.remask:
        kept[column] = CanvasCell(mask, True, kept[column].step, None, "remask", kept[column].gone)
    return kept

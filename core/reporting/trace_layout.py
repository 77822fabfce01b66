"""A trace's canvas as characters on a grid, and which of its lines are shown when there are too many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opendllm.core.foundation.decoding_traces import DecodingTrace
from opendllm.core.foundation.visible_text import visible
from opendllm.core.reporting.trace_frames import CanvasCell

COLUMNS, LINES_LEFT_OF_THE_GAP, MOST_LINES = 46, 6, 30
MOST_CROSSES = 3
MASK = "▒"
GONE = "×"


@dataclass(frozen=True)
class Drawn:
    """A character on the grid, and the cell that it belongs to; `GONE` of one before which others were."""

    line: int
    column: int
    text: str
    cell: CanvasCell
    is_gone: bool = False


@dataclass(frozen=True)
class Laid:
    """A canvas on the grid.

    Attributes:
        drawn: its characters, in their order.
        lines: how many there are.
        first: the line in which the first position stands that is written.
    """

    drawn: Sequence[Drawn]
    lines: int
    first: int

    @property
    def changes(self) -> list[int]:
        """The line of every character that the step just taken changed."""
        return [each.line for each in self.drawn if each.cell.change is not None or each.is_gone]


@dataclass(frozen=True)
class Window:
    """The lines that are shown, from `top` up to `end`."""

    top: int
    end: int


def lay_out(trace: DecodingTrace, cells: Sequence[CanvasCell]) -> Laid:
    """Each position as it is spelt; one that is written and spelt as nothing takes a place all the same."""
    line = column = 0
    found: list[Drawn] = []
    for cell in cells:
        crosses = GONE * min(cell.gone, MOST_CROSSES)
        mask = cell.token == trace.mask_token_id
        text = MASK if mask else visible(trace.vocabulary[cell.token]).replace("\t", "    ")
        for index, character in enumerate(crosses + (text or (" " if cell.editable else ""))):
            if column >= COLUMNS:
                line, column = line + 1, 0
            found.append(Drawn(line, column, character, cell, index < len(crosses)))
            column += 1
            if character == "\n":
                line, column = line + 1, 0
    first = next((drawn.line for drawn in found if drawn.cell.editable), 0)
    return Laid(found, found[-1].line + 1 if found else 1, first)


def windows(canvases: Sequence[Laid]) -> list[Window]:
    """What is shown of each canvas, one after the other: it begins some lines left of the gap, and moves
    where that shows more than twice as much of what a step has changed.
    """
    top = max(0, canvases[0].first - LINES_LEFT_OF_THE_GAP) if canvases else 0
    found = []
    for laid in canvases:
        last_top = max(0, laid.lines - MOST_LINES)
        top = min(top, max(last_top, laid.first - LINES_LEFT_OF_THE_GAP))
        changes = laid.changes

        def shown(start: int, changes: Sequence[int] = changes) -> int:
            return sum(start <= line < start + MOST_LINES for line in changes)

        # The best window begins, or ends, at a line with a change.
        starts = {min(last_top, max(0, at)) for line in changes for at in (line, line - MOST_LINES + 1)}
        best = max(starts, key=lambda start: (shown(start), -abs(start - top)), default=top)
        if shown(best) > 2 * shown(top):
            top = best
        found.append(Window(top, min(laid.lines, top + MOST_LINES)))
    return found

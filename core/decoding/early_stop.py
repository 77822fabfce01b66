"""When the rest of a row can't change its text any more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def settled_tails(
    tokens: Tensor, editable: Tensor, unsettled: Tensor, stop_token_ids: Sequence[int]
) -> Tensor:
    """[B, L] bool: editable positions right of a stop id that nothing unsettled precedes in its gap.

    Args:
        tokens: [B, L] int64, the canvas.
        editable: [B, L] bool; a gap is a run of editable positions.
        unsettled: [B, L] bool, editable positions that may still change.
        stop_token_ids: where a gap's text ends; at least one.
    """
    starts = editable.clone()
    starts[:, 1:] &= ~editable[:, :-1]
    columns = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    gap_start = torch.where(starts, columns, 0).cummax(-1).values
    open_so_far = unsettled.long().cumsum(-1)
    before_gap = open_so_far.gather(1, gap_start) - unsettled.gather(1, gap_start).long()
    nothing_open = open_so_far == before_gap
    stops = torch.stack([tokens == stop for stop in stop_token_ids]).any(0)
    ends = editable & stops & nothing_open
    last_end = torch.where(ends, columns, -1).cummax(-1).values
    return editable & (last_end >= gap_start) & (columns > last_end)

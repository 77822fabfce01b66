"""The decoding loop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from opendllm.core.decoding.blocks import check_lengths, find_blocks
from opendllm.core.decoding.cached_forward import CachedForward
from opendllm.core.decoding.decode_state import DecodeState, StepDraws
from opendllm.core.decoding.early_stop import settled_tails
from opendllm.core.decoding.length_edits import room_to_grow
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plan import Plan
from opendllm.core.decoding.proposer import Proposer
from opendllm.core.decoding.step_cursor import StepCursor
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import DiffusionLM, TokenPositions
from opendllm.registries.errors import UserError
from opendllm.registries.samplers import Sampler, SpecialTokens, Step


@dataclass(frozen=True)
class Decoded:
    """What the decoder wrote.

    Attributes:
        tokens: [B, L'] int64, the whole canvas; no mask remains. L' differs from the canvas's L only
            for a sampler that edits lengths.
        forward_passes: [B] int64, how many a row took part in.
        real: [B, L'] bool, False on padding.
        written: [B, L'] bool, the positions that were masks, or grew from one.
        trace: the canvas [B, L''] before the first and after every step, where asked for; -1 on padding.
            Rows that shrink may have been longer than they are in the end: all have the longest one's L''.
    """

    tokens: Tensor
    forward_passes: Tensor
    real: Tensor
    written: Tensor
    trace: list[Tensor] = field(repr=False)


@torch.no_grad()
def decode(
    lm: DiffusionLM,
    canvas: Tensor,
    attention_mask: Tensor | None,
    sampler: Sampler,
    options: DecoderOptions,
    seeds: Tensor,
    keep_trace: bool = False,
) -> Decoded:
    """Fill the masks of each row.

    A row's result depends on its own tokens and seed only, not on its padding or batch-mates. A
    causal checkpoint writes its masks one by one from left to right whatever the sampler, a
    block-causal one in its own blocks; both keep the keys of what is settled, which changes nothing.

    Args:
        lm: the model.
        canvas: [B, L] int64; every mask token that isn't padding is to be written.
        attention_mask: [B, L], zero on padding; None where there is none.
        sampler: decides which positions are committed.
        options: the decoder's.
        seeds: [B] int64.
        keep_trace: record every canvas.

    Raises:
        UserError: a row has no tokens or is longer than the model's context, an option doesn't go
            with the checkpoint, or a logit is not finite.
    """
    _check_options(lm, sampler, options)
    given_length = canvas.shape[1]
    real = torch.ones_like(canvas).bool() if attention_mask is None else attention_mask.bool()
    room = check_lengths(lm, real, sampler.growth)
    canvas, real = room_to_grow(canvas, real, int(room.max()) if len(room) else 0)
    layout = inputs_from_mask(canvas, real)
    editable = (canvas == lm.mask_token_id) & real
    blocks = find_blocks(lm, layout, editable, options.block_length)
    progress = StepCursor(Plan(blocks.sizes, options.steps, sampler), len(canvas))
    reading = CachedForward(lm, layout, blocks, options)
    proposer = Proposer(lm, sampler, options)
    whole = DecodeState(
        number=torch.arange(len(canvas), device=canvas.device),
        tokens=canvas,
        real=real,
        editable=editable,
        block_of=blocks.of,
        positions=layout.positions,
        confidence=torch.zeros(canvas.shape, device=canvas.device),
        seeds=seeds,
        room=room,
    )
    rows = whole
    trace = [_snapshot(whole)] if keep_trace else []
    while True:
        kept = progress.drop_finished() if not options.compile else None
        if kept is not None:
            index = torch.from_numpy(kept).to(canvas.device)
            whole, rows = whole.with_rows(rows), rows.keep(index)
            reading.keep(kept, index)
        if not progress.unfinished.any():
            break
        rows = _take_step(rows, progress, reading, proposer, sampler, options)
        if sampler.edits_length:
            reading.relayout(inputs_from_mask(rows.tokens, rows.real))
        if keep_trace:
            trace.append(_snapshot(whole.with_rows(rows)))
    proposer.raise_if_not_finite()
    whole = whole.with_rows(rows)
    used = max(given_length, _width(whole.real))
    longest = max((_width(snapshot >= 0) for snapshot in trace), default=0)
    return Decoded(
        whole.tokens[:, :used],
        torch.from_numpy(progress.forward_passes),
        whole.real[:, :used],
        whole.editable[:, :used],
        [snapshot[:, : max(given_length, longest)] for snapshot in trace],
    )


def _take_step(
    rows: DecodeState,
    progress: StepCursor,
    reading: CachedForward,
    proposer: Proposer,
    sampler: Sampler,
    options: DecoderOptions,
) -> DecodeState:
    """One step of every row; `progress` goes on to the next."""
    special, device = proposer.special, rows.tokens.device
    now = progress.now()
    index, steps, target, number, block = (
        torch.from_numpy(now[name]).to(device) for name in ("index", "steps", "target", "number", "block")
    )
    alive = progress.unfinished
    in_block = rows.editable & (rows.block_of == block[:, None]) & torch.from_numpy(alive).to(device)[:, None]
    masked = in_block & (rows.tokens == special.mask)
    draws, last = StepDraws(rows.seeds, number, rows.positions), index == steps - 1
    step = Step(
        masked=masked,
        editable=in_block,
        tokens=torch.full_like(rows.tokens, special.mask),
        confidence=torch.full_like(rows.confidence, -torch.inf),
        committed_confidence=rows.confidence,
        index=index,
        steps=steps,
        target=target,
        alg_temp=options.alg_temp,
        special=special,
        draws=draws,
    )
    selection = sampler.select(step) if sampler.decides_first else None
    if selection is not None:
        wanted = masked & (selection.commit | last[:, None])
        count = wanted.sum(-1).cpu().numpy()
    else:
        wanted, count = (masked, now["masks"]) if sampler.proposes == "masked" else (in_block, now["size"])
    at = _positions_of(wanted, int(count[alive].sum()))
    idle = ~alive | (count == 0)
    proposed = proposer.propose(rows, reading, at, now["block"], idle, draws, last)
    progress.count_passes(2 if options.guidance_scale > 0 else 1, ~idle)
    step = replace(
        step,
        tokens=_spread(proposed.tokens, at, wanted, special.mask),
        confidence=_spread(proposed.confidence, at, wanted, -torch.inf),
    )
    rows = rows.after(sampler.select(step) if selection is None else selection, step, special.mask)
    stopped = masks = None
    if options.early_stop:
        rows, settled = _stop_where_settled(rows, special)
        stopped = settled.cpu().numpy()
    if selection is not None and selection.remask is None:
        masks = now["masks"] - count
    elif sampler.remaining_masks(1, 1) is None:
        # Only the device knows how many masks are left: the step's one wait for it.
        left = rows.editable & (rows.tokens == special.mask) & (rows.block_of == block[:, None])
        masks = left.sum(-1).cpu().numpy()
    progress.advance(masks, not sampler.revises, stopped)
    return rows


def _positions_of(wanted: Tensor, count: int) -> TokenPositions:
    """The true positions of `wanted` [R, L], of which there are `count`, in row-major order."""
    if wanted.is_cuda:
        found = wanted.nonzero_static(size=count)  # doesn't wait for the GPU to count them
        return TokenPositions(found[:, 0], found[:, 1])
    return TokenPositions(*wanted.nonzero(as_tuple=True))


def _spread(values: Tensor, at: TokenPositions, like: Tensor, elsewhere: float) -> Tensor:
    """[R, L] with `values` [N] at their positions."""
    canvas = torch.full(like.shape, elsewhere, dtype=values.dtype, device=values.device)
    canvas[at.rows, at.columns] = values
    return canvas


def _stop_where_settled(rows: DecodeState, special: SpecialTokens) -> tuple[DecodeState, Tensor]:
    """Rows of which only settled tails are left become EOS there; and [R] bool, which they are."""
    assert special.eos is not None
    tails = settled_tails(rows.tokens, rows.editable, special.mask, special.eos)
    settled = ~(rows.editable & (rows.tokens == special.mask) & ~tails).any(-1)
    tokens = torch.where(tails & settled[:, None], special.eos, rows.tokens)
    return replace(rows, tokens=tokens), settled


def _width(real: Tensor) -> int:
    """How many columns `real` [B, L] bool has up to the last true one."""
    return int(real.any(0).long().cumsum(0).argmax()) + 1


def _snapshot(rows: DecodeState) -> Tensor:
    return torch.where(rows.real, rows.tokens, -1)


def _check_options(lm: DiffusionLM, sampler: Sampler, options: DecoderOptions) -> None:
    if lm.attention.kind != "bidirectional":
        if options.cache != "none":
            raise UserError(
                f"cache has no effect with a {lm.attention.kind} checkpoint, whose cache is exact and always "
                f"on: leave it out"
            )
        if sampler.edits_length:
            raise UserError(
                f"this sampler needs a bidirectional checkpoint, and this is a {lm.attention.kind} one"
            )
    if options.early_stop and lm.eos_token_id is None:
        raise UserError("early_stop needs an EOS token, and this checkpoint has none")

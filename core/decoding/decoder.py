"""The decoding loop."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from opendllm.core.decoding.blocks import check_lengths, find_blocks
from opendllm.core.decoding.cached_forward import CachedForward, readers_of
from opendllm.core.decoding.decode_state import DecodeState, Snapshot, WholeCanvas
from opendllm.core.decoding.fixed_step import fixed_step
from opendllm.core.decoding.length_edits import room_to_grow
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plan import IntArray, Plan
from opendllm.core.decoding.proposer import Proposer, start_of
from opendllm.core.decoding.selection_checks import checked_selection
from opendllm.core.decoding.step_cursor import StepCursor
from opendllm.core.decoding.step_parts import (
    StepPlan,
    begin_step,
    carry_out,
    counts_masks,
    masks_left,
    positions_to_ask,
)
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import DiffusionLM, TokenPositions
from opendllm.registries.errors import UserError
from opendllm.registries.plugin_calls import wrong_answer
from opendllm.registries.samplers import Sampler, Selection


@dataclass(frozen=True)
class Decoded:
    """What the decoder wrote.

    Attributes:
        tokens: [B, L'] int64, the whole canvas; no mask remains. L' differs from the canvas's L only
            for a sampler that edits lengths.
        forward_passes: [B] int64, how many a row took part in.
        real: [B, L'] bool, False on padding.
        written: [B, L'] bool, the positions that were masks, or were put in.
        snapshots: what `trace` is made of, with all that is known of each position.
        origin: [B, L'] int64, which position of the snapshots each is in the end.
    """

    tokens: Tensor
    forward_passes: Tensor
    real: Tensor
    written: Tensor
    snapshots: list[Snapshot] = field(repr=False)
    origin: Tensor = field(repr=False)

    @property
    def trace(self) -> list[Tensor]:
        """The canvas [B, L''] before the first and after every step, where asked for; -1 on padding.

        Rows that shrink may have been longer than they are in the end: all have the longest one's L''.
        """
        return [snapshot.tokens for snapshot in self.snapshots]


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

    Where the model was trained on other noise, the canvas starts from that: each mask gives way to what noise
    alone puts there, for uniform noise to a token drawn from the whole vocabulary.

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
            with the checkpoint, a logit is not finite, or the sampler's decision isn't one.
    """
    _check_options(lm, sampler, options)
    given_length = canvas.shape[1]
    real = torch.ones_like(canvas).bool() if attention_mask is None else attention_mask.bool()
    room = check_lengths(lm, real, sampler.growth)
    canvas, real = room_to_grow(canvas, real, int(room.max()) if len(room) else 0)
    layout = inputs_from_mask(canvas, real)
    editable = (canvas == lm.mask_token_id) & real
    blocks = find_blocks(lm, layout, editable, options.block_length)
    written = blocks.as_one() if sampler.spans_blocks else blocks
    cursor = StepCursor(Plan(written.sizes, options.steps, sampler), len(canvas))
    proposer = Proposer(lm, sampler, options)
    if proposer.noise_schedule is not None:
        start = start_of(proposer.noise_schedule, seeds, layout.positions, lm, "canvas")
        canvas = torch.where(editable, start, canvas)
    confidence = torch.zeros(canvas.shape, device=canvas.device)
    origin = torch.where(real, torch.arange(canvas.shape[1], device=canvas.device), -1)
    whole = WholeCanvas(canvas, real, editable, confidence, origin)
    state = DecodeState(
        number=torch.arange(len(canvas), device=canvas.device),
        tokens=canvas,
        real=real,
        editable=editable,
        block_of=written.of,
        part_of=blocks.of,
        positions=layout.positions,
        confidence=confidence,
        memory=torch.full_like(canvas, -1),
        seeds=seeds,
        room=room,
        origin=origin,
    )
    trace = [whole.snapshot()] if keep_trace else []
    fixed = None
    if options.compile and not sampler.edits_length:
        fixed = fixed_step(lm, state, layout, sampler, options)
        state = fixed.state
    readers = readers_of(lm, layout, options) if fixed is None else fixed.readers
    forward = CachedForward(lm, layout, blocks if options.cache == "delayed" else written, options, readers)
    while True:
        kept = cursor.drop_finished() if not options.compile else None
        if kept is not None:
            index = torch.from_numpy(kept).to(canvas.device)
            whole, state = whole.with_rows(state), state.select_rows(index)
            forward.select_rows(kept, index)
        if not cursor.unfinished.any():
            break
        if fixed is not None:
            fixed.take(cursor, forward)
        else:
            state = _take_step(state, cursor, proposer, forward, sampler, options)
        if sampler.edits_length:
            forward.relayout(inputs_from_mask(state.tokens, state.real))
        if keep_trace:
            trace.append(whole.with_rows(state).snapshot())
    (proposer if fixed is None else fixed).raise_if_not_finite()
    whole = whole.with_rows(state)
    if sampler.revises or fixed is not None:
        _check_written(whole, lm.mask_token_id, sampler)
    used = max(given_length, _width(whole.real))
    longest = max((_width(snapshot.tokens >= 0) for snapshot in trace), default=0)
    return Decoded(
        whole.tokens[:, :used],
        torch.from_numpy(cursor.forward_passes),
        whole.real[:, :used],
        whole.editable[:, :used],
        [snapshot.first_columns(max(given_length, longest)) for snapshot in trace],
        whole.origin[:, :used],
    )


def _take_step(
    state: DecodeState,
    cursor: StepCursor,
    proposer: Proposer,
    forward: CachedForward,
    sampler: Sampler,
    options: DecoderOptions,
) -> DecodeState:
    """One step of every row; `cursor` goes on to the next."""
    special, device = proposer.special, state.tokens.device

    # 1. Where each row is in its plan; what the sampler sees of it before the model is asked.
    planned, unfinished = cursor.current_steps(), cursor.unfinished
    packed = StepPlan.packed(planned, unfinished, options.block_length or proposer.block_length)
    plan = StepPlan.unpacked(torch.from_numpy(packed).to(device, non_blocking=True))
    draws, step = begin_step(state, plan, proposer, options)
    forward.tell_time(proposer.told_time(sampler.times(step.index, step.steps), state))

    # 2. The positions that the model is asked at: those already chosen, those masked, or all editable ones.
    chosen: Selection | None = None
    if sampler.decides_first:
        chosen = checked_selection(sampler.select(step), sampler, state.tokens)
        commit = plan.last[:, None] if chosen.commit is None else chosen.commit | plan.last[:, None]
        wanted = step.masked & commit
        count = wanted.sum(-1).cpu().numpy()
    else:
        wanted = positions_to_ask(sampler, step)
        if sampler.edits_length or sampler.proposes == "asked":
            count = wanted.sum(-1).cpu().numpy()
        else:
            count = planned.masks if sampler.proposes == "masked" else planned.size
    at = _positions_of(wanted, int(count[unfinished].sum()))

    # 3. The model's proposals there, or its distributions for a sampler that draws itself.
    idle = ~unfinished | (count == 0)
    cursor.count_passes(2 if options.guidance_scale > 0 else 1, ~idle)
    if len(at.rows):
        hidden = forward.states(proposer.canvases(state), at, planned.block, idle)
        step = proposer.answer(step, hidden, state, at, draws)
    elif sampler.needs_distributions:
        chosen = Selection()  # nothing is left to read, nor to decide

    # 4. The sampler's decision, carried out.
    selection = chosen or checked_selection(sampler.select(step), sampler, state.tokens)
    outcome = carry_out(state, plan, step, selection, sampler, options, special)

    # 5. How many masks each row's block has left, where that matters and the plan doesn't say; on to the
    #    next step.
    stopped = None if outcome.stopped is None else outcome.stopped.cpu().numpy()
    finished = None if outcome.finished is None else outcome.finished.cpu().numpy()
    masks: IntArray | None = None
    if chosen is not None and chosen.remask is None and chosen.overwrite is None:
        masks = planned.masks - count
    elif counts_masks(sampler):
        # Only the device knows: the step's one wait for it.
        masks = masks_left(outcome.state, plan, special.mask).cpu().numpy()
    if masks is not None and not sampler.revises and not sampler.finishes:
        finished = masks == 0
    cursor.advance(masks, finished, stopped)
    return outcome.state


def _positions_of(wanted: Tensor, count: int) -> TokenPositions:
    """The true positions of `wanted` [R, L], of which there are `count`, in row-major order."""
    if wanted.is_cuda:
        found = wanted.nonzero_static(size=count)  # doesn't wait for the GPU to count them
        return TokenPositions(found[:, 0], found[:, 1])
    return TokenPositions(*wanted.nonzero(as_tuple=True))


def _check_written(whole: WholeCanvas, mask_token_id: int, sampler: Sampler) -> None:
    """A sampler that revises may leave masks behind.

    Raises:
        UserError: it did.
    """
    left = int((whole.editable & (whole.tokens == mask_token_id)).sum())
    if left:
        issue = (
            f"left {left} masks: at a block's last step, where index is steps - 1, or where it says that a "
            f"block is finished, it has to write every editable position"
        )
        raise wrong_answer(sampler, "sampler", "select", issue)


def _width(real: Tensor) -> int:
    """How many columns `real` [B, L] bool has up to the last true one."""
    return int(real.any(0).long().cumsum(0).argmax()) + 1


def _check_options(lm: DiffusionLM, sampler: Sampler, options: DecoderOptions) -> None:
    if lm.attention.kind != "bidirectional":
        sub_blocks = lm.attention.block_length is not None and options.block_length is not None
        if options.cache != "none" and not (sub_blocks and options.cache == "dual"):
            raise UserError(
                f"cache has no effect with a {lm.attention.kind} checkpoint, whose cache is exact and always "
                f"on: leave it out (or, with block_length for sub-blocks, take dual)"
            )
        if sub_blocks and options.cache_refresh is not None:
            raise UserError("cache_refresh has no effect with a block-causal checkpoint: leave it out")
        if sampler.edits_length or sampler.spans_blocks:
            raise UserError(
                f"this sampler needs a bidirectional checkpoint, and this is a {lm.attention.kind} one"
            )
    if options.cache == "delayed" and sampler.revises and not sampler.spans_blocks:
        raise UserError(
            "cache: delayed keeps the keys of blocks without a mask, and this sampler changes such blocks: "
            "take prefix or dual"
        )
    if lm.noise.time_conditioning and (options.cache != "none" or options.compile):
        raise UserError(
            "cache and compile have no effect with a model that is told the time, which changes all keys: "
            "leave them out"
        )
    if options.compile == "graphs" and not next(lm.module.parameters()).is_cuda:
        raise UserError("compile: graphs needs a GPU: leave it out")
    if options.early_stop and not lm.stops:
        raise UserError("early_stop needs an EOS token, and this checkpoint has none")

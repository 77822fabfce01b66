"""The decoding loop."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import compress

import torch
from torch import Tensor

from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plan import PlannedStep, plan_row
from opendllm.core.decoding.proposals import LogitProposals
from opendllm.core.toolkit.draws import stream_id, uniform
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.errors import UserError
from opendllm.registries.samplers import Sampler, Selection, Step
from opendllm.registries.sequences import PADDING_SEGMENT, ModelInputs


@dataclass(frozen=True)
class Decoded:
    """What the decoder wrote.

    Attributes:
        tokens: [B, L] int64, the whole canvas; no mask remains.
        forward_passes: [B] int64, how many a row took part in.
        trace: the canvas [B, L] before the first and after every step, where asked for.
    """

    tokens: Tensor
    forward_passes: Tensor
    trace: list[Tensor] = field(repr=False)


@dataclass(frozen=True)
class StepDraws:
    """Implements `Draws` for the rows of one step."""

    seeds: Tensor
    numbers: Tensor
    positions: Tensor

    def uniform(self, stream: str) -> Tensor:
        """[B, L] float64, addressed by row seed, step and position."""
        return uniform(self.seeds[:, None], stream_id(stream), self.numbers[:, None], self.positions)


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
    block-causal one in its own blocks.

    Args:
        lm: the model.
        canvas: [B, L] int64; every mask token that isn't padding is to be written.
        attention_mask: [B, L], zero on padding; None where there is none.
        sampler: decides which positions are committed.
        options: the decoder's.
        seeds: [B] int64.
        keep_trace: record every canvas.

    Raises:
        UserError: a row has no tokens or is longer than the model's context, blocks are asked for
            of a checkpoint that has its own, or a logit is not finite.
    """
    layout = inputs_from_mask(canvas, attention_mask)
    _check_layout(lm, layout)
    editable = (canvas == lm.mask_token_id) & (layout.segments != PADDING_SEGMENT)
    block_of = _block_numbers(lm, layout, editable, options.block_length)
    sizes = _block_sizes(block_of, editable)
    plans = {row_sizes: plan_row(row_sizes, options.steps, sampler) for row_sizes in set(sizes)}
    pending = {row: plans[row_sizes] for row, row_sizes in enumerate(sizes) if row_sizes}
    canvas = canvas.clone()
    forward_passes = torch.zeros(canvas.shape[0], dtype=torch.int64)
    trace = [canvas.clone()] if keep_trace else []
    while pending:
        rows = torch.tensor(list(pending), device=canvas.device)
        now = [plan[0] for plan in pending.values()]
        active = layout.rows(rows).with_tokens(canvas[rows])
        in_block = editable[rows] & (block_of[rows] == _column(now, "block", canvas.device)[:, None])
        masked = in_block & (active.tokens == lm.mask_token_id)
        draws = StepDraws(seeds[rows], _column(now, "number", canvas.device), active.positions)
        wanted = masked if sampler.proposes == "masked" else in_block
        logits = _logits(lm, active, editable[rows], wanted, options)
        _check_finite(logits, wanted, rows)
        proposals = LogitProposals(
            logits,
            wanted,
            draws.uniform("token")[wanted],
            lm.mask_token_id,
            options.temperature,
            options.top_p,
            options.top_k,
        )
        step = Step(
            masked=masked,
            editable=in_block,
            proposals=proposals,
            index=_column(now, "index", canvas.device),
            steps=_column(now, "steps", canvas.device),
            target=_column(now, "target", canvas.device),
            alg_temp=options.alg_temp,
            draws=draws,
        )
        canvas[rows], still_masked = _apply(sampler.select(step), step, active.tokens, lm.mask_token_id)
        forward_passes[list(pending)] += 2 if options.guidance_scale > 0 else 1
        if keep_trace:
            trace.append(canvas.clone())
        pending = _advance(pending, sampler, still_masked)
    return Decoded(canvas, forward_passes, trace)


def _logits(
    lm: DiffusionLM, active: ModelInputs, editable: Tensor, wanted: Tensor, options: DecoderOptions
) -> Tensor:
    """[N, V] float32, at the true positions of `wanted`, guided away from the masked prompt."""
    logits = lm.project(lm.hidden_states(active)[wanted]).float()
    if options.guidance_scale > 0:
        fixed = ~editable & (active.segments != PADDING_SEGMENT)
        unconditional = active.with_tokens(torch.where(fixed, lm.mask_token_id, active.tokens))
        without = lm.project(lm.hidden_states(unconditional)[wanted]).float()
        logits = without + (options.guidance_scale + 1) * (logits - without)
    return logits


def _apply(selection: Selection, step: Step, tokens: Tensor, mask_token_id: int) -> tuple[Tensor, Tensor]:
    """The canvas after a step, and which of the block's positions are still masked."""
    at_end = (step.index == step.steps - 1)[:, None]
    commit = step.masked & (selection.commit | at_end)
    tokens = torch.where(commit, step.proposals.tokens, tokens)
    if selection.remask is not None:
        remask = selection.remask & step.editable & ~at_end
        tokens = torch.where(remask, mask_token_id, tokens)
    return tokens, step.editable & (tokens == mask_token_id)


def _advance(
    pending: dict[int, list[PlannedStep]], sampler: Sampler, still_masked: Tensor
) -> dict[int, list[PlannedStep]]:
    """Each row's remaining steps; a row whose block is full goes on to the next one."""
    following = {row: plan[1:] for row, plan in pending.items()}
    left = still_masked.any(-1).tolist()
    for (row, plan), unfinished in zip(pending.items(), left, strict=True):
        if not unfinished:
            following[row] = [step for step in following[row] if step.block != plan[0].block]
    return {row: plan for row, plan in following.items() if plan}


def _column(steps: list[PlannedStep], name: str, device: torch.device) -> Tensor:
    return torch.tensor([getattr(step, name) for step in steps], device=device)


def _block_numbers(
    lm: DiffusionLM, layout: ModelInputs, editable: Tensor, block_length: int | None
) -> Tensor:
    """[B, L] int64: the number of each editable position's block, in the order they are written."""
    order = editable.cumsum(-1) - 1
    own = lm.attention.blocks(layout.positions)
    if own is None:
        return order // block_length if block_length else torch.zeros_like(order)
    if block_length is not None:
        raise UserError(f"block_length has no effect with a {lm.attention.kind} checkpoint: leave it out")
    # A block's first editable position is one that no earlier editable position shares it with.
    earlier = torch.where(editable, own, -1).cummax(-1).values.roll(1, -1)
    earlier[:, 0] = -1
    return (editable & (own > earlier)).cumsum(-1) - 1


def _block_sizes(block_of: Tensor, editable: Tensor) -> list[tuple[int, ...]]:
    """How many editable positions each block of each row has; on the host."""
    rows = zip(block_of.tolist(), editable.tolist(), strict=True)
    counted = (Counter(compress(numbers, wanted)) for numbers, wanted in rows)
    return [tuple(count for _, count in sorted(counter.items())) for counter in counted]


def _check_layout(lm: DiffusionLM, layout: ModelInputs) -> None:
    lengths = (layout.segments != PADDING_SEGMENT).sum(-1)
    for row, length in enumerate(lengths.tolist()):
        if length == 0:
            raise UserError(f"row {row} of the canvas has no tokens")
        if length > lm.context_length:
            raise UserError(
                f"row {row} has {length} tokens, more than the model's context of {lm.context_length}"
            )


def _check_finite(logits: Tensor, wanted: Tensor, rows: Tensor) -> None:
    finite = torch.isfinite(logits).all(-1)
    if not bool(finite.all()):
        place, column = wanted.nonzero()[~finite][0].tolist()
        raise UserError(f"the model's logits at row {int(rows[place])}, position {column} are not finite")

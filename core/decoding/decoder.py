"""The decoding loop."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from opendllm.core.decoding.decode_state import Snapshot
from opendllm.core.decoding.decoding_run import DecodingRun
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.prepared_rows import prepare_rows
from opendllm.core.decoding.settings import check_reach, check_sampler
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.errors import UserError
from opendllm.registries.plugin_calls import wrong_answer
from opendllm.registries.samplers import Sampler


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
        committed_at: [B, L'] int64, at which of its row's steps, from 1, each position was last written; 0
            where it was given.
    """

    tokens: Tensor
    forward_passes: Tensor
    real: Tensor
    written: Tensor
    snapshots: list[Snapshot] = field(repr=False)
    origin: Tensor = field(repr=False)
    committed_at: Tensor = field(repr=False)

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

    A row's result depends on its own tokens and seed only, not on its padding or batch-mates. (Where nothing
    stands left of its masks they are alike, and rounding, which hangs on how many rows are read together, may
    decide between them.) A causal checkpoint writes its masks one by one from left to right whatever the
    sampler, a block-causal one in its own blocks; both keep the keys of what is settled, which changes
    nothing.

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
    check_options(lm, sampler, options)
    given_length = canvas.shape[1]
    real = torch.ones_like(canvas).bool() if attention_mask is None else attention_mask.bool()
    rows = prepare_rows(lm, canvas, real, seeds, sampler, options)
    whole = rows.whole
    trace = [whole.snapshot()] if keep_trace else []
    with DecodingRun(lm, rows, sampler, options, padded=not bool(real.all())) as run:
        while run.unfinished.any():
            if not options.compile:
                whole = whole.with_rows(run.state)
                run.drop_finished()
            run.take_step()
            if keep_trace:
                trace.append(whole.with_rows(run.state).snapshot())
        run.raise_if_not_finite()
        whole = whole.with_rows(run.state)
        if sampler.revises or run.is_fixed:
            check_written(whole.editable & (whole.tokens == lm.mask_token_id), sampler)
        forward_passes = torch.from_numpy(run.cursor.forward_passes)
    used = max(given_length, _width(whole.real))
    longest = max((_width(snapshot.tokens >= 0) for snapshot in trace), default=0)
    return Decoded(
        whole.tokens[:, :used],
        forward_passes,
        whole.real[:, :used],
        whole.editable[:, :used],
        [snapshot.first_columns(max(given_length, longest)) for snapshot in trace],
        whole.origin[:, :used],
        whole.committed_at[:, :used],
    )


def check_written(masked: Tensor, sampler: Sampler) -> None:
    """A sampler that revises may leave masks behind: `masked` [R, L] bool, where.

    Raises:
        UserError: it did.
    """
    left = int(masked.sum())
    if left:
        issue = (
            f"left {left} masks: at a block's last step, where index is steps - 1, or where it says that a "
            f"block is finished, it has to write every editable position"
        )
        raise wrong_answer(sampler, "sampler", "select", issue)


def _width(real: Tensor) -> int:
    """How many columns `real` [B, L] bool has up to the last true one."""
    return int(real.any(0).long().cumsum(0).argmax()) + 1


def check_options(lm: DiffusionLM, sampler: Sampler, options: DecoderOptions) -> None:
    """Refuse options that don't go with the checkpoint.

    Raises:
        UserError: one doesn't.
    """
    told = lm.noise.time_conditioning
    check_reach(options, lm.attention.kind, told)
    check_sampler(sampler, options, lm.attention.kind, told)
    if options.compile == "graphs" and not next(lm.module.parameters()).is_cuda:
        raise UserError("compile: graphs needs a GPU: leave it out")
    if options.early_stop and not lm.stops:
        raise UserError("early_stop needs an EOS token, and this checkpoint has none")

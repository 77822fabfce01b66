"""Text in, text out: canvases from strings, batched by length, cut at EOS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from opendllm.core.checkpoints.text_codec import TextCodec
from opendllm.core.decoding.compiled_shapes import plan_shapes, shapes_line
from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.proposer import NotFiniteError
from opendllm.core.decoding.row_pool import FinishedRow, WaitingRow, padded_rows
from opendllm.core.decoding.tracing import CanvasLists, row_trace
from opendllm.core.decoding.waiting_rows import KnownMemory, decode_waiting
from opendllm.core.foundation.decoding_traces import RowTrace
from opendllm.core.foundation.notices import tell_once
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.samplers import Sampler


class TooLongError(UserError):
    """A prompt and what is to be written don't fit the model's context."""


@dataclass(frozen=True)
class SeededGap:
    """A gap, and the seed of its row's random draws."""

    gap: Gap
    seed: int


@dataclass(frozen=True)
class TextRow:
    """A canvas.

    Attributes:
        ids: of all its positions.
        given: how many of them stand left of the gap.
        surplus: how many at its end fill the last block beyond what is asked for.
    """

    ids: list[int]
    given: int
    surplus: int


@dataclass(frozen=True)
class Written:
    """What was written into a gap.

    Attributes:
        text: up to the first stop id.
        tokens: every id that was asked for, also those after it.
        committed_at: at which of the row's steps, from 1, each of `tokens` was last written.
        kept_tokens: how many of them `text` is made of.
        forward_passes: that the row took part in.
        seconds: its share of the wall time, of all that was written side by side.
        trace: the row's ids before the first and after every step, where asked for; with what fills the last
            block beyond `tokens`, see `write`.
        row_trace: the same as what each step changed.
    """

    text: str
    tokens: tuple[int, ...]
    committed_at: tuple[int, ...]
    kept_tokens: int
    forward_passes: int
    seconds: float
    trace: tuple[tuple[int, ...], ...] = ()
    row_trace: RowTrace | None = None


def encode(codec: TextCodec, text: str, what: str, begins: bool = True) -> list[int]:
    """The ids of a text, without BOS.

    Args:
        codec: the checkpoint's.
        text: raw text; what it spells of special tokens stays text.
        what: the text's name, for errors.
        begins: whether it begins a document, or stands right of something.

    Raises:
        UserError: it holds half of a surrogate pair, which is no character.
    """
    try:
        return codec.encode(text) if begins else codec.encode_continuation(text)
    except UserError as error:
        raise UserError(f"the {what} {error}") from error


def refuse_unknown_ids(lm: DiffusionLM, ids: Sequence[int], what: str) -> None:
    """A tokenizer may know more tokens than the model has rows for.

    Raises:
        UserError: one of them is in `ids`.
    """
    unknown = next((token for token in ids if token >= lm.vocab_size), None)
    if unknown is not None:
        raise UserError(
            f"the {what} has a token of id {unknown}, and the model knows {lm.vocab_size}: the tokenizer is "
            f"not this model's"
        )


def refuse_unread_suffix(lm: DiffusionLM, gaps: Sequence[Gap]) -> None:
    """A causal checkpoint sees nothing of what stands right of a gap.

    Raises:
        UserError: it is one, and a gap has a suffix.
    """
    if lm.attention.kind == "causal" and any(gap.suffix for gap in gaps):
        raise UserError(
            "a causal checkpoint writes from left to right and reads no suffix: leave it out, or take a "
            "bidirectional or block-causal checkpoint"
        )


def write(
    lm: DiffusionLM,
    codec: TextCodec,
    gaps: Sequence[SeededGap],
    sampler: Sampler,
    options: DecoderOptions,
    batch_size: int | Callable[[Sequence[int]], int],
    keep_trace: bool = False,
) -> Iterator[tuple[int, Written]]:
    """Fill every gap; rows of similar length go together, so results come out of order.

    As many as `batch_size` are written side by side; one that is finished makes way for another, which
    changes no result. (Where it is a function, it is told how long the rows are.)

    Where the model `fills_last_block`, a gap at its row's end goes on to the end of its last block, as far as
    the context reaches; what stands beyond the length that is asked for is cut off afterwards.

    Yields:
        (index into `gaps`, what was written there).

    Raises:
        UserError: an empty prompt, a row longer than the model's context, or a logit
            that isn't finite.
    """
    rows = [row_to_write(lm, codec, each.gap, options, f" {number}") for number, each in enumerate(gaps)]
    waiting = [WaitingRow(at, row.ids, gaps[at].seed) for at, row in enumerate(rows)]
    if not rows:
        return
    lengths = [len(row.ids) for row in rows]
    if not isinstance(batch_size, int):
        batch_size = batch_size(lengths)
    together = sampler.plans and not (options.early_stop or sampler.finishes)
    shapes = plan_shapes(lengths, batch_size, bool(options.compile), together)
    if options.compile:
        tell_once(shapes_line(shapes))
    memory = KnownMemory()
    for shape in shapes:
        members = [waiting[at] for at in shape.members]
        try:
            # A trace is of a whole canvas, and rows that grow and shrink share one as long as they are.
            if keep_trace or sampler.edits_length:
                for start in range(0, len(members), batch_size):
                    batch = members[start : start + batch_size]
                    for done, traced in _traced(lm, batch, sampler, options, keep_trace):
                        yield done.number, _written(lm, codec, rows[done.number], done, traced)
                continue
            for done in decode_waiting(lm, members, shape.rows, shape.length, sampler, options, memory):
                yield done.number, _written(lm, codec, rows[done.number], done)
        except NotFiniteError as error:
            raise UserError(
                f"prompt {error.row}: the model's logits at position {error.column} are not finite"
            ) from error


def _written(
    lm: DiffusionLM, codec: TextCodec, row: TextRow, done: FinishedRow, traced: _Traced | None = None
) -> Written:
    written = done.written[: len(done.written) - row.surplus]
    end = next((at for at, token in enumerate(written) if token in lm.stops), len(written))
    return Written(
        codec.decode(written[:end], row.ids[: row.given]),
        tuple(written),
        tuple(done.committed_at[: len(written)]),
        end,
        done.forward_passes,
        done.seconds,
        () if traced is None else traced.trace,
        None if traced is None else traced.row_trace,
    )


@dataclass(frozen=True)
class _Traced:
    """See `Written`."""

    trace: tuple[tuple[int, ...], ...]
    row_trace: RowTrace


def _traced(
    lm: DiffusionLM, rows: Sequence[WaitingRow], sampler: Sampler, options: DecoderOptions, keep_trace: bool
) -> Iterator[tuple[FinishedRow, _Traced | None]]:
    """Rows that are written together, from the first step to the last, and how."""
    device = next(lm.module.parameters()).device
    canvas, real = padded_rows([row.ids for row in rows], lm, max(len(row.ids) for row in rows))
    seeds = torch.tensor([row.seed for row in rows], dtype=torch.int64, device=device)
    started = time.perf_counter()
    try:
        decoded = decode(lm, canvas.to(device), real.to(device), sampler, options, seeds, keep_trace)
    except NotFiniteError as error:
        raise NotFiniteError(rows[error.row].number, error.column) from error
    tokens, is_written = decoded.tokens.cpu(), decoded.written.cpu()
    steps = decoded.committed_at.cpu()
    seconds = (time.perf_counter() - started) / len(rows)
    canvases = [CanvasLists.of(snapshot) for snapshot in decoded.snapshots]
    for at, row in enumerate(rows):
        written = tokens[at][is_written[at]].tolist()
        committed_at = steps[at][is_written[at]].tolist()
        done = FinishedRow(row.number, written, committed_at, int(decoded.forward_passes[at]), seconds)
        found = [each.row(at) for each in canvases]
        traced = None
        if found:
            editable = frozenset(decoded.origin[at][decoded.written[at]].tolist())
            trace = tuple(tuple(each.tokens) for each in found)
            traced = _Traced(trace, row_trace(found, editable, lm.mask_token_id))
        yield done, traced


def why_unfit(lm: DiffusionLM, codec: TextCodec, gap: Gap, options: DecoderOptions) -> str | None:
    """What `write` would refuse a gap for: an empty prompt, or too many tokens."""
    try:
        row_to_write(lm, codec, gap, options, "")
    except UserError as error:
        return str(error)
    return None


def around_gap(codec: TextCodec, gap: Gap, number: str = "") -> tuple[list[int], list[int]]:
    """The ids that stand left and right of a gap.

    Args:
        codec: the checkpoint's.
        gap: what is to be written.
        number: of the gap, with a space before it, for errors.

    Raises:
        UserError: one holds half of a surrogate pair.
    """
    if gap.templated:
        prefix = codec.encode_rendered(gap.prefix)
    else:
        prefix = [*codec.bos, *encode(codec, gap.prefix, f"prompt{number}")]
    return prefix, encode(codec, gap.suffix or "", f"suffix{number}", begins=False)


def row_to_write(
    lm: DiffusionLM, codec: TextCodec, gap: Gap, options: DecoderOptions, number: str
) -> TextRow:
    """The canvas of a gap.

    Args:
        lm: the model.
        codec: the checkpoint's.
        gap: what is to be written.
        options: `max_new_tokens` holds where the gap has no length.
        number: what is written behind "prompt" in errors.

    Raises:
        UserError: see `write`.
    """
    what = f"prompt{number}"
    prefix, suffix = around_gap(codec, gap, number)
    refuse_unknown_ids(lm, [*prefix, *suffix], what)
    if not prefix and not suffix:
        raise UserError(f"{what} is empty")
    length = options.max_new_tokens if gap.length is None else gap.length
    ids = [*prefix, *[lm.mask_token_id] * length, *suffix]
    if len(ids) > lm.context_length:
        raise TooLongError(
            f"prompt{number} has {len(ids)} tokens with its gap, more than the model's context of "
            f"{lm.context_length}"
        )
    surplus = 0 if suffix else _end_of_block(lm, len(ids)) - len(ids)
    return TextRow([*ids, *[lm.mask_token_id] * surplus], len(prefix), surplus)


def _end_of_block(lm: DiffusionLM, length: int) -> int:
    """Up to where a row is written that is asked for up to `length`.

    The published code fills masks up to ceil((P + new) / B) B, and takes [P : P + new] (JetAstra/SDAR
    @c2041a83, generate.py; the LLaDA2 authors' `generate`; Fast-dLLM v2).
    """
    block_length = lm.attention.block_length
    if block_length is None or not lm.fills_last_block:
        return length
    if lm.logit_shift and (length - 1) % block_length == 0:
        return length  # the block before, which is clean, predicts a block's first token
    return min(length + -length % block_length, lm.context_length)

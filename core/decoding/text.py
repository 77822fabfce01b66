"""Text in, text out: canvases from strings, batched by length, cut at EOS."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.checkpoints.text_codec import TextCodec
from opendllm.core.decoding.compiled_shapes import ROW_LENGTH_MULTIPLE, round_up
from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.proposer import NotFiniteError
from opendllm.core.decoding.tracing import CanvasLists, row_trace
from opendllm.core.foundation.decoding_traces import RowTrace
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.samplers import Sampler


@dataclass(frozen=True)
class SeededGap:
    """A gap, and the seed of its row's random draws."""

    gap: Gap
    seed: int


@dataclass(frozen=True)
class _Row:
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
        kept_tokens: how many of them `text` is made of.
        forward_passes: that the row took part in.
        seconds: its share of its batch's wall time.
        trace: the row's ids before the first and after every step, where asked for; with what fills the last
            block beyond `tokens`, see `write`.
        row_trace: the same as what each step changed.
    """

    text: str
    tokens: tuple[int, ...]
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


def write(
    lm: DiffusionLM,
    codec: TextCodec,
    gaps: Sequence[SeededGap],
    sampler: Sampler,
    options: DecoderOptions,
    batch_size: int,
    keep_trace: bool = False,
) -> Iterator[tuple[int, Written]]:
    """Fill every gap; rows of similar length go together, so results come out of order.

    Where the model `fills_last_block`, a gap at its row's end goes on to the end of its last block, as far as
    the context reaches; what stands beyond the length that is asked for is cut off afterwards.

    Yields:
        (index into `gaps`, what was written there).

    Raises:
        UserError: an empty prompt, a row longer than the model's context, or a logit
            that isn't finite.
    """
    rows = [_row(lm, codec, each.gap, options, f" {number}") for number, each in enumerate(gaps)]
    order = sorted(range(len(rows)), key=lambda index: (len(rows[index].ids), index))
    device = next(lm.module.parameters()).device
    # Compiled, the last batch is filled up to the number of rows that the others have.
    height = min(batch_size, len(rows)) if options.compile else 0
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        multiple = ROW_LENGTH_MULTIPLE if options.compile else 1
        canvas, attention_mask = _pad([rows[index].ids for index in chosen], lm, device, height, multiple)
        seeds = torch.zeros(len(canvas), dtype=torch.int64)
        seeds[: len(chosen)] = torch.tensor([gaps[index].seed for index in chosen])
        seeds = seeds.to(device)
        started = time.perf_counter()
        try:
            decoded = decode(lm, canvas, attention_mask, sampler, options, seeds, keep_trace)
        except NotFiniteError as error:
            raise UserError(
                f"prompt {chosen[error.row]}: the model's logits at position {error.column} are not finite"
            ) from error
        tokens, is_written = decoded.tokens.tolist(), decoded.written.tolist()
        seconds = (time.perf_counter() - started) / len(chosen)
        canvases = [CanvasLists.of(snapshot) for snapshot in decoded.snapshots]
        for row, index in enumerate(chosen):
            written = [token for token, new in zip(tokens[row], is_written[row], strict=True) if new]
            written = written[: len(written) - rows[index].surplus]
            end = next((at for at, token in enumerate(written) if token in lm.stops), len(written))
            kept = written[:end]
            traced = [canvas.row(row) for canvas in canvases]
            editable = decoded.origin[row][decoded.written[row]].tolist() if traced else []
            yield (
                index,
                Written(
                    codec.decode(kept, rows[index].ids[: rows[index].given]),
                    tuple(written),
                    len(kept),
                    int(decoded.forward_passes[row]),
                    seconds,
                    tuple(tuple(canvas.tokens) for canvas in traced),
                    row_trace(traced, frozenset(editable), lm.mask_token_id) if traced else None,
                ),
            )


def why_unfit(lm: DiffusionLM, codec: TextCodec, gap: Gap, options: DecoderOptions) -> str | None:
    """What `write` would refuse a gap for: an empty prompt, or too many tokens."""
    try:
        _row(lm, codec, gap, options, "")
    except UserError as error:
        return str(error)
    return None


def _row(lm: DiffusionLM, codec: TextCodec, gap: Gap, options: DecoderOptions, number: str) -> _Row:
    what = f"prompt{number}"
    if gap.templated:
        prefix = codec.encode_rendered(gap.prefix)
    else:
        prefix = [*codec.bos, *encode(codec, gap.prefix, what)]
    suffix = encode(codec, gap.suffix or "", f"suffix{number}", begins=False)
    refuse_unknown_ids(lm, [*prefix, *suffix], what)
    if not prefix and not suffix:
        raise UserError(f"{what} is empty")
    length = options.max_new_tokens if gap.length is None else gap.length
    ids = [*prefix, *[lm.mask_token_id] * length, *suffix]
    if len(ids) > lm.context_length:
        raise UserError(
            f"prompt{number} has {len(ids)} tokens with its gap, more than the model's context of "
            f"{lm.context_length}"
        )
    surplus = 0 if suffix else _end_of_block(lm, len(ids)) - len(ids)
    return _Row([*ids, *[lm.mask_token_id] * surplus], len(prefix), surplus)


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


def _pad(
    rows: list[list[int]], lm: DiffusionLM, device: torch.device, min_rows: int, multiple: int
) -> tuple[Tensor, Tensor]:
    """Rows and attention mask [B, L], B at least `min_rows`, L a `multiple`; further rows are one token."""
    height, length = max(len(rows), min_rows), round_up(max(map(len, rows)), multiple)
    filler = next((stop for stop in lm.stops if stop < lm.vocab_size), 0)
    canvas = torch.full((height, length), filler)
    attention_mask = torch.zeros(height, length, dtype=torch.bool)
    attention_mask[len(rows) :, 0] = True
    for row, ids in enumerate(rows):
        canvas[row, : len(ids)] = torch.tensor(ids)
        attention_mask[row, : len(ids)] = True
    return canvas.to(device), attention_mask.to(device)

"""What the decoder reads of a canvas, step by step, by its own plan of steps: the cost of one row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opendllm.core.decoding.compiled_shapes import ROW_LENGTH_MULTIPLE, round_up
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plan import PlannedSteps, plan_row
from opendllm.core.planning.canvas_pattern import Pattern
from opendllm.registries.samplers import Sampler

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Canvas:
    """A row: so many given tokens, a gap, and so many given tokens right of it."""

    left: int
    gap: int
    right: int = 0

    @property
    def length(self) -> int:
        """In tokens."""
        return self.left + self.gap + self.right


@dataclass(frozen=True)
class CanvasReads:
    """What the steps of a row read; arrays are [S] int64, S forward passes.

    Attributes:
        columns: positions that go through the network.
        seen: positions that these attend to.
        scored: positions that reach the LM head.
        at_most: whether the data decides when it is done, so that these are the most there are.
        keeps_keys: whether keys and values are kept between steps.
    """

    columns: IntArray
    seen: IntArray
    scored: IntArray
    at_most: bool
    keeps_keys: bool


def reads_of(canvas: Canvas, pattern: Pattern, sampler: Sampler, options: DecoderOptions) -> CanvasReads:
    """What writing a canvas reads.

    But for causal checkpoints logits are taken as unshifted: a shift moves spans by one column. With guidance
    each pass is there twice.

    Raises:
        UserError: the sampler's plan isn't one.
    """
    if pattern.block_length is not None and not canvas.right:  # whole blocks are written, and cut
        whole = round_up(canvas.left + canvas.gap, pattern.block_length)
        canvas = Canvas(canvas.left, whole - canvas.left)
    sizes = [canvas.gap] if sampler.spans_blocks else _block_sizes(canvas, pattern, options)
    steps = plan_row(sizes, options.steps, sampler)
    ends = canvas.left + np.cumsum(np.array(sizes, dtype=np.int64))
    block = steps.block
    opens = np.concatenate([[True], block[1:] != block[:-1]]) if len(block) else np.zeros(0, dtype=np.bool_)
    age = np.arange(len(block)) - np.maximum.accumulate(np.where(opens, np.arange(len(block)), 0))
    first, last = (ends - sizes)[block], ends[block] - 1
    exact = pattern.attention != "bidirectional"
    if exact:
        columns, seen = _exact(canvas, pattern, options, (first, last, opens))
    else:
        columns, seen = _bidirectional(canvas, options, (first, last, age))
    scored = _scored(steps, sampler)
    passes = 2 if options.guidance_scale > 0 else 1
    return CanvasReads(
        columns.repeat(passes),
        seen.repeat(passes),
        scored.repeat(passes),
        at_most=options.early_stop or options.cache == "delayed" or _data_decides(sampler),
        keeps_keys=exact or options.cache != "none",
    )


def _block_sizes(canvas: Canvas, pattern: Pattern, options: DecoderOptions) -> list[int]:
    """How many masks each block has."""
    if pattern.attention == "causal":
        return [1] * canvas.gap
    length = options.block_length or pattern.block_length or canvas.gap
    # A checkpoint's own blocks count from the row's start, the decoder's from the gap's.
    begun = canvas.left % length if pattern.attention == "block-causal" else 0
    opening = min(canvas.gap, length - begun)
    whole, rest = divmod(canvas.gap - opening, length)
    return [opening, *[length] * whole, *([rest] if rest else [])]


def _exact(
    canvas: Canvas,
    pattern: Pattern,
    options: DecoderOptions,
    steps: tuple[IntArray, IntArray, NDArray[np.bool_]],
) -> tuple[IntArray, IntArray]:
    """(columns, seen), where what is left of a block is read once more when it is settled, and kept.

    Args:
        canvas: the row.
        pattern: the checkpoint's.
        options: the decoder's.
        steps: the first and last column of each step's block, and whether the step is its first.
    """
    first, last, opens = steps
    if pattern.attention == "causal":  # the token before predicts it, whose keys are not kept yet
        return np.where(np.arange(len(first)) == 0, np.maximum(first, 1), 1), np.maximum(first, 1)
    own = pattern.block_length or canvas.length
    begin, end = first // own * own, np.minimum((last // own + 1) * own, canvas.length) - 1
    # A block's first step reads what was written before it, too; the first block's, all that is given.
    previous = np.concatenate([np.zeros(1, dtype=np.int64), begin[:-1]])
    entered = np.where(opens, np.minimum(previous, begin), begin)
    columns = end - entered + 1
    if options.cache == "dual" and options.block_length is not None:  # sub-blocks are read alone
        columns = np.where(opens, columns, last - first + 1)
    return columns, end + 1


def _bidirectional(
    canvas: Canvas, options: DecoderOptions, steps: tuple[IntArray, IntArray, IntArray]
) -> tuple[IntArray, IntArray]:
    """(columns, seen); `steps` are the first and last column of each step's block, and its number in it."""
    first, last, age = steps
    length = round_up(canvas.length, ROW_LENGTH_MULTIPLE) if options.compile else canvas.length
    whole = np.full_like(first, length)
    if options.cache in ("none", "delayed"):  # when a block is done hangs on the data: at most all is read
        return whole, whole
    refresh = age == 0 if options.cache_refresh is None else age % options.cache_refresh == 0
    kept = length - first if options.cache == "prefix" else last - first + 1
    return np.where(refresh, whole, kept), whole


def _scored(steps: PlannedSteps, sampler: Sampler) -> IntArray:
    """[S] positions that the model is asked at."""
    if sampler.decides_first:  # those that commit, each once
        share: IntArray = -(-steps.size // steps.steps)
        return share
    masked = sampler.proposes == "masked" and not sampler.edits_length
    return steps.masks if masked else steps.size


def _data_decides(sampler: Sampler) -> bool:
    """Whether a block may be done before its last step, or a step may ask nothing."""
    if sampler.finishes or sampler.decides_first or sampler.edits_length or sampler.proposes == "asked":
        return True
    return not sampler.plans and (sampler.proposes == "masked" or not sampler.revises)

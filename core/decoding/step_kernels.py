"""Triton kernels of what a step does beside reading: one each where torch takes ten or more.

All but `choose` are whole numbers and copies, so that they give what torch gives to the last bit. A program
does a row; bools are read as bytes.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def begin(
    editable, block_of, tokens, memory, plan, done, unfinished_out, writable_out, masked_out, memory_out,
    tokens_out, confidence_out, rows, length, mask_token_id, BLOCK: tl.constexpr,
):  # fmt: skip
    """What a sampler sees of a step before the model is asked, see `begin_step`.

    Args:
        editable: [R, L] bool.
        block_of: [R, L] int64.
        tokens: [R, L] int64.
        memory: [R, L] int64.
        plan: [7, R] int64, see `StepPlan`.
        done: [R] int64, the blocks that are done.
        unfinished_out: [R] bool.
        writable_out: [R, L] bool.
        masked_out: [R, L] bool.
        memory_out: [R, L] int64.
        tokens_out: [R, L] int64, masks.
        confidence_out: [R, L] float32, -inf.
        rows: R.
        length: L.
        mask_token_id: of the mask.
    """
    row = tl.program_id(0).to(tl.int64)
    block, index = tl.load(plan + row), tl.load(plan + rows + row)
    unfinished = (tl.load(plan + 6 * rows + row) != 0) & (block > tl.load(done + row))
    tl.store(unfinished_out + row, unfinished.to(tl.uint8))
    for start in range(0, length, BLOCK):
        column = start + tl.arange(0, BLOCK)
        there = column < length
        at = row * length + column
        writable = (tl.load(editable + at, mask=there, other=0) != 0) & unfinished
        writable = writable & (tl.load(block_of + at, mask=there, other=0) == block)
        masked = writable & (tl.load(tokens + at, mask=there, other=0) == mask_token_id)
        tl.store(writable_out + at, writable.to(tl.uint8), mask=there)
        tl.store(masked_out + at, masked.to(tl.uint8), mask=there)
        kept = tl.load(memory + at, mask=there, other=0)
        tl.store(memory_out + at, tl.where(index == 0, -1, kept), mask=there)
        tl.store(tokens_out + at, tl.full((BLOCK,), mask_token_id, tl.int64), mask=there)
        tl.store(confidence_out + at, tl.full((BLOCK,), float("-inf"), tl.float32), mask=there)


@triton.jit
def ask(wanted, asked, count, length, size, asked_row, BLOCK: tl.constexpr):
    """The columns that are wanted, and from their number on the first one again.

    Args:
        wanted: [R, L] bool.
        asked: [R, L] int64, of which `size` columns are written.
        count: [R] int64, written.
        length: L.
        size: at most so many.
        asked_row: stride of `asked`.
    """
    row = tl.program_id(0).to(tl.int64)
    seen = tl.zeros((), dtype=tl.int32)
    first = tl.zeros((), dtype=tl.int32) + length
    for start in range(0, length, BLOCK):
        column = start + tl.arange(0, BLOCK)
        here = tl.load(wanted + row * length + column, mask=column < length, other=0).to(tl.int32)
        order = seen + tl.cumsum(here, 0) - 1
        tl.store(asked + row * asked_row + order, column.to(tl.int64), mask=(here != 0) & (order < size))
        seen += tl.sum(here, 0)
        first = tl.minimum(first, tl.min(tl.where(here != 0, column, length), 0))
    first = tl.where(first == length, 0, first)
    for start in range(0, size, BLOCK):
        slot = start + tl.arange(0, BLOCK)
        again = tl.zeros((BLOCK,), dtype=tl.int64) + first
        tl.store(asked + row * asked_row + slot, again, mask=(slot >= seen) & (slot < size))
    tl.store(count + row, seen.to(tl.int64))


@triton.jit
def spread(
    asked, count, tokens, confidence, finite, bad, tokens_out, confidence_out,
    length, size, asked_row, mask_token_id, BLOCK: tl.constexpr,
):  # fmt: skip
    """Proposals to where they were asked for; masks and -inf elsewhere.

    Args:
        asked: see `ask`.
        count: [R] int64.
        tokens: [R, size] int64.
        confidence: [R, size] float32.
        finite: [R, size] bool.
        bad: [R, L + 1] bool, true from now on where a proposal isn't finite.
        tokens_out: [R, L] int64.
        confidence_out: [R, L] float32.
        length: L.
        size: asked for at most.
        asked_row: stride of `asked`.
        mask_token_id: of the mask.
    """
    row = tl.program_id(0).to(tl.int64)
    for start in range(0, length, BLOCK):
        column = start + tl.arange(0, BLOCK)
        at = row * length + column
        tl.store(tokens_out + at, tl.full((BLOCK,), mask_token_id, tl.int64), mask=column < length)
        nothing = tl.full((BLOCK,), float("-inf"), tl.float32)
        tl.store(confidence_out + at, nothing, mask=column < length)
    tl.debug_barrier()
    number = tl.minimum(tl.load(count + row), size)
    for start in range(0, size, BLOCK):
        slot = start + tl.arange(0, BLOCK)
        there = slot < number
        column = tl.load(asked + row * asked_row + slot, mask=there, other=0)
        at = row * length + column
        given = row * size + slot
        tl.store(tokens_out + at, tl.load(tokens + given, mask=there, other=0), mask=there)
        tl.store(confidence_out + at, tl.load(confidence + given, mask=there, other=0.0), mask=there)
        lost = there & (tl.load(finite + given, mask=there, other=1) == 0)
        tl.store(bad + row * (length + 1) + column, lost.to(tl.uint8), mask=lost)


@triton.jit
def commit(
    commit, masked, new_tokens, new_confidence, plan, unfinished, tokens, confidence, taken, committed_at,
    rows, length, BLOCK: tl.constexpr,
):  # fmt: skip
    """A decision that only commits, carried out, see `DecodeState.after`.

    Args:
        commit: [R, L] bool.
        masked: [R, L] bool.
        new_tokens: [R, L] int64.
        new_confidence: [R, L] float32.
        plan: [7, R] int64.
        unfinished: [R] bool.
        tokens: [R, L] int64, written over; so are the others.
        confidence: [R, L] float32.
        taken: [R] int64.
        committed_at: [R, L] int64.
        rows: R.
        length: L.
    """
    row = tl.program_id(0).to(tl.int64)
    at_end = tl.load(plan + rows + row) == tl.load(plan + 2 * rows + row) - 1
    now = tl.load(taken + row) + tl.load(unfinished + row).to(tl.int64)
    tl.debug_barrier()
    tl.store(taken + row, now)
    for start in range(0, length, BLOCK):
        column = start + tl.arange(0, BLOCK)
        there = column < length
        at = row * length + column
        chosen = (tl.load(commit + at, mask=there, other=0) != 0) | at_end
        chosen = chosen & (tl.load(masked + at, mask=there, other=0) != 0) & there
        tl.store(tokens + at, tl.load(new_tokens + at, mask=chosen, other=0), mask=chosen)
        tl.store(confidence + at, tl.load(new_confidence + at, mask=chosen, other=0.0), mask=chosen)
        tl.store(committed_at + at, tl.zeros((BLOCK,), dtype=tl.int64) + now, mask=chosen)


@triton.jit
def choose(
    logits, suppressed, largest, best, total, broken, counters, tokens, confidence, finite,
    size, row_stride, mask_token_id, parts, HIDES: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The first of the largest logits but the mask's, and its probability in the distribution with the mask.

    What is done is what `propose` does at temperature 0: the share of all but the mask, times the token's
    share among them. A program reads a part of a row's logits; the last one of a row puts them together.

    Args:
        logits: [N, V] half precision.
        suppressed: [V] bool, tokens that are never proposed nor counted.
        largest: [N, parts] float32; so are the next ones.
        best: int32.
        total: float32.
        broken: int32.
        counters: [N] int32 zeros, and zeros afterwards.
        tokens: [N] int64, written.
        confidence: [N] float32, written.
        finite: [N] bool, whether all logits were, written.
        size: V.
        row_stride: of `logits`.
        mask_token_id: of the mask.
        parts: programs of a row.
    """
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = part * BLOCK + tl.arange(0, BLOCK)
    there = column < size
    given = tl.load(logits + row * row_stride + column, mask=there, other=0.0).to(tl.float32)
    is_broken = tl.max((tl.abs(given) < float("inf")).to(tl.int32) ^ 1, 0)
    counts = there & (column != mask_token_id)
    if HIDES:
        counts = counts & (tl.load(suppressed + column, mask=there, other=1) == 0)
    score = tl.where(counts, given, float("-inf"))
    top = tl.max(score, 0)
    first = tl.min(tl.where((score == top) & counts, column, size), 0)
    base = tl.where(top == float("-inf"), 0.0, top)
    mass = tl.sum(tl.exp(score - base), 0)
    own = row * parts + part
    tl.store(largest + own, top)
    tl.store(best + own, first)
    tl.store(total + own, mass)
    tl.store(broken + own, is_broken)
    tl.debug_barrier()
    if tl.atomic_add(counters + row, 1, sem="acq_rel") == parts - 1:
        tl.store(counters + row, 0)
        each = tl.arange(0, PARTS)
        known = each < parts
        at = row * parts + each
        tops = tl.load(largest + at, mask=known, other=float("-inf"), cache_modifier=".cg")
        firsts = tl.load(best + at, mask=known, other=size, cache_modifier=".cg")
        masses = tl.load(total + at, mask=known, other=0.0, cache_modifier=".cg")
        is_bad = tl.max(tl.load(broken + at, mask=known, other=0, cache_modifier=".cg"), 0) != 0
        high = tl.max(tops, 0)
        token = tl.min(tl.where(tops == high, firsts, size), 0)
        whole = tl.sum(masses * tl.exp(tops - high), 0)
        of_mask = tl.load(logits + row * row_stride + mask_token_id).to(tl.float32)
        if HIDES:
            of_mask = tl.where(tl.load(suppressed + mask_token_id) != 0, float("-inf"), of_mask)
        share = 1.0 / (1.0 + tl.exp(of_mask - high - tl.log(whole)))
        # One that isn't finite is named later; here it only must not crash.
        tl.store(tokens + row, tl.where(is_bad | (token >= size), 0, token).to(tl.int64))
        tl.store(confidence + row, tl.where(is_bad, 0.0, share * (1.0 / whole)))
        tl.store(finite + row, (is_bad == 0).to(tl.uint8))

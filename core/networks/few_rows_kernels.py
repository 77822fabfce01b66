"""Triton kernels for a pass over a few columns, whose time is that of reading weights and keys once.

A library's products of some thirty rows leave a tenth to a half of the memory's bandwidth unused, since they
have too few tiles for all multiprocessors. Here what is summed over is divided, too; the parts [S, ...] come
back in float32, and adding them up is one operation with whatever follows.

Microseconds of one H100 (torch 2.11, triton 3.6), 32 rows of bfloat16, beside cuBLAS and the time of reading
the matrix at 2.96 TB/s; the parts are not added up yet:

| matrix | read | cuBLAS | here |
|---|---|---|---|
| 12288 x 4096 | 34.0 | 47.1 | 39.2 |
| 4096 x 4096, four parts | 11.3 | 15.0 | 14.4 |
| 24576 x 4096 | 68.0 | 76.2 | 72.9 |
| 4096 x 12288, four parts | 34.0 | 41.6 | 38.5 |
| 1152 x 896, seven parts | 0.7 | 4.8 | 3.3 |
| 896 x 896, seven parts | 0.5 | 4.4 | 2.7 |
| 9728 x 896 | 5.9 | 9.0 | 8.6 |
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

TILE, DEPTH = 64, 128
"""Rows of a matrix that a program multiplies, and how far at once: within 2 % of the best of 24 ways."""
KEYS_AT_ONCE = 64


@triton.jit
def _product(
    rows, matrix, out, count, outputs, inputs, depth_of_part,
    ROWS: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(1)
    output = tl.program_id(0) * TILE + tl.arange(0, TILE)
    row = tl.arange(0, ROWS)
    begin = part * depth_of_part
    depth = begin + tl.arange(0, DEPTH)
    inside = row < count
    # The last tile of a matrix may be cut: it reads its last row again.
    weights = matrix + tl.minimum(output, outputs - 1)[:, None].to(tl.int64) * inputs + depth[None, :]
    states = rows + row[None, :] * inputs + depth[:, None]
    total = tl.zeros((TILE, ROWS), dtype=tl.float32)
    for _ in range(begin, tl.minimum(begin + depth_of_part, inputs), DEPTH):
        state = tl.load(states, mask=inside[None, :], other=0.0)
        weight = tl.load(weights, eviction_policy="evict_first")
        total = tl.dot(weight, state, total)
        states += DEPTH
        weights += DEPTH
    place = out + (part * count + row[None, :]) * outputs + output[:, None]
    tl.store(place, total.to(out.dtype.element_ty), mask=inside[None, :] & (output < outputs)[:, None])


@triton_op("opendllm::product_of_few_rows", mutates_args=())
def product_parts(rows: Tensor, matrix: Tensor, parts: int) -> Tensor:
    """[S, N, O] of rows [N, I] and a matrix [O, I], each part over another share of I.

    Args:
        rows: half precision, contiguous.
        matrix: the same type, contiguous; I is a multiple of `DEPTH`.
        parts: S at most; the result is in float32 where they are several.
    """
    count, inputs = rows.shape
    outputs = matrix.shape[0]
    blocks = inputs // DEPTH
    of_part = triton.cdiv(blocks, parts)
    parts = triton.cdiv(blocks, of_part)
    out = rows.new_empty(parts, count, outputs, dtype=rows.dtype if parts == 1 else torch.float32)
    wrap_triton(_product)[(triton.cdiv(outputs, TILE), parts)](
        rows, matrix, out, count, outputs, inputs, of_part * DEPTH,
        max(16, triton.next_power_of_2(count)), TILE, DEPTH, num_warps=4, num_stages=3,
    )  # fmt: skip
    return out


@triton.jit
def _attention(
    query, key, value, visible, out, weight, scale,
    heads, queries, seen, keys_of_part,
    query_row, query_head, query_at, key_row, key_head, key_at, value_row, value_head, value_at, visible_row,
    GROUPS: tl.constexpr, MASKED: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    key_heads = heads // GROUPS
    # As 64 bits: keys of many rows are more than 2^31 numbers.
    row, key_head_number = (tl.program_id(0) // key_heads).to(tl.int64), tl.program_id(0) % key_heads
    part = tl.program_id(2)
    # The heads that share keys lie one after the other, as queries of one head.
    number = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    inside = number < GROUPS * queries
    head, at = key_head_number * GROUPS + number // queries, number % queries
    width, column = tl.arange(0, WIDTH), tl.arange(0, KEYS)
    states = tl.load(
        query + row * query_row + (head * query_head + at * query_at)[:, None] + width[None, :],
        mask=inside[:, None], other=0.0,
    )  # fmt: skip
    largest = tl.full((QUERIES,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((QUERIES,), dtype=tl.float32)
    summed = tl.zeros((QUERIES, WIDTH), dtype=tl.float32)
    begin = part * keys_of_part
    end = tl.minimum(begin + keys_of_part, seen)
    for start in range(begin, end, KEYS):
        where = start + column
        there = where < end
        if MASKED:
            there = there & (tl.load(visible + row * visible_row + where, mask=there, other=0) != 0)
        keys = tl.load(
            key + row * key_row + key_head_number * key_head + where[None, :] * key_at + width[:, None],
            mask=(where < end)[None, :], other=0.0,
        )  # fmt: skip
        # Both are asked for before the first is waited for.
        values = tl.load(
            value + row * value_row + key_head_number * value_head
            + where[:, None] * value_at + width[None, :],
            mask=(where < end)[:, None], other=0.0,
        )  # fmt: skip
        scores = (tl.dot(states, keys) * scale).to(tl.float32)  # compiled, `scale` comes in 64 bits
        scores = tl.where(there[None, :], scores, float("-inf"))
        now = tl.maximum(largest, tl.max(scores, 1))
        base = tl.where(now == float("-inf"), 0.0, now)
        shares = tl.exp2(scores - base[:, None])
        fade = tl.exp2(largest - base)
        total = total * fade + tl.sum(shares, 1)
        summed = tl.dot(shares.to(values.dtype), values, summed * fade[:, None])
        largest = now
    # A part in which a query sees nothing counts with a weight of 2^-inf.
    place = ((part * tl.num_programs(0) // key_heads + row) * queries + at) * heads + head
    tl.store(
        out + place[:, None] * WIDTH + width[None, :],
        summed / tl.where(total == 0.0, 1.0, total)[:, None], mask=inside[:, None],
    )  # fmt: skip
    tl.store(weight + place, largest + tl.log2(total), mask=inside)


@triton_op("opendllm::attention_of_few_queries", mutates_args=())
def attention_parts(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, scale: float, parts: int
) -> tuple[Tensor, Tensor]:
    """([S, R, Q, H, K] float32, [S, R, Q, H] float32), each part over other keys, and 2's powers to mix them.

    Args:
        query: [R, H, Q, K] half precision, contiguous in K; so are key and value.
        key: [R, G, L, K].
        value: [R, G, L, K].
        visible: [R, L] bool, the keys that are seen; None for all.
        scale: of queries times keys.
        parts: S at most.
    """
    rows, heads, queries, width = query.shape
    key_heads, seen = key.shape[1], key.shape[2]
    groups = heads // key_heads
    at_once = min(64, max(16, triton.next_power_of_2(groups * queries)))
    of_part = triton.cdiv(triton.cdiv(seen, KEYS_AT_ONCE), parts) * KEYS_AT_ONCE
    parts = triton.cdiv(seen, of_part)
    out = query.new_empty(parts, rows, queries, heads, width, dtype=torch.float32)
    weight = query.new_empty(parts, rows, queries, heads, dtype=torch.float32)
    mask = key if visible is None else visible
    wrap_triton(_attention)[(rows * key_heads, triton.cdiv(groups * queries, at_once), parts)](
        query, key, value, mask, out, weight, scale * 1.4426950408889634,
        heads, queries, seen, of_part,
        query.stride(0), query.stride(1), query.stride(2), key.stride(0), key.stride(1), key.stride(2),
        value.stride(0), value.stride(1), value.stride(2), mask.stride(0),
        groups, visible is not None, at_once, KEYS_AT_ONCE, width, num_warps=4, num_stages=2,
    )  # fmt: skip
    return out, weight

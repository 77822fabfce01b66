"""Triton kernels of a layer over a few columns: five, each with whatever follows its product.

Small kernels beside the products cost what launches cost, some 2 to 3 microseconds each, which is as much as
the products of a small model. Here the program that ends last of those that share a tile adds up their parts,
in the same order always, and does the rest: the norm's factor, biases, rotary embedding, the entries of the
cache, the gate, the sum with the states before and what the next norm needs of it.

A norm is a factor of each row and a weight of each column. The weight is multiplied by when the states are
written, the factor when the next product is there: its sum of squares comes in one number a tile and row.
"""

from __future__ import annotations

import triton
import triton.language as tl

from opendllm.core.networks.few_rows_product_kernels import arrived_last, whole_product


@triton.jit
def _norm_factor(squares, width, epsilon, tiles, TILES: tl.constexpr, ROWS: tl.constexpr):
    """[ROWS] of the states whose sums of squares [tiles, ROWS] are there, TILES at once."""
    row = tl.arange(0, ROWS)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(0, tiles, TILES):
        tile = start + tl.arange(0, TILES)
        each = tl.load(
            squares + tile[:, None] * ROWS + row[None, :], mask=(tile < tiles)[:, None], other=0.0
        )  # fmt: skip
        total += tl.sum(each, 0)
    return tl.rsqrt(total / width + epsilon)


@triton.jit
def _halves(total, HALF: tl.constexpr, ROWS: tl.constexpr):
    """Of a tile the first half of the outputs, and the second."""
    return tl.split(tl.permute(tl.reshape(total, (2, HALF, ROWS)), (1, 2, 0)))


@triton.jit
def weigh(states, weight, weighted, squares, count, width, ROWS: tl.constexpr, TILE: tl.constexpr):
    """States times a norm's weight, and their squares' sums: what the first layer needs.

    Args:
        states: [N, D].
        weight: [D].
        weighted: [N, D], written.
        squares: [D / TILE, ROWS] float32, written.
        count: N.
        width: D.
    """
    tile = tl.program_id(0)
    output, row = tile * TILE + tl.arange(0, TILE), tl.arange(0, ROWS)
    place = row[None, :] * width + output[:, None]
    inside = (row < count)[None, :]
    wide = tl.load(states + place, mask=inside, other=0.0).to(tl.float32)
    scaled = wide * tl.load(weight + output).to(tl.float32)[:, None]
    tl.store(weighted + place, scaled.to(weighted.dtype.element_ty), mask=inside)
    tl.store(squares + tile * ROWS + row, tl.sum(wide * wide, 0))


@triton.jit
def query_key_value(
    states, squares, matrix, bias, query_norm, key_norm, scratch, counters, cos, sin, positions,
    query, keys, values, numbers, columns,
    count, inputs, parts, depth_of_part, epsilon, tiles, heads, key_heads, length, at_once,
    BIASED: tl.constexpr, NORMED: tl.constexpr, SPLIT: tl.constexpr, WIDTH: tl.constexpr, TILES: tl.constexpr,
    ROWS: tl.constexpr, HALF: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Normalised states times a matrix, turned; keys and values are written where they are kept.

    A tile is HALF of a head's first half and the same of its second one, which are turned with each other.
    Where heads are NORMED it is all of a head.

    Args:
        states: [N, D], weighted.
        squares: [tiles, ROWS], see `weigh`.
        matrix: [(H + 2 G) K, D].
        bias: [(H + 2 G) K].
        query_norm: [K], weights of the norm of each query head.
        key_norm: [K].
        scratch: float32, as large as all parts.
        counters: int32, 0 of each tile.
        cos: [P, K], of all positions.
        sin: [P, K].
        positions: [N] int64, of the states.
        query: [N, H, K], written.
        keys: [B, G, L + 1, K], written at some places.
        values: the same.
        numbers: [R] int64, of the rows in `keys`.
        columns: [N] int64, of the states in `keys`.
        count: N.
        inputs: D.
        heads: H.
        key_heads: G.
        length: L + 1.
        at_once: states of a row.
    """
    tile = tl.program_id(0)
    chunks: tl.constexpr = WIDTH // (2 * HALF)
    head = tile // chunks
    low = (tile % chunks) * HALF + tl.arange(0, HALF)
    each = tl.arange(0, 2 * HALF)
    output = head * WIDTH + (each // HALF) * (WIDTH // 2) + (tile % chunks) * HALF + each % HALF
    total, is_last = whole_product(
        states, matrix, output, count, inputs, parts, depth_of_part, scratch, counters,
        SPLIT, ROWS, 2 * HALF, DEPTH,
    )  # fmt: skip
    if is_last:
        total = total * _norm_factor(squares, inputs, epsilon, tiles, TILES, ROWS)[None, :]
        if BIASED:
            total += tl.load(bias + output).to(tl.float32)[:, None]
        first, second = _halves(total, HALF, ROWS)
        row = tl.arange(0, ROWS)
        inside = row < count
        kind = query.dtype.element_ty
        if head < heads + key_heads:
            if NORMED:
                mean = (tl.sum(first * first, 0) + tl.sum(second * second, 0)) / WIDTH
                factor = tl.rsqrt(mean + epsilon)[None, :]
                norm = key_norm
                if head < heads:
                    norm = query_norm
                first = first * factor * tl.load(norm + low).to(tl.float32)[:, None]
                second = second * factor * tl.load(norm + low + WIDTH // 2).to(tl.float32)[:, None]
            position = tl.load(positions + row, mask=inside, other=0)
            angle = position[None, :] * WIDTH + low[:, None]
            mask = inside[None, :]
            cos_low = tl.load(cos + angle, mask=mask, other=0.0).to(tl.float32)
            sin_low = tl.load(sin + angle, mask=mask, other=0.0).to(tl.float32)
            cos_high = tl.load(cos + angle + WIDTH // 2, mask=mask, other=0.0).to(tl.float32)
            sin_high = tl.load(sin + angle + WIDTH // 2, mask=mask, other=0.0).to(tl.float32)
            turned = first * cos_low - second * sin_low
            second = second * cos_high + first * sin_high
            first = turned
        if head < heads:
            query_at = query + (row * heads + head)[None, :] * WIDTH + low[:, None]
            tl.store(query_at, first.to(kind), mask=inside[None, :])
            tl.store(query_at + WIDTH // 2, second.to(kind), mask=inside[None, :])
        else:
            number = tl.load(numbers + row // at_once, mask=inside, other=0)
            column = tl.load(columns + row, mask=inside, other=0)
            entry = (number * key_heads + (head - heads) % key_heads) * length + column
            entry_at = entry[None, :] * WIDTH + low[:, None]
            kept = values
            if head < heads + key_heads:
                kept = keys
            tl.store(kept + entry_at, first.to(kind), mask=inside[None, :])
            tl.store(kept + entry_at + WIDTH // 2, second.to(kind), mask=inside[None, :])


@triton.jit
def attend(
    query, keys, values, numbers, visible, scratch, powers, counters, out, scale,
    heads, key_heads, at_once, length, seen, parts, keys_of_part, visible_row, visible_query,
    GROUPS: tl.constexpr, MASKED: tl.constexpr, SPLIT: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Attention of a few queries to the kept keys of their rows.

    Args:
        query: [N, H, K].
        keys: [B, G, L + 1, K].
        values: the same.
        numbers: [R] int64, of the rows in `keys`.
        visible: [R, Q or 1, seen] bool, the keys that each query sees.
        scratch: [parts, N, H, K] float32.
        powers: [parts, N, H] float32.
        counters: int32, 0 of each program of a part.
        out: [N, H, K], written.
        scale: of queries times keys, for powers of 2.
        heads: H.
        key_heads: G.
        at_once: queries of a row.
        length: L + 1.
        seen: of how many columns, the first ones, the keys are read.
    """
    row, key_head = tl.program_id(0) // key_heads, tl.program_id(0) % key_heads
    part = tl.program_id(2)
    kept = (tl.load(numbers + row) * key_heads + key_head) * length * WIDTH
    # The heads that share keys lie one after the other, as queries of one head.
    number = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    inside = (number < GROUPS * at_once)[:, None]
    head, at = key_head * GROUPS + number // at_once, number % at_once
    width, column = tl.arange(0, WIDTH), tl.arange(0, KEYS)
    place = (row * at_once + at) * heads + head
    whole = place[:, None] * WIDTH + width[None, :]
    states = tl.load(query + whole, mask=inside, other=0.0)
    largest = tl.full((QUERIES,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((QUERIES,), dtype=tl.float32)
    summed = tl.zeros((QUERIES, WIDTH), dtype=tl.float32)
    begin = part * keys_of_part
    end = tl.minimum(begin + keys_of_part, seen)
    for start in range(begin, end, KEYS):
        where = start + column
        there = where < end
        inside_keys = there[None, :]
        if MASKED:
            seen_at = visible + row * visible_row + at[:, None] * visible_query + where[None, :]
            inside_keys = inside_keys & (tl.load(seen_at, mask=inside & inside_keys, other=0) != 0)
        key = tl.load(
            keys + kept + where[None, :] * WIDTH + width[:, None], mask=(where < end)[None, :], other=0.0
        )  # fmt: skip
        value = tl.load(
            values + kept + where[:, None] * WIDTH + width[None, :], mask=(where < end)[:, None], other=0.0
        )  # fmt: skip
        scores = (tl.dot(states, key) * scale).to(tl.float32)
        scores = tl.where(inside_keys, scores, float("-inf"))
        now = tl.maximum(largest, tl.max(scores, 1))
        base = tl.where(now == float("-inf"), 0.0, now)
        shares = tl.exp2(scores - base[:, None])
        fade = tl.exp2(largest - base)
        total = total * fade + tl.sum(shares, 1)
        summed = tl.dot(shares.to(value.dtype), value, summed * fade[:, None])
        largest = now
    summed = summed / tl.where(total == 0.0, 1.0, total)[:, None]
    is_last = part == 0
    if SPLIT:
        everything = tl.num_programs(0) // key_heads * at_once * heads
        tl.store(scratch + part * everything * WIDTH + whole, summed, mask=inside)
        # A part in which a query sees nothing counts with a weight of 2^-inf.
        tl.store(powers + part * everything + place, largest + tl.log2(total), mask=number < GROUPS * at_once)
        own = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        is_last = arrived_last(counters + own, parts)
        if is_last:
            largest = tl.full((QUERIES,), float("-inf"), dtype=tl.float32)
            total = tl.zeros((QUERIES,), dtype=tl.float32)
            summed = tl.zeros((QUERIES, WIDTH), dtype=tl.float32)
            for each in range(parts):
                power = tl.load(
                    powers + each * everything + place, mask=number < GROUPS * at_once, other=float("-inf"),
                    cache_modifier=".cg",
                )  # fmt: skip
                mixed = tl.load(
                    scratch + each * everything * WIDTH + whole, mask=inside, other=0.0, cache_modifier=".cg"
                )  # fmt: skip
                now = tl.maximum(largest, power)
                base = tl.where(now == float("-inf"), 0.0, now)
                share, fade = tl.exp2(power - base), tl.exp2(largest - base)
                total = total * fade + share
                summed = summed * fade[:, None] + mixed * share[:, None]
                largest = now
            summed = summed / tl.where(total == 0.0, 1.0, total)[:, None]
    if is_last:
        tl.store(out + whole, summed.to(out.dtype.element_ty), mask=inside)


@triton.jit
def add_product(
    states, matrix, bias, scratch, counters, hidden, weight, weighted, squares,
    count, inputs, outputs, parts, depth_of_part,
    BIASED: tl.constexpr, SPLIT: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """States times a matrix onto `hidden`, and what the next norm needs of the sum, see `weigh`.

    Args:
        states: [N, I].
        matrix: [D, I].
        bias: [D].
        scratch: float32, as large as all parts.
        counters: int32, 0 of each tile.
        hidden: [N, D], added to.
        weight: [D], the next norm's.
        weighted: [N, D], written.
        squares: [D / TILE, ROWS] float32, written.
        count: N.
        inputs: I.
        outputs: D.
    """
    tile = tl.program_id(0)
    output, row = tile * TILE + tl.arange(0, TILE), tl.arange(0, ROWS)
    total, is_last = whole_product(
        states, matrix, output, count, inputs, parts, depth_of_part, scratch, counters,
        SPLIT, ROWS, TILE, DEPTH,
    )  # fmt: skip
    if is_last:
        if BIASED:
            total += tl.load(bias + output).to(tl.float32)[:, None]
        place = row[None, :] * outputs + output[:, None]
        inside = (row < count)[None, :]
        now = tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32) + total
        narrow = tl.where(inside, now, 0.0).to(hidden.dtype.element_ty)
        tl.store(hidden + place, narrow, mask=inside)
        wide = narrow.to(tl.float32)
        scaled = wide * tl.load(weight + output).to(tl.float32)[:, None]
        tl.store(weighted + place, scaled.to(weighted.dtype.element_ty), mask=inside)
        tl.store(squares + tile * ROWS + row, tl.sum(wide * wide, 0))


@triton.jit
def gated_product(
    states, squares, matrix, bias, scratch, counters, out,
    count, inputs, outputs, parts, depth_of_part, epsilon, tiles,
    BIASED: tl.constexpr, SPLIT: tl.constexpr, TILES: tl.constexpr,
    ROWS: tl.constexpr, HALF: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """silu(gate) * rise of normalised states; a tile is HALF of either.

    Args:
        states: [N, D], weighted.
        squares: [tiles, ROWS], see `weigh`.
        matrix: [2 F, D], the gate's rows first.
        bias: [2 F].
        scratch: float32, as large as all parts.
        counters: int32, 0 of each tile.
        out: [N, F], written.
        count: N.
        inputs: D.
        outputs: F.
    """
    tile = tl.program_id(0)
    each = tl.arange(0, 2 * HALF)
    output = (each // HALF) * outputs + tile * HALF + each % HALF
    total, is_last = whole_product(
        states, matrix, output, count, inputs, parts, depth_of_part, scratch, counters,
        SPLIT, ROWS, 2 * HALF, DEPTH,
    )  # fmt: skip
    if is_last:
        total = total * _norm_factor(squares, inputs, epsilon, tiles, TILES, ROWS)[None, :]
        if BIASED:
            total += tl.load(bias + output).to(tl.float32)[:, None]
        gate, rise = _halves(total, HALF, ROWS)
        row = tl.arange(0, ROWS)
        place = row[None, :] * outputs + (tile * HALF + tl.arange(0, HALF))[:, None]
        risen = gate / (1.0 + tl.exp(-gate)) * rise
        tl.store(out + place, risen.to(out.dtype.element_ty), mask=(row < count)[None, :])

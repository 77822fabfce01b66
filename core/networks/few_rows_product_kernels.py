"""The product that kernels of few rows begin with: by several programs a tile, the last of which goes on."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _part_of_product(
    states, matrix, output, count, inputs, begin, end,
    ROWS: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """[TILE, ROWS] of the matrix's rows `output` and all states, over the columns from `begin` to `end`."""
    row = tl.arange(0, ROWS)
    depth = begin + tl.arange(0, DEPTH)
    weight_at = matrix + output[:, None].to(tl.int64) * inputs + depth[None, :]
    state_at = states + row[None, :] * inputs + depth[:, None]
    total = tl.zeros((TILE, ROWS), dtype=tl.float32)
    for _ in range(begin, end, DEPTH):
        state = tl.load(state_at, mask=(row < count)[None, :], other=0.0)
        weight = tl.load(weight_at, eviction_policy="evict_first")
        total = tl.dot(weight, state, total)
        state_at += DEPTH
        weight_at += DEPTH
    return total


@triton.jit
def arrived_last(counter, parts):
    """Whether the other parts are written, too; then the counter is 0 again."""
    tl.debug_barrier()  # all threads have written before one of them says so
    is_last = tl.atomic_add(counter, 1, sem="acq_rel") == parts - 1
    if is_last:
        tl.store(counter, 0)
    return is_last


@triton.jit
def whole_product(
    states, matrix, output, count, inputs, parts, depth_of_part, scratch, counters,
    SPLIT: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """([TILE, ROWS], whether this program goes on with it)."""
    tile, part = tl.program_id(0), tl.program_id(1)
    begin = part * depth_of_part
    end = tl.minimum(begin + depth_of_part, inputs)
    total = _part_of_product(states, matrix, output, count, inputs, begin, end, ROWS, TILE, DEPTH)
    is_last = part == 0
    if SPLIT:
        at = tl.arange(0, TILE)[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
        own = scratch + tile * parts * (TILE * ROWS) + at
        tl.store(own + part * (TILE * ROWS), total)
        is_last = arrived_last(counters + tile, parts)
        if is_last:
            total = tl.zeros((TILE, ROWS), dtype=tl.float32)
            for each in range(parts):
                total += tl.load(own + each * (TILE * ROWS), cache_modifier=".cg")
    return total, is_last

"""Linear layers and attention of few rows on a GPU, by kernels that read at the memory's speed.

Triton comes with torch's builds for GPUs. The kernels are of half precision only, so that float32 stays what
it is to the last bit; and each has to compute a small case right before it is used.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from opendllm.core.foundation.notices import warn_once
from opendllm.core.networks.attention import dense_attention
from opendllm.core.networks.varlen_kernels import AMPERE

MOST_ROWS = 64
"""Beyond, a library's products are as fast or faster."""
TILE, DEPTH = 64, 128
"""See `few_rows_kernels`; `DEPTH` divides the width of matrices."""
MOST_PARTS = 8
TOLERANCE = 2e-2
"""Of half precision beside float32, relative to the largest number."""


def product(rows: Tensor, weight: Tensor, bias: Tensor | None, multiprocessors: int) -> Tensor:
    """What `torch.nn.functional.linear` gives, of few rows by the kernel; without gradients.

    Args:
        rows: [..., I].
        weight: [O, I].
        bias: [O] or None.
        multiprocessors: see `multiprocessors_for`.
    """
    if not multiprocessors or not _takes_product(rows, weight):
        return linear(rows, weight, bias)
    outputs, inputs = weight.shape
    flat = rows.reshape(-1, inputs).contiguous()
    # As few as keep nearly all of them busy: the parts have to be added up.
    parts = min(MOST_PARTS, -(-multiprocessors * 9 // (10 * -(-outputs // TILE))))
    found: Tensor = torch.ops.opendllm.product_of_few_rows(flat, weight, parts)
    summed = found[0] if len(found) == 1 else found.sum(0)
    if bias is not None:
        summed = summed + bias
    return summed.to(rows.dtype).view(*rows.shape[:-1], outputs)


def attention(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, scale: float, multiprocessors: int
) -> Tensor:
    """[R, Q, H, K], what `dense_attention` gives, of few queries by the kernel; without gradients.

    Args:
        query: [R, H, Q, K].
        key: [R, G, L, K].
        value: [R, G, L, K].
        visible: [R, Q or 1, L] bool, the keys that each query sees; None where all see all.
        scale: of queries times keys.
        multiprocessors: see `multiprocessors_for`.
    """
    parts = _attention_parts(query, key, visible, multiprocessors)
    if parts < 2:
        return dense_attention(query, key, value, visible, scale, 0.0)
    mask = None if visible is None else visible[:, 0].contiguous()
    states, powers = torch.ops.opendllm.attention_of_few_queries(query, key, value, mask, scale, parts)
    shares = torch.exp2(powers - powers.amax(0))
    mixed: Tensor = (states * shares[..., None]).sum(0) / shares.sum(0)[..., None]
    return mixed.to(query.dtype)


@cache
def multiprocessors_for(device: torch.device, dtype: torch.dtype) -> int:
    """Among how many the kernels are divided; 0 where they are not there, or wrong, which is said."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return 0
    if torch.cuda.get_device_capability(device) < AMPERE:
        return 0
    try:
        from opendllm.core.networks import few_rows_kernels as _registered  # noqa: F401 (needs triton)
    except ImportError:
        return 0
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    try:
        off = _largest_mistake(device, dtype, count)
    except Exception as error:
        warn_once(f"kernels for few rows are left out: {type(error).__name__}: {str(error)[:200]}")
        return 0
    if not off <= TOLERANCE:
        warn_once(f"kernels for few rows are left out: they are off by {off:.2g} of the largest number")
        return 0
    return count


@torch.no_grad()
def _largest_mistake(device: torch.device, dtype: torch.dtype, count: int) -> float:
    """Of the kernels beside float32, relative to the largest number."""
    draws = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws).to(device, dtype)

    rows, weight, wide = drawn(20, 512), drawn(100, 512), drawn(64 * 300, 512)
    query, key, value = drawn(2, 4, 9, 64), drawn(2, 2, 200, 64), drawn(2, 2, 200, 64)
    visible = torch.arange(200, device=device) % 3 > 0
    cases = [
        (
            product(rows, matrix, matrix[:, 0], count),
            linear(rows.float(), matrix.float(), matrix[:, 0].float()),
        )
        for matrix in (weight, wide)
    ]
    for mask in (None, visible.expand(2, 1, 200)):
        seen = None if mask is None else mask[:, None]
        wanted = scaled_dot_product_attention(
            query.float(), key.float(), value.float(), seen, scale=0.1, enable_gqa=True
        )
        cases.append((attention(query, key, value, mask, 0.1, count), wanted.transpose(1, 2)))
    off = [(ours.float() - other).abs().max() / other.abs().max() for ours, other in cases]
    return float(torch.stack(off).max())  # a NaN's is NaN, whichever it is of


def _takes_product(rows: Tensor, weight: Tensor) -> bool:
    count = rows.numel() // max(1, rows.shape[-1])
    return (
        rows.dtype in (torch.float16, torch.bfloat16)
        and weight.dtype == rows.dtype
        and 0 < count <= MOST_ROWS
        and rows.shape[-1] % DEPTH == 0
        and weight.is_contiguous()
    )


def _attention_parts(query: Tensor, key: Tensor, visible: Tensor | None, multiprocessors: int) -> int:
    """Among how many programs the keys of a query are divided; 1 where the kernel is not for it."""
    rows, heads, queries, width = query.shape
    key_heads, seen = key.shape[1], key.shape[2]
    whole = width in (16, 32, 64, 128, 256) and query.dtype in (torch.float16, torch.bfloat16)
    masked_alike = visible is None or visible.shape[1] == 1
    if not (multiprocessors and whole and masked_alike and queries < seen):
        return 1
    tiles = rows * key_heads * -(-(heads // key_heads) * queries // 64)
    return min(-(-multiprocessors // tiles), -(-seen // 128))

"""Segment-aware attention for transformers' stock models.

transformers hands unknown keyword arguments of a model's forward down to its attention function,
and prepares no mask for a function that it doesn't know. So the one registered here receives
`visible` from `TransformersLM` and nothing else decides who sees whom.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTION_NAME = "opendllm_segments"


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    visible: Tensor | None = None,
    **_of_other_backends: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention [B, H, L, K] -> [B, L, H, K] under `visible` [B, L, L] bool."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    mask = None if visible is None else visible[:, None]
    output = scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, scale=scaling)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION_NAME, segment_attention)

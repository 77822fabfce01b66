"""The network that Open-dCoder's and Dream's config.json describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen2Config

_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "rope_theta", "rms_norm_eps", "tie_word_embeddings",
    "hidden_act", "attention_dropout",
)  # fmt: skip


def qwen2_network(config: Mapping[str, Any]) -> Qwen2Config:
    """transformers' Qwen2Config with the same arithmetic."""
    return Qwen2Config(**{key: config[key] for key in _KEYS if key in config})

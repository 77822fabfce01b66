"""The network that Open-dCoder's and Dream's config.json describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen2Config

_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings",
)  # fmt: skip
_WITH_DEFAULTS = (
    "rope_theta", "rope_scaling", "rope_parameters", "rms_norm_eps", "tie_word_embeddings", "hidden_act",
    "attention_dropout",
)  # fmt: skip


def qwen2_network(config: Mapping[str, Any]) -> Qwen2Config:
    """transformers' Qwen2Config with the same arithmetic.

    transformers 4 writes rope_theta and rope_scaling, transformers 5 rope_parameters.
    """
    sizes = {key: config[key] for key in _SIZES}
    return Qwen2Config(**sizes, **{key: config[key] for key in _WITH_DEFAULTS if key in config})

"""The networks that Qwen-shaped config.json files describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen2Config, Qwen3Config

from opendllm.core.toolkit.transformers_lm import CheckpointFormat
from opendllm.registries.errors import UserError

_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rope_theta",
    "rms_norm_eps",
)
_OPTIONAL = ("tie_word_embeddings", "hidden_act", "attention_dropout", "head_dim", "rope_scaling")
_CLASSES = {"qwen2": Qwen2Config, "qwen3": Qwen3Config}


def qwen_format(backbone: str, shape: str, config: Mapping[str, Any], logit_shift: bool) -> CheckpointFormat:
    """A family that keeps Qwen's own key names.

    Args:
        backbone: the plugin's name.
        shape: "qwen2" or "qwen3".
        config: the family's config.json.
        logit_shift: whether hidden state i-1 predicts token i.

    Raises:
        KeyError: config.json lacks a size.
        UserError: it asks for sliding windows, which a bidirectional model doesn't have.
    """
    if shape not in _CLASSES:
        raise UserError(f"model_type {config.get('model_type')!r} is not Qwen-shaped")
    if config.get("use_sliding_window"):
        raise UserError("config.json asks for sliding-window attention, which is not supported")
    sizes = {key: config[key] for key in _REQUIRED if key != "rope_theta"}
    sizes |= {key: config[key] for key in _OPTIONAL if config.get(key) is not None}
    # transformers 5 writes the base frequency into rope_parameters.
    theta = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta")
    if theta is None:
        raise KeyError("rope_theta")
    network = _CLASSES[shape](**sizes, rope_theta=theta)
    return CheckpointFormat(backbone, network, {}, logit_shift, config["max_position_embeddings"])

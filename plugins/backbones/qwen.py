"""The networks that Qwen-shaped config.json files describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen2Config, Qwen3Config

from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.registries.errors import UserError

_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
_OPTIONAL = ("tie_word_embeddings", "hidden_act", "attention_dropout", "head_dim")
# transformers 4 writes rope_theta and rope_scaling, transformers 5 rope_parameters.
_ROTARY = ("rope_theta", "rope_scaling", "rope_parameters")
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
    if not any(config.get(key) for key in ("rope_theta", "rope_parameters")):
        raise KeyError("rope_theta")
    sizes = {key: config[key] for key in _REQUIRED}
    given = {key: config[key] for key in (*_OPTIONAL, *_ROTARY) if config.get(key) is not None}
    network = _CLASSES[shape](**sizes, **given)
    return CheckpointFormat(backbone, network, {}, logit_shift, config["max_position_embeddings"])

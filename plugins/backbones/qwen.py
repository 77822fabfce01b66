"""The networks that Qwen-shaped config.json files describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen2Config, Qwen3Config

from opendllm.core.networks.config_checks import (
    require_activation,
    require_counts,
    require_full_attention,
    require_head_size,
    require_positive,
    require_values,
)
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
_HONOURED: dict[str, dict[str, tuple[Any, ...]]] = {
    "qwen2": {"attention_bias": (True,), "use_qk_norm": (False,), "partial_rotary_factor": (1,)},
    "qwen3": {"attention_bias": (False,), "use_qk_norm": (True,), "partial_rotary_factor": (1,)},
}
"""What the stock classes compute, whatever a config.json says."""
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
        UserError: it asks for sliding windows, which a bidirectional model doesn't have, for what the stock
            class computes otherwise, or has a size that is none.
    """
    if shape not in _CLASSES:
        raise UserError(f"model_type {config.get('model_type')!r} is not Qwen-shaped")
    require_full_attention(config)
    require_values(config, _HONOURED[shape])
    require_counts(config, *[key for key in _REQUIRED if key != "rms_norm_eps"])
    require_head_size(config)
    require_activation(config)
    require_positive(config, "rms_norm_eps", "rope_theta")
    if not any(config.get(key) for key in ("rope_theta", "rope_parameters")):
        raise KeyError("rope_theta")
    sizes = {key: config[key] for key in _REQUIRED}
    given = {key: config[key] for key in (*_OPTIONAL, *_ROTARY) if config.get(key) is not None}
    network = _CLASSES[shape](**sizes, **given)
    return CheckpointFormat(backbone, network, {}, logit_shift, config["max_position_embeddings"])

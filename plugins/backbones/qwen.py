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
from opendllm.core.networks.config_keys import DECODER_DETAILS, DECODER_SIZES, decoder_keys
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.registries.errors import UserError

_OPTIONAL = (*DECODER_DETAILS, "attention_dropout")
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
    require_counts(config, *[key for key in DECODER_SIZES if key != "rms_norm_eps"])
    require_head_size(config)
    require_activation(config)
    require_positive(config, "rms_norm_eps", "rope_theta")
    if not any(config.get(key) for key in ("rope_theta", "rope_parameters")):
        raise KeyError("rope_theta")
    network = _CLASSES[shape](**decoder_keys(config, optional=_OPTIONAL))
    return CheckpointFormat(backbone, network, {}, logit_shift, config["max_position_embeddings"])

"""OLMo 2, made bidirectional."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from opendllm.core.networks.transformers_backbone import TransformersBackbone
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.registries.backbones import Backbone
from opendllm.registries.errors import UserError
from transformers import Olmo2Config

from opendllm_examples import OLMO2_PRESETS, Olmo2Options

REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
OPTIONAL = ("tie_word_embeddings", "hidden_act", "rope_theta", "rope_scaling", "rope_parameters")


def olmo2(options: Olmo2Options) -> Backbone:
    """From scratch, or on from allenai's checkpoints (`pretrained: allenai/OLMo-2-0425-1B`)."""
    return TransformersBackbone(
        options, OLMO2_PRESETS[options.preset], partial(read_config, options.logit_shift)
    )


def read_config(logit_shift: bool, config: Mapping[str, Any]) -> CheckpointFormat:
    """OLMo 2's own keys, and the stock class of transformers.

    Raises:
        KeyError: config.json lacks a size.
        UserError: it is of another family.
    """
    if config["model_type"] != "olmo2":
        raise UserError(f"model_type {config['model_type']!r} is not OLMo 2: choose another backbone")
    sizes = {key: config[key] for key in REQUIRED}
    given = {key: config[key] for key in OPTIONAL if config.get(key) is not None}
    network = Olmo2Config(**sizes, **given)
    return CheckpointFormat("olmo2", network, {}, logit_shift, config["max_position_embeddings"])

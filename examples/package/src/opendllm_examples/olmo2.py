"""OLMo 2, made bidirectional."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from opendllm.core.networks.config_keys import decoder_keys
from opendllm.core.networks.transformers_backbone import TransformersBackbone
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.registries.backbones import Backbone
from opendllm.registries.errors import UserError
from transformers import Olmo2Config

from opendllm_examples import OLMO2_PRESETS, Olmo2Options


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
    network = Olmo2Config(**decoder_keys(config))
    return CheckpointFormat("olmo2", network, {}, logit_shift, config["max_position_embeddings"])

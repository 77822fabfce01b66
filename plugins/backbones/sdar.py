"""SDAR: Qwen3 with block-causal attention, no shift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opendllm.core.networks.transformers_backbone import TransformersBackbone
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.plugins.backbones import SDAR_BLOCK_KEY, SdarOptions
from opendllm.plugins.backbones.presets import SDAR
from opendllm.plugins.backbones.qwen import qwen_format
from opendllm.registries.backbones import Backbone


def sdar(options: SdarOptions) -> Backbone:
    """JetLM/SDAR-1.7B to 8B, Gen-Verse/TraDo-4B and -8B."""
    return TransformersBackbone(options, SDAR[options.preset], _format)


def _format(config: Mapping[str, Any]) -> CheckpointFormat:
    stock = qwen_format("sdar", "qwen3", config, logit_shift=False)
    return replace(stock, block_length=config.get(SDAR_BLOCK_KEY), block_key=SDAR_BLOCK_KEY)

"""Fast-dLLM v2: Qwen2 with block-causal attention, logits shifted by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opendllm.core.networks.transformers_backbone import TransformersBackbone
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.plugins.backbones import FAST_DLLM_V2_BLOCK_KEY, FastDllmV2Options
from opendllm.plugins.backbones.presets import FAST_DLLM_V2
from opendllm.plugins.backbones.qwen import qwen_format
from opendllm.registries.backbones import Backbone


def fast_dllm_v2(options: FastDllmV2Options) -> Backbone:
    """Efficient-Large-Model/Fast_dLLM_v2_1.5B and _7B."""
    return TransformersBackbone(options, FAST_DLLM_V2[options.preset], _format)


def _format(config: Mapping[str, Any]) -> CheckpointFormat:
    stock = qwen_format("fast-dllm-v2", "qwen2", config, logit_shift=True)
    return replace(stock, block_length=config.get(FAST_DLLM_V2_BLOCK_KEY), block_key=FAST_DLLM_V2_BLOCK_KEY)

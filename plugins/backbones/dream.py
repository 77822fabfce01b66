"""Dream: Qwen2-shaped, bidirectional, logits shifted by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opendllm.core.networks.transformers_backbone import TransformersBackbone
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.plugins.backbones import DreamOptions
from opendllm.plugins.backbones.presets import DREAM
from opendllm.plugins.backbones.qwen import qwen_format
from opendllm.registries.backbones import Backbone


def dream(options: DreamOptions) -> Backbone:
    """Dream-org/Dream-v0-*, Dream-Coder and DiffuCoder."""
    return TransformersBackbone(options, DREAM[options.preset], _format)


def _format(config: Mapping[str, Any]) -> CheckpointFormat:
    return qwen_format("dream", "qwen2", config, logit_shift=True)

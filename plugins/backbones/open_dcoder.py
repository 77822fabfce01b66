"""Open-dCoder: Qwen2, bidirectional, logits shifted by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opendllm.core.networks.transformers_backbone import TransformersBackbone
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.plugins.backbones import OpenDcoderOptions
from opendllm.plugins.backbones.presets import OPEN_DCODER
from opendllm.plugins.backbones.qwen import qwen_format
from opendllm.registries.backbones import Backbone


def open_dcoder(options: OpenDcoderOptions) -> Backbone:
    """fredzzp/open-dcoder-0.5B and models of its kind."""
    return TransformersBackbone(options, OPEN_DCODER[options.preset], _format)


def _format(config: Mapping[str, Any]) -> CheckpointFormat:
    return qwen_format("open-dcoder", "qwen2", config, logit_shift=True)

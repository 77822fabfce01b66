"""Qwen3 made bidirectional."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from opendllm.core.networks.transformers_backbone import TransformersBackbone
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.plugins.backbones import Qwen3Options
from opendllm.plugins.backbones.presets import QWEN3
from opendllm.plugins.backbones.qwen import qwen_format
from opendllm.registries.backbones import Backbone


def qwen3(options: Qwen3Options) -> Backbone:
    """Qwen3, with or without shift."""
    return TransformersBackbone(options, QWEN3[options.preset], partial(_format, options.logit_shift))


def _format(logit_shift: bool, config: Mapping[str, Any]) -> CheckpointFormat:
    return qwen_format("qwen3", "qwen3", config, logit_shift)

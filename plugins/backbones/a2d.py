"""dllm's A2D checkpoints: Qwen2 and Qwen3 made bidirectional, no shift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opendllm.core.networks.transformers_backbone import TransformersBackbone
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.plugins.backbones import A2dOptions
from opendllm.plugins.backbones.presets import A2D
from opendllm.plugins.backbones.qwen import qwen_format
from opendllm.registries.backbones import Backbone


def a2d(options: A2dOptions) -> Backbone:
    """dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1, Qwen3-0.6B-diffusion-* and their kind."""
    return TransformersBackbone(options, A2D[options.preset], _format)


def _format(config: Mapping[str, Any]) -> CheckpointFormat:
    shape = str(config["model_type"]).removeprefix("a2d-")
    # dllm's sampler gives a last block only the positions that are asked for (@ca176752, samplers/bd3lm.py).
    return replace(qwen_format("a2d", shape, config, logit_shift=False), fills_last_block=False)

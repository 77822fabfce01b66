"""Open-dCoder: Qwen2, bidirectional, logits shifted by one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from opendllm.core.toolkit.transformers_lm import CheckpointFormat, build_lm, load_lm
from opendllm.plugins.backbones import OpenDcoderOptions
from opendllm.plugins.backbones.presets import OPEN_DCODER
from opendllm.plugins.backbones.qwen2 import qwen2_network
from opendllm.registries.backbones import Backbone, DiffusionLM, Vocabulary
from opendllm.registries.sequences import AttentionPattern


class OpenDcoder(Backbone):
    """fredzzp/open-dcoder-0.5B and models of its kind."""

    def __init__(self, options: OpenDcoderOptions) -> None:
        self._preset = OPEN_DCODER[options.preset]
        self._attention = AttentionPattern(options.attention, options.block_length)

    def build(self, vocabulary: Vocabulary) -> DiffusionLM:
        """See `Backbone.build`."""
        config = self._preset | {
            "vocab_size": vocabulary.size,
            "mask_token_id": vocabulary.mask_token_id,
            "eos_token_id": vocabulary.eos_token_id,
        }
        return build_lm(
            _format(config), config, self._attention, vocabulary.mask_token_id, vocabulary.eos_token_id
        )

    def load(
        self, folder: Path, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype | None
    ) -> DiffusionLM:
        """See `Backbone.load`."""
        return load_lm(folder, _format(config), config, self._attention, device, dtype)


def _format(config: Mapping[str, Any]) -> CheckpointFormat:
    return CheckpointFormat("open-dcoder", qwen2_network(config), {}, True, config["max_position_embeddings"])

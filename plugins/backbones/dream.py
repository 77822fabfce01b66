"""Dream: Qwen2-shaped, bidirectional, logits shifted by one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from opendllm.core.toolkit.transformers_lm import CheckpointFormat, build_lm, load_lm
from opendllm.plugins.backbones import DreamOptions
from opendllm.plugins.backbones.presets import DREAM
from opendllm.plugins.backbones.qwen2 import qwen2_network
from opendllm.registries.backbones import Backbone, DiffusionLM, Vocabulary
from opendllm.registries.sequences import AttentionPattern


class Dream(Backbone):
    """Dream-org/Dream-v0-*, Dream-Coder and DiffuCoder."""

    def __init__(self, options: DreamOptions) -> None:
        self._preset = DREAM[options.preset]
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
    return CheckpointFormat("dream", qwen2_network(config), {}, True, config["max_position_embeddings"])

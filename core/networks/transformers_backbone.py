"""A family of checkpoints that a stock transformers class computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from opendllm.core.foundation.notices import warn_once
from opendllm.core.networks.placement import Placement
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.core.networks.transformers_loading import build_lm, load_lm
from opendllm.registries.backbones import Backbone, DiffusionLM, Vocabulary
from opendllm.registries.errors import UserError, first_line
from opendllm.registries.options import BackboneOptions
from opendllm.registries.sequences import AttentionPattern

VOCABULARY_KEYS = ("vocab_size", "embedding_size")
"""Of config.json: how many rows its embedding has."""


class TransformersBackbone(Backbone):
    """What differs between families is a preset's config.json and how one is read."""

    def __init__(
        self,
        options: BackboneOptions,
        preset: Mapping[str, Any] | None,
        describe: Callable[[Mapping[str, Any]], CheckpointFormat],
        vocabulary_multiple: int = 1,
    ) -> None:
        """Name the family.

        Args:
            options: attention pattern and block length, device map and 8-bit weights are taken from them;
                what else the family's options hold, the caller puts into `preset` and `describe`.
            preset: config.json of a model built from scratch; its `vocab_size` (or `embedding_size`), mask
                and EOS ids give way to the tokenizer's. None where there is no such thing.
            describe: reads the family's config.json, whether the preset's or a checkpoint's. A KeyError of
                it is told as a key that the file lacks, a ValueError or TypeError as one that can't be used.
            vocabulary_multiple: a loaded checkpoint's vocabulary is grown to a multiple of this.
        """
        self._preset = preset
        self._spread = options.device_map is not None
        self._in_8bit = options.load_in_8bit
        self._describe = describe
        self._vocabulary_multiple = vocabulary_multiple
        self._attention = AttentionPattern(options.attention, options.block_length)

    def _pattern(self, checkpoint: CheckpointFormat, where: str) -> AttentionPattern:
        """With the checkpoint's own block length, where no other was asked for.

        Raises:
            UserError: nobody says how long a block is, or the checkpoint's is no length.
        """
        asked, trained = self._attention.block_length, checkpoint.block_length
        if self._attention.kind != "block-causal":
            return self._attention
        if trained is not None and (type(trained) is not int or trained < 1):
            raise UserError(
                f"{where}: {checkpoint.block_key} is {trained!r}, and a block has 1 position or more"
            )
        if asked is None and trained is None:
            raise UserError(f"{where}: nothing says how long a block is: give block_length")
        if asked is not None and trained is not None and asked != trained:
            warn_once(
                f"{where}: block_length {asked} is asked for, and the checkpoint was trained with {trained}"
            )
        return AttentionPattern("block-causal", trained if asked is None else asked)

    def build(self, vocabulary: Vocabulary) -> DiffusionLM:
        """See `Backbone.build`."""
        if self._preset is None:
            raise UserError("this backbone has no presets: give `pretrained`, a folder or a hub id")
        sizes = {key: vocabulary.size for key in VOCABULARY_KEYS if key in self._preset}
        ids = {"mask_token_id": vocabulary.mask_token_id, "eos_token_id": vocabulary.eos_token_id}
        config = {**self._preset, **sizes, **ids}
        checkpoint = self._describe(config)
        if self._attention.block_length is not None:  # nothing was trained with the preset's
            checkpoint = replace(checkpoint, block_length=self._attention.block_length)
        return build_lm(
            checkpoint,
            config,
            self._pattern(checkpoint, f"backbone {checkpoint.backbone}"),
            vocabulary.mask_token_id,
            vocabulary.eos_token_id,
        )

    def load(
        self,
        folder: Path,
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype | None,
        min_vocab_size: int = 0,
    ) -> DiffusionLM:
        """See `Backbone.load`."""
        try:
            checkpoint = self._describe(config)
        except KeyError as error:
            raise UserError(f"{folder / 'config.json'} lacks the key {error}") from error
        except (ValueError, TypeError, StrictDataclassError) as error:
            raise UserError(f"{folder / 'config.json'} cannot be used: {first_line(error)}") from error
        placement = Placement(device, dtype, self._spread, self._in_8bit)
        pattern = self._pattern(checkpoint, str(folder / "config.json"))
        lm = load_lm(folder, checkpoint, config, pattern, placement)
        wanted = max(lm.vocab_size, min_vocab_size)
        wanted += -wanted % self._vocabulary_multiple
        if wanted > lm.vocab_size:
            sizes = {key: wanted for key in VOCABULARY_KEYS if key in config}
            lm.grow_vocabulary(wanted, {**config, **sizes})
        lm.check_mask_token(folder)
        return lm

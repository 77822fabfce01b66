"""The evaluated checkpoint, once on every device that this process has for itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from opendllm.core.checkpoints.files import model_folder
from opendllm.core.checkpoints.loading import load_model, load_tokenizer, torch_device
from opendllm.core.checkpoints.tokenizer_files import end_of_turn_id, ids_without_token
from opendllm.core.evaluation.answering import Replica
from opendllm.core.foundation.ranks import world_size
from opendllm.core.manifest.schema import Manifest, PluginChoice
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.discovery import Plugins
from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class LoadedModel:
    """A model on one device; threads can't share a tokenizer, so each has its own."""

    lm: DiffusionLM
    tokenizer: PreTrainedTokenizerFast

    def with_sampler(self, plugins: Plugins, choice: PluginChoice) -> Replica:
        """The replica that writes with a sampler."""
        return Replica(self.lm, self.tokenizer, plugins.samplers.get(choice.name).build(choice.options))


def load_replicas(plugins: Plugins, source: Path, manifest: Manifest) -> list[LoadedModel]:
    """The model and its tokenizer, on each device.

    Raises:
        UserError: see `load_model`; or there is no tokenizer.
    """
    model = manifest.model.backbone
    spread = model.options.get("device_map") is not None
    loaded = []
    for device in _devices(manifest.device, spread):
        lm, _ = load_model(plugins, source, device, backbone=model.name, options=model.options)
        tokenizer = load_tokenizer(source)
        if tokenizer is None:
            raise UserError(f"{model_folder(source)} has no tokenizer, which benchmarks need")
        lm.end_of_turn_token_id = end_of_turn_id(tokenizer)
        lm.ids_without_token = ids_without_token(tokenizer, lm)
        loaded.append(LoadedModel(lm, tokenizer))
    return loaded


def _devices(name: str, spread: bool) -> list[torch.device]:
    """One under a launcher, for a named device, and where one model takes them all; else every GPU."""
    if name != "auto" or spread or world_size() > 1 or torch.cuda.device_count() < 2:
        return [torch_device(name)]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]

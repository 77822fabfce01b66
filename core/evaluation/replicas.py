"""The evaluated checkpoint, once on every device that this process has for itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from opendllm.core.checkpoints.files import model_folder
from opendllm.core.checkpoints.loading import load_checkpoint, torch_device
from opendllm.core.checkpoints.text_codec import TextCodec
from opendllm.core.evaluation.answering import Replica
from opendllm.core.foundation.ranks import world_size
from opendllm.registries.backbones import Backbone, DiffusionLM
from opendllm.registries.errors import UserError
from opendllm.registries.options import BackboneOptions, SamplerOptions
from opendllm.registries.registry import ChosenPlugin
from opendllm.registries.samplers import Sampler

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class LoadedModel:
    """A model on one device; threads can't share a tokenizer, so each has its own."""

    lm: DiffusionLM
    tokenizer: PreTrainedTokenizerFast
    codec: TextCodec

    def with_sampler(self, sampler: ChosenPlugin[Sampler, SamplerOptions]) -> Replica:
        """The replica that writes with a sampler of its own."""
        return Replica(self.lm, self.tokenizer, self.codec, sampler.build())


def load_replicas(
    source: Path,
    backbone: ChosenPlugin[Backbone, BackboneOptions],
    device_name: str,
    add_bos_token: bool | None = None,
) -> list[LoadedModel]:
    """The model and its tokenizer, on each device.

    Args:
        source: the checkpoint's folder.
        backbone: its family.
        device_name: the manifest's `device`.
        add_bos_token: the manifest's, over what the tokenizer says.

    Raises:
        UserError: see `load_model`; or there is no tokenizer.
    """
    loaded = []
    for device in _devices(device_name, backbone.options.device_map is not None):
        found = load_checkpoint(source, backbone, device, add_bos_token=add_bos_token)
        if found.tokenizer is None or found.codec is None:
            raise UserError(f"{model_folder(source)} has no tokenizer, which benchmarks need")
        loaded.append(LoadedModel(found.lm, found.tokenizer, found.codec))
    return loaded


def _devices(name: str, spread: bool) -> list[torch.device]:
    """One under a launcher, for a named device, and where one model takes them all; else every GPU."""
    if name != "auto" or spread or world_size() > 1 or torch.cuda.device_count() < 2:
        return [torch_device(name)]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]

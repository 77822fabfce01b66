"""A stock transformers causal LM, turned into a `DiffusionLM`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)

from opendllm.core.networks.canvas_reader import TransformersReader, network_states
from opendllm.core.networks.fused_reading import FusedNetwork, can_be_fused
from opendllm.core.networks.kept_kernels import keep_kernels
from opendllm.core.networks.noise_section import CONFIG_FILE, OWN_SECTION, noise_section
from opendllm.core.networks.safetensors_folder import write_weights
from opendllm.core.networks.scoring_module import ScoringModule, refuse_time
from opendllm.core.networks.token_losses import let_score, token_losses
from opendllm.core.networks.weight_pieces import Pieces, published_tensors
from opendllm.registries.backbones import CanvasReader, DiffusionLM
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import AttentionPattern, ModelInputs

GENERATION_FILE = "generation_config.json"
COMPILED_SHAPES = 64
"""For how many shapes a process compiles the networks."""


@dataclass(frozen=True)
class CheckpointFormat:
    """How one family writes its checkpoints.

    Attributes:
        backbone: the plugin's name, for error messages and config.json.
        network_config: the transformers config of the stock class with the same arithmetic; the class is
            the one that transformers' causal LM mapping has for it. It's made bidirectional here.
        published_keys: from the stock class's parameter names to the family's own; those that have the same
            name may be left out, and an empty mapping keeps all of them.
        logit_shift: whether hidden state i-1 predicts token i.
        context_length: the most positions that it was made for.
        tying_key: of config.json, whether the LM head shares the embedding.
        pieces: published keys that are parts of stock parameters, or several of them in one.
        other_pieces: further keys that are read in their place, and never written.
        block_length: that the checkpoint was trained with; None where nobody says.
        block_key: of config.json, where the family writes its block length down.
        fills_last_block: see `DiffusionLM.fills_last_block`.
        softmax_router: whether it has mixture layers that a softmax routes, so that their load can be
            balanced by a loss.
        model_type: of config.json, of what is saved; None for that of the file that was read.
        adapt: changes the stock network in place, before its weights are there.
    """

    backbone: str
    network_config: PretrainedConfig
    published_keys: Mapping[str, str]
    logit_shift: bool
    context_length: int
    tying_key: str = "tie_word_embeddings"
    pieces: Pieces = field(default_factory=dict)
    other_pieces: Pieces = field(default_factory=dict)
    block_length: int | None = None
    block_key: str | None = None
    fills_last_block: bool = True
    softmax_router: bool = False
    model_type: str | None = None
    adapt: Callable[[PreTrainedModel], None] | None = None


class TransformersLM(DiffusionLM):
    """The published arithmetic, behind aligned logits."""

    module: ScoringModule
    supports_kv_cache = True

    def __init__(
        self,
        network: PreTrainedModel,
        checkpoint: CheckpointFormat,
        config: Mapping[str, Any],
        attention: AttentionPattern,
        mask_token_id: int,
        eos_token_id: int | None,
    ) -> None:
        if attention.kind == "causal" and not checkpoint.logit_shift:
            raise UserError(
                f"backbone {checkpoint.backbone}: attention cannot be causal where logits are not shifted, "
                "since each position would read the token that it predicts"
            )
        self.module = ScoringModule(network, attention, checkpoint.logit_shift)
        self.attention = attention
        self.fills_last_block = checkpoint.fills_last_block
        self.logit_shift = checkpoint.logit_shift
        self.mask_token_id = mask_token_id
        self.eos_token_id = eos_token_id
        self.vocab_size = checkpoint.network_config.vocab_size
        self.context_length = checkpoint.context_length
        self._format = checkpoint
        self._config = dict(config)
        self._fused: FusedNetwork | None = None

    @property
    def network(self) -> PreTrainedModel:
        """See `DiffusionLM.network`."""
        return self.module.network

    def balance_experts(self, weight: float) -> None:
        """See `DiffusionLM.balance_experts`."""
        if not self._format.softmax_router:
            super().balance_experts(weight)
        self.module.balance_weight = weight

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """See `DiffusionLM.hidden_states`."""
        hidden = self.module.network_states(inputs)
        predictors = self.module.predictors_of(inputs)
        return hidden.gather(1, predictors[:, :, None].expand_as(hidden)) if self.logit_shift else hidden

    def predictors(self, segments: Tensor) -> Tensor:
        """See `DiffusionLM.predictors`."""
        return self.module.predictors(segments)

    def reader(self, inputs: ModelInputs, use_kv_cache: bool = False, compiled: bool = False) -> CanvasReader:
        """See `DiffusionLM.reader`."""
        refuse_time(inputs)
        return TransformersReader(
            self.module.network,
            self.attention,
            self.module.predictors,
            inputs,
            use_kv_cache,
            self._reads(compiled),
        )

    def _reads(self, compiled: bool) -> Callable[..., Tensor]:
        """`network_states`, or what does the same faster: on a GPU fused, and compiled where asked for."""
        network, on_gpu = self.module.network, next(self.module.parameters()).is_cuda
        if compiled:
            if not on_gpu and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
                raise UserError("compile needs a C++ compiler on a CPU, and none is installed: leave it out")
            keep_kernels()
            # Beyond the limit, 8 by default, a further shape (or model) would be run uncompiled from then on.
            limits = torch._dynamo.config
            limits.recompile_limit = max(limits.recompile_limit, COMPILED_SHAPES)
        fuses = (on_gpu or compiled) and can_be_fused(network)
        if self._fused is not None and not (fuses and self._fused.is_of(network)):
            self._fused = None  # before others are joined: memory need not hold both
        if fuses:
            self._fused = self._fused or FusedNetwork(network)
            return self._fused.reads(compiled)
        return torch.compile(network_states, dynamic=False) if compiled else network_states

    def project(self, hidden: Tensor) -> Tensor:
        """See `DiffusionLM.project`."""
        logits: Tensor = self.module.network.get_output_embeddings()(hidden)
        return logits

    def negative_log_likelihood(self, inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:
        """See `DiffusionLM.negative_log_likelihood`."""
        hidden, chosen = self.module.scored_states(inputs, targets, scored)
        return token_losses(self.module.network.get_output_embeddings(), hidden, chosen)

    def grow_vocabulary(self, size: int, config: Mapping[str, Any]) -> None:
        """Add tokens, their embeddings at the mean of the old ones.

        Args:
            size: of the new vocabulary.
            config: config.json with that size.
        """
        network = self.module.network
        # transformers' own mean_resizing draws around the mean, from a generator that nobody seeded.
        network.resize_token_embeddings(size, mean_resizing=False)
        let_score(network.get_output_embeddings())
        with torch.no_grad():
            for layer in (network.get_input_embeddings(), network.get_output_embeddings()):
                for parameter in layer.parameters():
                    parameter[self.vocab_size :] = parameter[: self.vocab_size].float().mean(0)
        self.vocab_size = size
        self._config = dict(config)

    def check_mask_token(self, folder: Path) -> None:
        """The mask token must have an embedding.

        Raises:
            UserError: it has none.
        """
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise UserError(
                f"{folder}: the mask token's id {self.mask_token_id} is outside the vocabulary of "
                f"{self.vocab_size}"
            )

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """See `DiffusionLM.save`.

        Raises:
            UserError: the weights are somebody else's quantized ones.
        """
        if getattr(self.network, "is_quantized", False):
            raise UserError("quantized weights are evaluated, not saved: copy their folder")
        ours = {key.removeprefix("network."): tensor for key, tensor in weights.items()}
        published = dict(published_tensors(self._format.pieces, ours))
        apart = {part.name for parts in self._format.pieces.values() for part in parts}
        for name in ours.keys() - apart - shared_keys(self._format.network_config).keys():
            published[self._format.published_keys.get(name, name)] = ours[name]
        write_weights(folder, published)
        own = {
            "backbone": self._format.backbone,
            "attention": self.attention.kind,
            "block_length": self.attention.block_length,
            "logit_shift": self.logit_shift,
            **noise_section(self.noise),
        }
        config = self._config | {
            "mask_token_id": self.mask_token_id,
            "torch_dtype": str(next(iter(weights.values())).dtype).removeprefix("torch."),
            OWN_SECTION: own,
        }
        if self._format.model_type is not None:
            config["model_type"] = self._format.model_type
        if self.eos_token_id != first_id(config.get("eos_token_id")):
            config["eos_token_id"] = self.eos_token_id
        if self._format.block_key is not None and self.attention.block_length is not None:
            config[self._format.block_key] = self.attention.block_length
        config.pop("dtype", None)  # transformers 5's word for torch_dtype, which both versions read
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        if self.stops:
            stops = {"eos_token_id": list(self.stops) if len(self.stops) > 1 else self.stops[0]}
            (folder / GENERATION_FILE).write_text(json.dumps(stops, indent=2) + "\n")


def shared_keys(config: PretrainedConfig) -> dict[str, str]:
    """Of the stock class: from the names that it ties to the names that they are tied to."""
    if not config.tie_word_embeddings or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return {}
    return dict(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._tied_weights_keys or {})


def first_id(token_ids: int | list[int] | None) -> int | None:
    """Some config.json files name several EOS tokens."""
    return token_ids[0] if isinstance(token_ids, list) else token_ids

"""Backbones with one mistake each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from opendllm.core.testing.table_lm import TableLM, TableModule
from opendllm.registries import BackboneOptions, UserError
from opendllm.registries.backbones import Backbone, DiffusionLM, LossPart, Vocabulary
from opendllm.registries.sequences import AttentionPattern, ModelInputs

from .wrong import Wrong

OPTIONS = BackboneOptions


class SavedTable(TableLM):
    """The kit's table, with a checkpoint."""

    table_module: ClassVar[type[TableModule]] = TableModule

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary.size)
        self.table = self.table_module(vocabulary.size, AttentionPattern())
        self.module = self.table
        self.mask_token_id, self.eos_token_id = vocabulary.mask_token_id, vocabulary.eos_token_id

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        save_file(dict(weights), folder / "model.safetensors")
        ids = {"mask_token_id": self.mask_token_id, "eos_token_id": self.eos_token_id}
        (folder / "config.json").write_text(json.dumps({"vocab_size": self.vocab_size, **ids}))


class Right(Backbone):
    """Tables, bidirectional only."""

    lm: ClassVar[type[SavedTable]] = SavedTable

    def __init__(self, options: BackboneOptions) -> None:
        if options.attention != "bidirectional":
            raise UserError("tables are bidirectional")

    def build(self, vocabulary: Vocabulary) -> DiffusionLM:
        return self.lm(vocabulary)

    def load(
        self,
        folder: Path,
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype | None,
        min_vocab_size: int = 0,
    ) -> DiffusionLM:
        lm = self.lm(Vocabulary(config["vocab_size"], config["mask_token_id"], config["eos_token_id"]))
        lm.module.load_state_dict(load_file(folder / "model.safetensors"))
        lm.module.eval()
        return lm


class SeesPadding(SavedTable):
    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        hidden = self.table.hidden
        self.table.hidden = lambda inputs: hidden(replace(inputs, segments=inputs.segments.clamp(min=0)))


class SeesAllDocuments(SavedTable):
    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        hidden = self.table.hidden
        self.table.hidden = lambda inputs: hidden(replace(inputs, segments=inputs.segments.clamp(max=0)))


class Causal(SavedTable):
    """Says bidirectional, and looks left only."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        hidden = self.table.hidden
        self.table.hidden = lambda inputs: hidden(replace(inputs, blocks=inputs.positions))


class SaysShifted(SavedTable):
    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self.logit_shift = True


class OtherMask(SavedTable):
    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(replace(vocabulary, mask_token_id=vocabulary.size - 2))


class LikelihoodsOfInputs(SavedTable):
    def negative_log_likelihood(self, inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:
        return super().negative_log_likelihood(inputs, targets.flip(0), scored)


class MeanModule(TableModule):
    def forward(self, inputs: ModelInputs, targets: Tensor, scored: Tensor, loss_part: LossPart) -> Tensor:
        return super().forward(inputs, targets, scored, loss_part) / max(1, int(scored.sum()))


class MeanLoss(SavedTable):
    table_module = MeanModule


class SpareModule(TableModule):
    def __init__(self, vocab_size: int, attention: AttentionPattern, reads_time: bool = False) -> None:
        super().__init__(vocab_size, attention, reads_time)
        self.spare = nn.Parameter(torch.zeros(3))


class SpareParameter(SavedTable):
    table_module = SpareModule


class PaddedModule(TableModule):
    """Declares token 0 as padding."""

    def hidden(self, inputs: ModelInputs) -> Tensor:
        kept = (torch.arange(len(self.tokens)) > 0)[:, None]
        tokens = torch.where(kept, self.tokens, self.tokens.detach())
        whole, self.__dict__["_whole"] = self.tokens, tokens
        del self._parameters["tokens"]
        try:
            self.__dict__["tokens"] = tokens
            return super().hidden(inputs)
        finally:
            del self.__dict__["tokens"]
            self._parameters["tokens"] = whole


class PaddedEmbedding(SavedTable):
    table_module = PaddedModule


def backbone_of(lm: type[SavedTable]) -> type[Backbone]:
    """A backbone of that model, importable by its name."""
    name = f"{lm.__name__}Backbone"
    globals()[name] = type(name, (Right,), {"lm": lm, "__module__": __name__})
    found: type[Backbone] = globals()[name]
    return found


class LosesWeights(Right):
    def load(
        self,
        folder: Path,
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype | None,
        min_vocab_size: int = 0,
    ) -> DiffusionLM:
        lm = self.lm(Vocabulary(config["vocab_size"], config["mask_token_id"], config["eos_token_id"]))
        lm.module.eval()
        return lm


class StaysInTraining(Right):
    def load(
        self,
        folder: Path,
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype | None,
        min_vocab_size: int = 0,
    ) -> DiffusionLM:
        lm = super().load(folder, config, device, dtype, min_vocab_size)
        lm.module.train()
        return lm


LOSSES = frozenset(
    {"test_the_modules_loss_is_that_of_the_likelihoods", "test_losses_of_some_positions_add_up"}
)
WRONG = [
    Wrong(backbone_of(SeesPadding), "test_padding_on_either_side_changes_nothing", "`segments` -1"),
    Wrong(
        backbone_of(SeesAllDocuments),
        "test_packed_documents_do_not_see_each_other",
        "its own `segments` number",
    ),
    Wrong(
        backbone_of(Causal),
        "test_attention_is_as_declared",
        "they have to see it",
        frozenset({"test_padding_does_not_change_the_attention"}),
    ),
    Wrong(backbone_of(SaysShifted), "test_logits_are_aligned", "give it with the shift"),
    Wrong(backbone_of(OtherMask), "test_it_knows_its_vocabulary", "take what build is given"),
    Wrong(
        backbone_of(LikelihoodsOfInputs),
        "test_log_likelihoods_are_those_of_the_logits",
        "in row-major order",
        frozenset({"test_the_modules_loss_is_that_of_the_likelihoods"}),
    ),
    Wrong(
        backbone_of(MeanLoss),
        "test_the_modules_loss_is_that_of_the_likelihoods",
        "sum loss_part over all scored positions",
        LOSSES | {"test_a_loss_of_distributions_is_that_of_the_logits"},
    ),
    Wrong(
        backbone_of(SpareParameter),
        "test_a_step_reaches_every_parameter_and_lowers_the_loss",
        "no gradient reaches ['spare']",
    ),
    Wrong(backbone_of(PaddedEmbedding), "test_every_embedding_can_learn", "don't declare it as padding_idx"),
    Wrong(LosesWeights, "test_a_saved_checkpoint_comes_back_bit_equal", "read each into its place"),
    Wrong(StaysInTraining, "test_a_loaded_model_is_ready_to_be_asked", "call module.eval()"),
]

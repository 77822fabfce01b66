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
from opendllm.registries.backbones import (
    Backbone,
    CanvasReader,
    DiffusionLM,
    JointLoss,
    LossPart,
    RefreshSpan,
    TokenPositions,
    Vocabulary,
    WholeReader,
)
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
        save_file(
            {name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors"
        )
        ids = {"mask_token_id": self.mask_token_id, "eos_token_id": self.eos_token_id}
        (folder / "config.json").write_text(json.dumps({"vocab_size": self.vocab_size, **ids}))


class Right(Backbone):
    """Tables, bidirectional only."""

    lm: ClassVar[type[SavedTable]] = SavedTable

    def __init__(self, options: BackboneOptions) -> None:
        if options.attention != "bidirectional":
            raise UserError("tables are bidirectional")

    def build(self, vocabulary: Vocabulary) -> DiffusionLM:
        lm = self.lm(vocabulary)
        for parameter in lm.module.parameters():
            nn.init.normal_(parameter)
        return lm

    def load(
        self,
        folder: Path,
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype | None,
        min_vocab_size: int = 0,
    ) -> DiffusionLM:
        weights = load_file(folder / "model.safetensors")
        if dtype is not None:
            weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
        size = max(config["vocab_size"], min_vocab_size)
        weights |= {
            "tokens": self.grown(weights["tokens"], size),
            "output": self.grown(weights["output"].T, size).T,
        }
        lm = self.lm(Vocabulary(size, config["mask_token_id"], config["eos_token_id"]))
        lm.module.load_state_dict(weights, assign=True)
        lm.module.eval()
        return lm

    def grown(self, rows: Tensor, size: int) -> Tensor:
        return torch.cat([rows, rows.mean(0, keepdim=True).expand(size - len(rows), -1)])


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


class PartsModule(TableModule):
    """Takes a joint loss in parts, as if it were a sum."""

    def forward(self, inputs: ModelInputs, targets: Tensor, scored: Tensor, loss_part: LossPart) -> Tensor:
        if isinstance(loss_part, JointLoss) and not loss_part.guidance_scale:
            halves = self.likelihoods(inputs, targets, scored).chunk(2)
            return loss_part.of(halves[0]) + loss_part.of(halves[1])
        return super().forward(inputs, targets, scored, loss_part)


class JointLossInParts(SavedTable):
    table_module = PartsModule


class UnguidedModule(TableModule):
    def forward(self, inputs: ModelInputs, targets: Tensor, scored: Tensor, loss_part: LossPart) -> Tensor:
        if isinstance(loss_part, JointLoss) and loss_part.guidance_scale:
            nll = self.likelihoods(inputs, targets, scored)
            return loss_part.of(nll[: len(nll) // 2])
        return super().forward(inputs, targets, scored, loss_part)


class IgnoresGuidance(SavedTable):
    table_module = UnguidedModule


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


class Loads(Right):
    """Something goes wrong after loading."""

    def load(
        self,
        folder: Path,
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype | None,
        min_vocab_size: int = 0,
    ) -> DiffusionLM:
        lm = super().load(folder, config, device, dtype, min_vocab_size)
        self.mistake(lm)
        return lm

    def mistake(self, lm: DiffusionLM) -> None:
        raise NotImplementedError


class LosesWeights(Loads):
    def mistake(self, lm: DiffusionLM) -> None:
        for parameter in lm.module.parameters():
            parameter.data = torch.zeros_like(parameter)


class StaysInTraining(Loads):
    def mistake(self, lm: DiffusionLM) -> None:
        lm.module.train()


class ForgetsIds(Loads):
    def mistake(self, lm: DiffusionLM) -> None:
        lm.mask_token_id, lm.eos_token_id, lm.context_length = 5, 7, 1


class MaskIsTheLast(Loads):
    """Right of the one vocabulary that its author has tried."""

    def mistake(self, lm: DiffusionLM) -> None:
        lm.mask_token_id = lm.vocab_size - 1


class ForgetsShift(Loads):
    def mistake(self, lm: DiffusionLM) -> None:
        lm.logit_shift = not lm.logit_shift


class ForgetsStops(Loads):
    def mistake(self, lm: DiffusionLM) -> None:
        lm.stop_token_ids = (2,)


class KeepsTheFilesDtype(Right):
    def load(
        self,
        folder: Path,
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype | None,
        min_vocab_size: int = 0,
    ) -> DiffusionLM:
        return super().load(folder, config, device, None, min_vocab_size)


class AlwaysSingle(Right):
    """Float32, unless something else is asked for; also of a file in half of it."""

    def load(
        self,
        folder: Path,
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype | None,
        min_vocab_size: int = 0,
    ) -> DiffusionLM:
        return super().load(folder, config, device, dtype or torch.float32, min_vocab_size)


class NeverGrows(Right):
    def load(
        self,
        folder: Path,
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype | None,
        min_vocab_size: int = 0,
    ) -> DiffusionLM:
        return super().load(folder, config, device, dtype)


class GrowsAtRandom(Right):
    """New tokens are as loud as nothing that was learnt."""

    def grown(self, rows: Tensor, size: int) -> Tensor:
        return torch.cat([rows, 100 * torch.ones(size - len(rows), rows.shape[1], dtype=rows.dtype)])


class ForgetsAttention(Right):
    """Takes any pattern, and loads a bidirectional model whatever was saved."""

    def __init__(self, options: BackboneOptions) -> None:
        self.pattern = AttentionPattern(options.attention, options.block_length)

    def build(self, vocabulary: Vocabulary) -> DiffusionLM:
        lm = super().build(vocabulary)
        assert isinstance(lm, SavedTable)
        lm.table._attention = lm.attention = self.pattern
        lm.logit_shift = False
        return lm


class SavesItsOwn(SavedTable):
    """The engine's gathered weights are left aside."""

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        super().save(folder, self.module.state_dict())


class ReadsNothing(SavedTable):
    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self.context_length = 0


class BrokenCache(SavedTable):
    supports_kv_cache = True


class SecretCache(SavedTable):
    """Gives a reader of whatever is asked for."""

    def reader(self, inputs: ModelInputs, use_kv_cache: bool = False, compiled: bool = False) -> CanvasReader:
        return WholeReader(self, inputs)


class StaleReader(WholeReader):
    """Reads once."""

    _found: Tensor | None = None

    def states(self, tokens: Tensor, at: TokenPositions, refresh: RefreshSpan | None = None) -> Tensor:
        if self._found is None:
            self._found = self._lm.hidden_states(self._inputs.with_tokens(tokens))
        return self._found[at.rows, at.columns]


class StaleCache(SavedTable):
    supports_kv_cache = True

    def reader(self, inputs: ModelInputs, use_kv_cache: bool = False, compiled: bool = False) -> CanvasReader:
        return StaleReader(self, inputs) if use_kv_cache else WholeReader(self, inputs)


class PaddedReader(WholeReader):
    """Goes on with fewer rows, and takes them for the first ones."""

    def select_rows(self, rows: Tensor) -> None:
        self._inputs = self._inputs.rows(torch.arange(len(rows)))


class OtherRows(SavedTable):
    def reader(self, inputs: ModelInputs, use_kv_cache: bool = False, compiled: bool = False) -> CanvasReader:
        return super().reader(inputs, use_kv_cache) if use_kv_cache else PaddedReader(self, inputs)


class OwnGenerator(Right):
    """The same weights, whatever the run's seed."""

    def build(self, vocabulary: Vocabulary) -> DiffusionLM:
        return self.lm(vocabulary)


class FlatLogits(SavedTable):
    """Projects whole batches only."""

    def project(self, hidden: Tensor) -> Tensor:
        return super().project(hidden - hidden.mean(0, keepdim=True) if hidden.ndim == 2 else hidden)


class WritesIntoItsInputs(SavedTable):
    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        found = super().hidden_states(inputs)
        inputs.tokens.clamp_(max=3)
        return found


EQUAL = "test_a_saved_checkpoint_comes_back_bit_equal"
SAVED = "test_a_loaded_model_is_what_was_saved"
DTYPE = "test_a_checkpoint_is_loaded_in_the_dtype_asked_for"
GROWN = "test_a_vocabulary_is_grown_where_more_tokens_are_needed"
CACHE = "test_a_cache_changes_nothing_that_is_read_anew"
SHAPES = "test_shapes_are_those_of_the_contract"
WRONG = [
    Wrong(backbone_of(SeesPadding), "test_padding_on_either_side_changes_nothing", "`segments` -1"),
    Wrong(
        backbone_of(SeesAllDocuments),
        "test_packed_documents_do_not_see_each_other",
        "its own `segments` number",
    ),
    Wrong(backbone_of(Causal), "test_attention_is_as_declared", "they have to see it"),
    Wrong(backbone_of(SaysShifted), "test_logits_are_aligned", "give it with the shift"),
    Wrong(backbone_of(OtherMask), "test_it_knows_its_vocabulary", "take what build is given"),
    Wrong(
        backbone_of(LikelihoodsOfInputs), "test_log_likelihoods_are_those_of_the_logits", "in row-major order"
    ),
    Wrong(
        backbone_of(JointLossInParts),
        "test_a_joint_loss_is_of_all_likelihoods_at_once",
        "those of all scored positions first",
    ),
    Wrong(backbone_of(IgnoresGuidance), "test_a_joint_loss_can_be_guided", "the module's loss"),
    Wrong(
        backbone_of(MeanLoss),
        "test_the_modules_loss_is_that_of_the_likelihoods",
        "sum loss_part over all scored positions",
    ),
    Wrong(
        backbone_of(SpareParameter),
        "test_a_step_reaches_every_parameter_and_lowers_the_loss",
        "no gradient reaches ['spare']",
    ),
    Wrong(backbone_of(PaddedEmbedding), "test_every_embedding_can_learn", "don't declare it as padding_idx"),
    Wrong(LosesWeights, EQUAL, "read each into its place"),
    Wrong(backbone_of(SavesItsOwn), EQUAL, "not the model's own"),
    Wrong(ForgetsIds, SAVED, "mask_token_id is 5, and 39 was expected; eos_token_id is 7"),
    Wrong(MaskIsTheLast, SAVED, "mask_token_id is 42, and 7 was expected"),
    Wrong(ForgetsShift, SAVED, "logit_shift is True, and False was expected"),
    Wrong(ForgetsStops, SAVED, "stops is (0, 2), and (0,) was expected"),
    Wrong(ForgetsAttention, SAVED, "attention is AttentionPattern(kind='bidirectional'"),
    Wrong(KeepsTheFilesDtype, DTYPE, "loaded with dtype bfloat16, gives ['torch.float32']"),
    Wrong(AlwaysSingle, DTYPE, "None keeps the file's"),
    Wrong(NeverGrows, GROWN, "grow the vocabulary"),
    Wrong(GrowsAtRandom, GROWN, "at the mean of the old"),
    Wrong(backbone_of(ReadsNothing), "test_it_says_how_much_it_reads", "context_length is 0"),
    Wrong(OwnGenerator, "test_random_weights_hang_on_the_seed", "draw them from torch's global generator"),
    Wrong(backbone_of(BrokenCache), CACHE, "or set supports_kv_cache = False"),
    Wrong(backbone_of(SecretCache), CACHE, "or set supports_kv_cache = True"),
    Wrong(backbone_of(StaleCache), CACHE, "read the tokens as they are now"),
    Wrong(backbone_of(OtherRows), "test_a_reader_gives_the_models_hidden_states", "with two of three rows"),
    Wrong(backbone_of(FlatLogits), SHAPES, "each by itself"),
    Wrong(backbone_of(WritesIntoItsInputs), SHAPES, "work on copies"),
    Wrong(StaysInTraining, "test_a_loaded_model_is_ready_to_be_asked", "call module.eval()"),
]

"""The contract of backbones: a checkpoint holds the model, all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from opendllm.core.testing.backbone_case import OTHER_VOCABULARY, BackboneCase, training_batch
from opendllm.core.testing.contract import check_close
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import Backbone, DiffusionLM

SAID = (
    "mask_token_id",
    "eos_token_id",
    "end_of_turn_token_id",
    "stops",
    "vocab_size",
    "context_length",
    "attention",
    "logit_shift",
    "supports_kv_cache",
)
"""What a model says of itself."""


class CheckpointTests(BackboneCase):
    """What `save` writes, `load` gives back: weights, ids, attention and all."""

    def reloaded(
        self, lm: DiffusionLM, folder: Path, weights: Mapping[str, Tensor] | None = None
    ) -> DiffusionLM:
        """What was saved, read again."""
        self.saved(lm, folder, weights)
        return self.loaded(self.build(), folder)

    def saved(self, lm: DiffusionLM, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the checkpoint, with its own weights or others."""
        folder.mkdir(exist_ok=True)
        lm.save(folder, lm.module.state_dict() if weights is None else weights)
        written = folder / "config.json"
        assert written.is_file(), "save wrote no config.json: a checkpoint's family is read from it"

    def loaded(
        self, backbone: Backbone, folder: Path, dtype: torch.dtype | None = None, min_vocab_size: int = 0
    ) -> DiffusionLM:
        """As `platform` reads it."""
        config = json.loads((folder / "config.json").read_text())
        return backbone.load(folder, config, torch.device("cpu"), dtype, min_vocab_size)

    def test_a_saved_checkpoint_comes_back_bit_equal(self, tmp_path: Path) -> None:
        """The weights that `save` is given, whatever the model has; safetensors and JSON, no pickle."""
        lm = self.lm()
        weights = {
            name: tensor + 0.01 if tensor.is_floating_point() else tensor
            for name, tensor in lm.module.state_dict().items()
        }
        loaded = self.reloaded(lm, tmp_path, weights)
        loaded.module.eval()
        lm.module.load_state_dict(weights)
        inputs = inputs_from_mask(torch.arange(8)[None], None)
        same = torch.equal(self.logits(lm, inputs), self.logits(loaded, inputs))
        assert same, (
            "the logits of a saved and loaded model were expected to be bit-equal, and differ: write every "
            "weight of `weights`, not the model's own, and read each into its place"
        )
        suffixes = {path.suffix for path in tmp_path.iterdir()}
        strange = sorted(suffixes - {".json", ".safetensors"})
        assert not strange, f"save wrote {strange} files: weights go into safetensors, all else into JSON"

    def test_a_loaded_model_is_what_was_saved(self, tmp_path: Path) -> None:
        """Its ids, stops, sizes, shift and attention, of each pattern that the family takes."""
        models = [*self.models(), (self.built(Backbone), self.lm(OTHER_VOCABULARY))]  # type: ignore[type-abstract]
        for number, (backbone, lm) in enumerate(models):
            folder = tmp_path / str(number)
            self.saved(lm, folder)
            loaded = self.loaded(backbone, folder)
            wrong = [
                f"{name} is {getattr(loaded, name)!r}, and {getattr(lm, name)!r} was expected"
                for name in SAID
                if getattr(loaded, name) != getattr(lm, name)
            ]
            assert not wrong, (
                f"after save and load of a {lm.attention.kind} model {'; '.join(wrong)}: write it into "
                f"config.json, and take it from there"
            )
            inputs, _, _ = training_batch()
            if lm.vocab_size == self.lm().vocab_size:
                same = torch.equal(self.logits(lm, inputs), self.logits(loaded, inputs))
                assert same, (
                    f"the logits of a saved and loaded {lm.attention.kind} model were expected to be "
                    f"bit-equal, and differ: build it with the attention that it says"
                )

    def test_a_loaded_model_is_ready_to_be_asked(self, tmp_path: Path) -> None:
        """In eval mode: dropout would change every answer."""
        loaded = self.reloaded(self.lm(), tmp_path)
        training = [name or "module" for name, part in loaded.module.named_modules() if part.training]
        assert not training, (
            f"after load, {training[:3]} are in training mode: call module.eval() before giving a model back"
        )

    def test_a_checkpoint_is_loaded_in_the_dtype_asked_for(self, tmp_path: Path) -> None:
        """In bfloat16 where that is asked for, or where the file is and nothing is asked for."""
        lm = self.lm()
        half = {
            name: tensor.bfloat16() if tensor.is_floating_point() else tensor
            for name, tensor in lm.module.state_dict().items()
        }
        self.saved(lm, tmp_path / "single")
        self.saved(lm, tmp_path / "half", half)
        for told, folder, asked, wanted in (
            ("float32, loaded with dtype bfloat16,", "single", torch.bfloat16, torch.bfloat16),
            ("bfloat16, loaded with dtype None,", "half", None, torch.bfloat16),
            ("bfloat16, loaded with dtype float32,", "half", torch.float32, torch.float32),
        ):
            loaded = self.loaded(self.build(), tmp_path / folder, asked)
            found = {part.dtype for part in loaded.module.parameters() if part.is_floating_point()}
            assert found == {wanted}, (
                f"a file of {told} gives {sorted(map(str, found))}, and {wanted} was expected: `dtype` is "
                f"that of the weights, and None keeps the file's"
            )
            with torch.no_grad():
                nll = loaded.negative_log_likelihood(*training_batch())
            assert nll.dtype == torch.float32, (
                f"likelihoods of a model in {wanted} are {nll.dtype}, and float32 was expected: take the "
                f"softmax in float32"
            )

    def test_a_vocabulary_is_grown_where_more_tokens_are_needed(self, tmp_path: Path) -> None:
        """`min_vocab_size`: what was there stays, and new tokens are at the mean of the old ones."""
        lm = self.lm()
        self.saved(lm, tmp_path)
        wanted = lm.vocab_size + 5
        grown = self.loaded(self.build(), tmp_path, min_vocab_size=wanted)
        grown.module.eval()
        assert grown.vocab_size >= wanted, (
            f"loaded with min_vocab_size {wanted}, vocab_size is {grown.vocab_size}, and as many were "
            f"expected: grow the vocabulary"
        )
        inputs, _, _ = training_batch()
        before, after = self.logits(lm, inputs), self.logits(grown, inputs)
        assert after.shape[-1] == grown.vocab_size, (
            f"vocab_size is {grown.vocab_size}, and {after.shape[-1]} logits came: grow the output layer too"
        )
        check_close(
            after[..., : lm.vocab_size],
            before,
            "a logit of a token that was there before the vocabulary grew",
            "keep the old rows as they are",
            rtol=1e-4,
            atol=1e-5,
        )
        strange = after[..., lm.vocab_size :].amax(-1) > before.amax(-1)
        assert not bool(strange.any()), (
            "a new token was expected to be no likelier than all old ones, and is: put new rows at the mean "
            "of the old"
        )

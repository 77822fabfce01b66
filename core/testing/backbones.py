"""The contract of backbones, as tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from opendllm.core.testing.contract import PluginContract
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import Backbone, DiffusionLM, Vocabulary
from opendllm.registries.sequences import ModelInputs

VOCABULARY = Vocabulary(size=40, mask_token_id=39, eos_token_id=0)


class BackboneContract(PluginContract):
    """Aligned logits, documents that don't see each other, and a checkpoint that comes back equal."""

    kind = "backbones"

    def lm(self) -> DiffusionLM:
        """A model built from scratch with the default options."""
        backbone = self.build()
        assert isinstance(backbone, Backbone)
        torch.manual_seed(0)
        lm = backbone.build(VOCABULARY)
        lm.module.eval()
        return lm

    @torch.no_grad()
    def logits(self, lm: DiffusionLM, inputs: ModelInputs) -> torch.Tensor:
        """[B, L, V] aligned."""
        return lm.project(lm.hidden_states(inputs))

    def test_it_knows_its_vocabulary(self) -> None:
        """Mask, EOS and size are those of the tokenizer."""
        lm = self.lm()
        assert (lm.mask_token_id, lm.eos_token_id, lm.vocab_size) == (39, 0, 40)
        assert self.logits(lm, inputs_from_mask(torch.arange(6)[None], None)).shape == (1, 6, 40)

    def test_padding_on_either_side_changes_nothing(self) -> None:
        """A padded row's logits are those of the row alone."""
        lm, tokens = self.lm(), torch.arange(1, 9)[None]
        alone = self.logits(lm, inputs_from_mask(tokens, None))
        pad = torch.zeros(1, 3, dtype=torch.int64)
        for parts, real in (((pad, tokens), slice(3, None)), ((tokens, pad), slice(0, 8))):
            padded = torch.cat(parts, dim=1)
            mask = torch.zeros_like(padded)
            mask[:, real] = 1
            logits = self.logits(lm, inputs_from_mask(padded, mask))[:, real]
            torch.testing.assert_close(logits, alone, rtol=0, atol=1e-4)

    def test_attention_is_bidirectional_also_with_padding(self) -> None:
        """Changing the last real token changes the first position's logits."""
        lm = self.lm()
        if lm.attention.kind != "bidirectional":
            return
        tokens = torch.tensor([[1, 2, 3, 4, 5, 0, 0]])
        mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
        changed = tokens.clone()
        changed[0, 4] = 17
        before, after = (self.logits(lm, inputs_from_mask(row, mask))[0, 0] for row in (tokens, changed))
        assert not torch.allclose(before, after, atol=1e-5)

    def test_packed_documents_do_not_see_each_other(self) -> None:
        """A packed row gives each document the logits that it has alone."""
        lm = self.lm()
        first, second = torch.arange(1, 6)[None], torch.arange(11, 18)[None]
        packed = ModelInputs(
            tokens=torch.cat([first, second], dim=1),
            segments=torch.tensor([[0] * 5 + [1] * 7]),
            positions=torch.tensor([[*range(5), *range(7)]]),
        )
        logits = self.logits(lm, packed)
        alone = [self.logits(lm, inputs_from_mask(tokens, None)) for tokens in (first, second)]
        torch.testing.assert_close(logits, torch.cat(alone, dim=1), rtol=0, atol=1e-4)

    def test_log_likelihoods_are_those_of_the_logits(self) -> None:
        """The training path, which projects scored positions only, agrees with the full logits."""
        lm, tokens = self.lm(), torch.arange(1, 13).view(2, 6)
        scored = torch.tensor([[True, False, True, True, False, True], [False, True] * 3])
        inputs = inputs_from_mask(tokens, None)
        with torch.no_grad():
            nll = lm.negative_log_likelihood(inputs, tokens, scored)
        expected = -self.logits(lm, inputs).log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)[scored]
        torch.testing.assert_close(nll, expected, rtol=1e-4, atol=1e-5)

    def test_a_saved_checkpoint_comes_back_bit_equal(self, tmp_path: Path) -> None:
        """Safetensors and config.json, and nothing pickled."""
        lm = self.lm()
        lm.save(tmp_path, lm.module.state_dict())
        config = json.loads((tmp_path / "config.json").read_text())
        loaded = self.build().load(tmp_path, config, torch.device("cpu"), None)
        inputs = inputs_from_mask(torch.arange(8)[None], None)
        assert torch.equal(self.logits(lm, inputs), self.logits(loaded, inputs))
        suffixes = {path.suffix for path in tmp_path.iterdir()}
        assert suffixes <= {".json", ".safetensors"}

    def test_every_embedding_can_learn(self) -> None:
        """Also the EOS token's, which many families declare as padding."""
        lm = self.lm()
        lm.module.train()
        tokens = torch.tensor([[1, 2, 0, 3, 0]])
        nll = lm.negative_log_likelihood(
            inputs_from_mask(tokens, None), tokens, torch.ones_like(tokens).bool()
        )
        nll.sum().backward()
        embeddings = [p for p in lm.module.parameters() if p.shape[:1] == (VOCABULARY.size,)]
        assert all(bool(p.grad is not None and p.grad[0].abs().sum() > 0) for p in embeddings)

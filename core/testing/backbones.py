"""The contract of backbones, as tests."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from opendllm.core.testing.contract import PluginContract
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import Backbone, DiffusionLM, DistributionLoss, Vocabulary
from opendllm.registries.errors import UserError
from opendllm.registries.options import BackboneOptions
from opendllm.registries.sequences import ModelInputs

Batch: TypeAlias = tuple[ModelInputs, torch.Tensor, torch.Tensor]
"""What a model's module takes: inputs, targets [B, L] and scored [B, L]."""

VOCABULARY = Vocabulary(size=40, mask_token_id=39, eos_token_id=0)


BATCH = (4, 12)


def training_batch() -> Batch:
    """Rows with every token but the mask in them, some of which are hidden and scored."""
    number = torch.arange(math.prod(BATCH)).view(BATCH)
    tokens = number * 5 % (VOCABULARY.size - 1)
    scored = (number * 29 % number.numel() < 28) & (number % BATCH[1] > 0)
    return inputs_from_mask(tokens.masked_fill(scored, VOCABULARY.mask_token_id), None), tokens, scored


def loss_part(nll: torch.Tensor, chosen: slice) -> torch.Tensor:
    """A loss with a weight and a slope of its own at each position, as objectives have."""
    weight = torch.linspace(0.5, 2, math.prod(BATCH), dtype=torch.float64)[chosen]
    return (weight * nll.double().square()).sum()


def gradients(module: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """By parameter, zero where none arrives."""
    wanted = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(wanted, found, strict=True))


class BackboneContract(PluginContract):
    """Aligned logits, documents apart, a module that trains, and a checkpoint that comes back equal."""

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

    def test_the_modules_loss_is_that_of_the_likelihoods(self) -> None:
        """In as many parts as it likes, each scored position in one; with the gradients of a single part."""
        lm, batch = self.lm(), training_batch()
        number = int(batch[2].sum())
        parts: list[int] = []

        def noted(nll: torch.Tensor, chosen: slice) -> torch.Tensor:
            positions = list(range(number))[chosen]
            assert nll.shape == (len(positions),)
            parts.extend(positions)
            return loss_part(nll, chosen)

        found = lm.module(*batch, noted)
        assert found.shape == ()
        assert sorted(parts) == list(range(number))
        whole = loss_part(lm.negative_log_likelihood(*batch), slice(0, number))
        assert_same(lm, found, whole)

    def test_losses_of_some_positions_add_up(self) -> None:
        """What is scored beside a position changes neither its loss nor its gradients."""
        lm, (inputs, targets, scored) = self.lm(), training_batch()
        first = scored & (torch.arange(scored.shape[1]) < 5)
        halves = [
            lm.module(inputs, targets, half, lambda nll, _: nll.double().square().sum())
            for half in (first, scored & ~first)
        ]
        whole = lm.module(inputs, targets, scored, lambda nll, _: nll.double().square().sum())
        assert_same(lm, halves[0] + halves[1], whole)

    def test_a_step_reaches_every_parameter_and_lowers_the_loss(self) -> None:
        """A backbone is there to be trained."""
        lm, batch = self.lm(), training_batch()
        lm.module.train()
        torch.manual_seed(1)  # for dropout, where there is any
        loss = lm.module(*batch, loss_part)
        slopes = gradients(lm.module, loss)
        unreached = [name for name, slope in slopes.items() if not bool(slope.any())]
        assert not unreached, f"no gradient reaches {unreached}"
        steepness = sum(float(slope.double().square().sum()) for slope in slopes.values())
        rate = 0.01 * float(loss.detach()) / steepness  # a hundredth less, were the loss a plane
        with torch.no_grad():
            for name, parameter in lm.module.named_parameters():
                if name in slopes:
                    parameter.sub_(rate * slopes[name])
        torch.manual_seed(1)
        assert float(lm.module(*batch, loss_part).detach()) < float(loss.detach())

    def test_a_loss_of_distributions_is_that_of_the_logits(self) -> None:
        """`DistributionLoss`: the logits of each scored position in one part, in row-major order."""
        lm, (inputs, targets, scored) = self.lm(), training_batch()

        def entropies(logits: torch.Tensor, chosen: slice) -> torch.Tensor:
            assert logits.shape == (chosen.stop - chosen.start, lm.vocab_size)
            weight = torch.arange(1, int(scored.sum()) + 1)[chosen]
            entropy = torch.special.entr(logits.float().softmax(-1)).sum(-1)
            total: torch.Tensor = (weight * entropy.double()).sum()
            return total

        found = lm.module(inputs, targets, scored, DistributionLoss(entropies))
        logits = lm.project(lm.hidden_states(inputs)[scored])
        assert_same(lm, found, entropies(logits, slice(0, len(logits))))

    def test_a_time_is_read_or_refused(self) -> None:
        """A model that ignores the time it is told would pass for one that reads it."""
        lm, (inputs, _, _) = self.lm(), training_batch()
        options = self.registration().options
        assert issubclass(options, BackboneOptions)
        times = [torch.full(inputs.tokens.shape, time) for time in (0.1, 2.0)]
        if options.reads_time:
            early, late = (self.logits(lm, replace(inputs, time=time)) for time in times)
            assert not torch.equal(early, late), "the time changes nothing"
        else:
            try:
                self.logits(lm, replace(inputs, time=times[0]))
            except UserError:
                return
            raise AssertionError("a model that doesn't read the time must refuse it with a UserError")

    def test_nothing_scored_is_a_loss_of_zero(self) -> None:
        """A process whose rows have nothing to score goes through the backward pass with the others."""
        lm, (inputs, targets, scored) = self.lm(), training_batch()
        loss = lm.module(inputs, targets, torch.zeros_like(scored), lambda nll, _: nll.double().sum())
        assert float(loss.detach()) == 0
        assert not any(bool(slope.any()) for slope in gradients(lm.module, loss).values())


def assert_same(lm: DiffusionLM, loss: torch.Tensor, other: torch.Tensor) -> None:
    """Two losses and their gradients are the same, to float32's precision."""
    torch.testing.assert_close(loss.double(), other.double(), rtol=1e-5, atol=1e-5)
    wanted = gradients(lm.module, other)
    for name, found in gradients(lm.module, loss).items():
        largest = float(wanted[name].abs().max())
        torch.testing.assert_close(
            found, wanted[name], rtol=1e-4, atol=1e-4 * largest, msg=f"the gradient of {name} differs"
        )

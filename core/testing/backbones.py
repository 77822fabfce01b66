"""The contract of backbones, as tests."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch
from pydantic import ValidationError
from torch import nn

from opendllm.core.testing.contract import PluginContract, check_close
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import Backbone, DiffusionLM, DistributionLoss, Vocabulary
from opendllm.registries.errors import UserError
from opendllm.registries.options import AttentionKind, BackboneOptions
from opendllm.registries.sequences import AttentionPattern, ModelInputs

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
        backbone = self.built(Backbone)  # type: ignore[type-abstract]
        torch.manual_seed(0)
        lm = backbone.build(VOCABULARY)
        assert isinstance(lm, DiffusionLM), (
            f"build gave a {type(lm).__name__}, and a DiffusionLM was expected: derive it from DiffusionLM"
        )
        lm.module.eval()
        return lm

    def lm_of(self, kind: AttentionKind) -> DiffusionLM | None:
        """One of that attention pattern; None where the family refuses it."""
        registration = self.registration()
        block_length = 4 if kind == "block-causal" else None
        given = {
            **self.given(),
            "attention": kind,
            "block_length": block_length,
        }
        torch.manual_seed(0)
        try:
            lm: DiffusionLM = registration.build(given).build(VOCABULARY)
        except (UserError, ValidationError):
            return None
        lm.module.eval()
        assert lm.attention == AttentionPattern(kind, block_length), (
            f"built with attention {kind} and block_length {block_length}, it says {lm.attention}: give its "
            f"`attention` what the options say, or refuse them with a UserError"
        )
        return lm

    @torch.no_grad()
    def logits(self, lm: DiffusionLM, inputs: ModelInputs) -> torch.Tensor:
        """[B, L, V] aligned."""
        return lm.project(lm.hidden_states(inputs))

    def test_it_knows_its_vocabulary(self) -> None:
        """Mask, EOS and size are those of the tokenizer."""
        lm = self.lm()
        found, wanted = (lm.mask_token_id, lm.eos_token_id, lm.vocab_size), (39, 0, 40)
        assert found == wanted, (
            f"mask, EOS and vocabulary size are {found}, and {wanted} was expected: take what build is given"
        )

    def test_shapes_are_those_of_the_contract(self) -> None:
        """Hidden states [B, L, D], logits [B, L, V], likelihoods [N]; all of them floating."""
        lm, tokens = self.lm(), torch.arange(12).view(2, 6)
        inputs, scored = inputs_from_mask(tokens, None), tokens % 3 > 0
        with torch.no_grad():
            hidden = lm.hidden_states(inputs)
            nll = lm.negative_log_likelihood(inputs, tokens, scored)
        logits = self.logits(lm, inputs)
        for name, value, wanted in (
            ("hidden_states", hidden, [2, 6, hidden.shape[-1]]),
            ("project", logits, [2, 6, VOCABULARY.size]),
            ("negative_log_likelihood", nll, [int(scored.sum())]),
        ):
            came = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
            right = list(value.shape) == wanted and value.is_floating_point()
            assert right, f"{name} gave {came}, and float {wanted} was expected: see DiffusionLM.{name}"

    def test_padding_on_either_side_changes_nothing(self) -> None:
        """A padded row's logits are those of the row alone."""
        lm, tokens = self.lm(), torch.arange(1, 9)[None]
        alone = self.logits(lm, inputs_from_mask(tokens, None))
        pad = torch.zeros(1, 3, dtype=torch.int64)
        for side, parts, real in (
            ("left", (pad, tokens), slice(3, None)),
            ("right", (tokens, pad), slice(0, 8)),
        ):
            padded = torch.cat(parts, dim=1)
            mask = torch.zeros_like(padded)
            mask[:, real] = 1
            check_close(
                self.logits(lm, inputs_from_mask(padded, mask))[:, real],
                alone,
                f"a logit of a row with padding on its {side}, against the row alone",
                "nothing attends to `segments` -1, and positions are `inputs.positions`, not columns",
                rtol=0,
                atol=1e-4,
            )

    def test_attention_is_as_declared(self) -> None:
        """Each pattern that the family takes: a token changes the logits that may see it, and no others."""
        kinds: tuple[AttentionKind, ...] = ("bidirectional", "causal", "block-causal")
        for lm in filter(None, [self.lm(), *map(self.lm_of, kinds)]):
            tokens = torch.arange(1, 9)[None]
            inputs = inputs_from_mask(tokens, None)
            before = self.logits(lm, inputs)[0]
            sees = lm.predictors(inputs.segments)[0]
            blocks = lm.attention.blocks(inputs.positions)
            blocks = torch.zeros_like(tokens) if blocks is None else blocks
            for column in range(tokens.shape[1]):
                changed = tokens.clone()
                changed[0, column] = 17
                moved = (self.logits(lm, inputs.with_tokens(changed))[0] - before).abs().amax(-1)
                visible = blocks[0, column] <= blocks[0, sees]
                if lm.attention.kind == "causal" and not lm.logit_shift:
                    visible &= torch.arange(len(sees)) != column  # aligned: no token predicts itself
                told = f"{lm.attention} attention: when the token at {column} changes, the logits at"
                leaks = ((moved > 1e-5) & ~visible).nonzero()[:, 0].tolist()
                assert not leaks, f"{told} {leaks} were expected to stay, and change: they may not see it"
                blind = ((moved == 0) & visible).nonzero()[:, 0].tolist()
                assert not blind, f"{told} {blind} were expected to change, and stay: they have to see it"

    def test_padding_does_not_change_the_attention(self) -> None:
        """In a padded row the last real token still reaches the first position of a bidirectional model."""
        lm = self.lm()
        if lm.attention.kind != "bidirectional":
            return
        tokens = torch.tensor([[1, 2, 3, 4, 5, 0, 0]])
        mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
        changed = tokens.clone()
        changed[0, 4] = 17
        before, after = (self.logits(lm, inputs_from_mask(row, mask))[0, 0] for row in (tokens, changed))
        assert not torch.equal(before, after), (
            "changing the last real token of a padded row leaves the first position's logits as they were: "
            "a padding mask must not make the attention causal"
        )

    def test_logits_are_aligned(self) -> None:
        """Of a shifted model, position i has the hidden state of i - 1, and a document's first its own."""
        lm = self.lm()
        packed = ModelInputs(
            tokens=torch.arange(3, 13)[None],
            segments=torch.tensor([[0] * 4 + [1] * 6]),
            positions=torch.tensor([[*range(4), *range(6)]]),
        )
        with torch.no_grad():
            hidden = lm.hidden_states(packed)[0]
        wanted = [0, 0, 1, 2, 4, 4, 5, 6, 7, 8] if lm.logit_shift else list(range(10))
        found = lm.predictors(packed.segments)[0].tolist()
        assert found == wanted, (
            f"logit_shift is {lm.logit_shift}, so that positions are predicted at {wanted}, and `predictors` "
            f"says {found}: give it with the shift"
        )
        if lm.attention.kind == "causal" and not self.lm().logit_shift:
            return
        for first in (0, 4):
            same = torch.equal(hidden[first], hidden[first + 1])
            assert same == lm.logit_shift, (
                f"logit_shift is {lm.logit_shift}, and the hidden states of a document's first two positions "
                f"are {'the same' if same else 'not the same'}: hidden_states gives aligned ones, moved by "
                f"one where the checkpoint's are shifted"
            )

    def test_packed_documents_do_not_see_each_other(self) -> None:
        """A packed row gives each document the logits that it has alone."""
        lm = self.lm()
        first, second = torch.arange(1, 6)[None], torch.arange(11, 18)[None]
        packed = ModelInputs(
            tokens=torch.cat([first, second], dim=1),
            segments=torch.tensor([[0] * 5 + [1] * 7]),
            positions=torch.tensor([[*range(5), *range(7)]]),
        )
        alone = [self.logits(lm, inputs_from_mask(tokens, None)) for tokens in (first, second)]
        check_close(
            self.logits(lm, packed),
            torch.cat(alone, dim=1),
            "a logit of packed documents, against each alone",
            "a token attends to its own `segments` number only, and counts by `inputs.positions`",
            rtol=0,
            atol=1e-4,
        )

    def test_log_likelihoods_are_those_of_the_logits(self) -> None:
        """The training path, which projects scored positions only, agrees with the full logits."""
        lm, tokens = self.lm(), torch.arange(1, 13).view(2, 6)
        scored = torch.tensor([[True, False, True, True, False, True], [False, True] * 3])
        inputs = inputs_from_mask(tokens, None)
        with torch.no_grad():
            nll = lm.negative_log_likelihood(inputs, tokens, scored)
        expected = -self.logits(lm, inputs).log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)[scored]
        check_close(
            nll,
            expected,
            "a negative log-likelihood, against the logits'",
            "give -log softmax of the aligned logits at each scored target, in row-major order",
            rtol=1e-4,
            atol=1e-5,
        )

    def reloaded(self, lm: DiffusionLM, folder: Path) -> DiffusionLM:
        """What was saved, read again."""
        lm.save(folder, lm.module.state_dict())
        written = folder / "config.json"
        assert written.is_file(), "save wrote no config.json: a checkpoint's family is read from it"
        config = json.loads(written.read_text())
        found: DiffusionLM = self.build().load(folder, config, torch.device("cpu"), None)
        return found

    def test_a_saved_checkpoint_comes_back_bit_equal(self, tmp_path: Path) -> None:
        """Safetensors and config.json, and nothing pickled."""
        lm = self.lm()
        with torch.no_grad():
            for parameter in lm.module.parameters():
                parameter.add_(0.01)  # so that what `build` draws isn't what was saved
        loaded = self.reloaded(lm, tmp_path)
        loaded.module.eval()
        inputs = inputs_from_mask(torch.arange(8)[None], None)
        same = torch.equal(self.logits(lm, inputs), self.logits(loaded, inputs))
        assert same, (
            "the logits of a saved and loaded model were expected to be bit-equal, and differ: write every "
            "weight of `weights`, and read each into its place"
        )
        suffixes = {path.suffix for path in tmp_path.iterdir()}
        strange = sorted(suffixes - {".json", ".safetensors"})
        assert not strange, f"save wrote {strange} files: weights go into safetensors, all else into JSON"

    def test_a_loaded_model_is_ready_to_be_asked(self, tmp_path: Path) -> None:
        """In eval mode: dropout would change every answer."""
        loaded = self.reloaded(self.lm(), tmp_path)
        training = [name or "module" for name, part in loaded.module.named_modules() if part.training]
        assert not training, (
            f"after load, {training[:3]} are in training mode: call module.eval() before giving a model back"
        )

    def test_every_embedding_can_learn(self) -> None:
        """Also the EOS token's, which many families declare as padding."""
        lm = self.lm()
        lm.module.train()
        tokens = torch.tensor([[1, 2, 0, 3, 0]])
        nll = lm.negative_log_likelihood(
            inputs_from_mask(tokens, None), tokens, torch.ones_like(tokens).bool()
        )
        slopes = gradients(lm.module, nll.sum())
        stuck = [
            name
            for name, slope in slopes.items()
            if slope.shape[:1] == (VOCABULARY.size,) and not bool(slope[0].any())
        ]
        assert not stuck, f"token 0, EOS, gets no gradient in {stuck}: don't declare it as padding_idx"

    def test_the_modules_loss_is_that_of_the_likelihoods(self) -> None:
        """In as many parts as it likes, each scored position in one; with the gradients of a single part."""
        lm, batch = self.lm(), training_batch()
        number = int(batch[2].sum())
        parts: list[int] = []

        def noted(nll: torch.Tensor, chosen: slice) -> torch.Tensor:
            positions = list(range(number))[chosen]
            assert nll.shape == (len(positions),), (
                f"loss_part was called with {list(nll.shape)} likelihoods and the slice {chosen}: give as "
                f"many as the slice is long, of the {number} scored positions"
            )
            parts.extend(positions)
            return loss_part(nll, chosen)

        found = lm.module(*batch, noted)
        assert found.shape == (), f"the module gave {list(found.shape)}, and a scalar was expected: sum it"
        assert sorted(parts) == list(range(number)), (
            f"loss_part was called for the scored positions {sorted(parts)}, and each of 0 to {number - 1} "
            f"was expected once: its slices cover them all"
        )
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
        assert not unreached, f"no gradient reaches {unreached}: take unused parameters out of the module"
        steepness = sum(float(slope.double().square().sum()) for slope in slopes.values())
        rate = 0.01 * float(loss.detach()) / steepness  # a hundredth less, were the loss a plane
        with torch.no_grad():
            for name, parameter in lm.module.named_parameters():
                if name in slopes:
                    parameter.sub_(rate * slopes[name])
        torch.manual_seed(1)
        before, after = float(loss.detach()), float(lm.module(*batch, loss_part).detach())
        assert after < before, (
            f"a small step down the gradient took the loss from {before:.4f} to {after:.4f}, and less was "
            f"expected: the module's gradients aren't those of its loss"
        )

    def test_a_loss_of_distributions_is_that_of_the_logits(self) -> None:
        """`DistributionLoss`: the logits of each scored position in one part, in row-major order."""
        lm, (inputs, targets, scored) = self.lm(), training_batch()

        def entropies(logits: torch.Tensor, chosen: slice) -> torch.Tensor:
            wanted = [chosen.stop - chosen.start, lm.vocab_size]
            assert list(logits.shape) == wanted, (
                f"DistributionLoss.of was called with logits {list(logits.shape)} and the slice {chosen}, "
                f"and {wanted} was expected: one row of logits a scored position"
            )
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
            assert not torch.equal(early, late), (
                "options.reads_time is True, and another time gives the same logits: read `inputs.time`, or "
                "set reads_time = False"
            )
        else:
            try:
                self.logits(lm, replace(inputs, time=times[0]))
            except UserError:
                return
            raise AssertionError(
                "options.reads_time is False, and a time was taken without a word: refuse `inputs.time` with "
                "a UserError, or read it and set reads_time = True"
            )

    def test_nothing_scored_is_a_loss_of_zero(self) -> None:
        """A process whose rows have nothing to score goes through the backward pass with the others."""
        lm, (inputs, targets, scored) = self.lm(), training_batch()
        loss = lm.module(inputs, targets, torch.zeros_like(scored), lambda nll, _: nll.double().sum())
        slope = any(bool(slope.any()) for slope in gradients(lm.module, loss).values())
        assert float(loss.detach()) == 0 and not slope, (  # noqa: PT018 (one thing)
            f"with nothing scored the loss is {float(loss.detach())}{' with a gradient' if slope else ''}, "
            f"and 0 without one was expected: add `logits.sum() * 0`, so that the backward pass goes through"
        )


def assert_same(lm: DiffusionLM, loss: torch.Tensor, other: torch.Tensor) -> None:
    """Two losses and their gradients are the same, to float32's precision."""
    mend = "sum loss_part over all scored positions, each once, and let gradients through"
    check_close(loss, other, "the module's loss", mend, rtol=1e-5, atol=1e-5)
    wanted = gradients(lm.module, other)
    for name, found in gradients(lm.module, loss).items():
        largest = float(wanted[name].abs().max())
        check_close(found, wanted[name], f"the gradient of {name}", mend, rtol=1e-4, atol=1e-4 * largest)

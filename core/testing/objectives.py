"""The contract of objectives, as tests."""

from __future__ import annotations

from dataclasses import replace

import torch

from opendllm.core.testing.contract import PluginContract
from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.segments import document_positions
from opendllm.registries.backbones import DistributionLoss
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Objective
from opendllm.registries.options import ObjectiveOptions, noise_destination
from opendllm.registries.sequences import PADDING_SEGMENT, AttentionPattern, TokenIds, TokenRows

MASK_TOKEN_ID = 11
ROWS, LENGTH = 8, 24
BLOCK_LENGTH = 4


def packed_rows(first_sample: int = 0, rows: int = ROWS) -> TokenRows:
    """Rows of two documents and some padding; the first three tokens of each row are a prompt."""
    sample_index = torch.arange(first_sample, first_sample + rows)
    columns = torch.arange(LENGTH).expand(rows, LENGTH)
    segments = torch.where(columns < 10, 0, torch.where(columns < 21, 1, PADDING_SEGMENT))
    tokens = (sample_index[:, None] * 7 + columns * 3) % 10
    maskable = (segments != PADDING_SEGMENT) & (columns >= 3)
    return TokenRows(tokens, segments, document_positions(segments), maskable, sample_index)


class ObjectiveContract(PluginContract):
    """A pure function of rows and noise that never touches prompts or padding."""

    kind = "objectives"

    def objective(self) -> Objective:
        """The plugin."""
        objective = self.build()
        assert isinstance(objective, Objective)
        return objective

    def schedule(self) -> NoiseSchedule:
        """A schedule that goes with it: linear, where it may be."""
        options = self.registration().options
        assert issubclass(options, ObjectiveOptions)
        known = installed_plugins().noise_schedules
        names = known.names() if options.noise_schedules is None else sorted(options.noise_schedules)
        for name in sorted(names, key=lambda name: name != "linear"):
            for given in ({}, {"destination": "uniform"}):
                chosen = known.get(name).options
                if given and "destination" not in chosen.model_fields:
                    continue
                checked = chosen.model_validate(given)
                if noise_destination(checked) in options.destinations:
                    return known.get(name).build(checked)
        raise AssertionError(
            f"no noise schedule goes with the objective: {sorted(names)} with destination "
            f"{sorted(options.destinations)}"
        )

    def prepared(self, rows: TokenRows) -> TokenRows:
        """With the attention blocks of a model that it trains."""
        options = self.registration().options
        assert issubclass(options, ObjectiveOptions)
        pattern = AttentionPattern(options.trains, BLOCK_LENGTH if options.trains == "block-causal" else None)
        ids = TokenIds(MASK_TOKEN_ID + 1, MASK_TOKEN_ID)
        return replace(rows, blocks=pattern.blocks(rows.positions), ids=ids)

    def corrupt(self, rows: TokenRows) -> Corruption:
        """Mask and corrupt with the noise of seed 5."""
        rows = self.prepared(rows)
        objective, schedule = self.objective(), self.schedule()
        masking = objective.mask(rows, AddressedNoise(5, rows, ROWS), schedule)
        return objective.corrupt(masking, schedule, MASK_TOKEN_ID)

    def test_prompts_and_padding_are_never_masked(self) -> None:
        """Only maskable positions are hidden."""
        rows = self.prepared(packed_rows())
        masking = self.objective().mask(rows, AddressedNoise(5, rows, ROWS), self.schedule())
        assert bool(masking.masked.any())
        assert not bool((masking.masked & ~rows.maskable).any())

    def test_the_model_reads_prompts_and_padding_as_they_are(self) -> None:
        """Noise that replaces tokens keeps off them too, in each copy of a row that the model reads."""
        rows = packed_rows()
        read = self.corrupt(rows).inputs.tokens
        copies, halves = read.shape[0] // ROWS, read.shape[1] // LENGTH
        assert read.shape == (copies * ROWS, halves * LENGTH), "a row is read whole, as often as you like"
        given = (~rows.maskable).repeat_interleave(copies, 0).repeat(1, halves)
        clean = rows.tokens.repeat_interleave(copies, 0).repeat(1, halves)
        assert torch.equal(read[given], clean[given]), "a prompt or padding token was changed"

    def test_scored_positions_have_their_clean_token_as_target(self) -> None:
        """Targets are never masks, and one weight belongs to each scored position."""
        corruption = self.corrupt(packed_rows())
        assert bool(corruption.scored.any())
        assert not bool((corruption.targets[corruption.scored] == MASK_TOKEN_ID).any())
        assert corruption.weight.shape == (int(corruption.scored.sum()),)
        assert bool(torch.isfinite(corruption.weight).all())

    def test_the_same_noise_gives_the_same_corruption(self) -> None:
        """Nothing is drawn from a hidden generator."""
        first, second = self.corrupt(packed_rows()), self.corrupt(packed_rows())
        assert torch.equal(first.inputs.tokens, second.inputs.tokens)
        assert torch.equal(first.weight, second.weight)

    def test_a_row_is_corrupted_alike_in_any_batch(self) -> None:
        """Micro-batches must not matter: rows in two halves equal rows in one batch."""
        whole = self.corrupt(packed_rows())
        halves = [self.corrupt(packed_rows(start, ROWS // 2)) for start in (0, ROWS // 2)]
        assert torch.equal(whole.inputs.tokens, torch.cat([half.inputs.tokens for half in halves]))
        assert torch.equal(whole.scored, torch.cat([half.scored for half in halves]))
        torch.testing.assert_close(whole.weight, torch.cat([half.weight for half in halves]))
        torch.testing.assert_close(whole.count, torch.stack([half.count for half in halves]).sum())

    def test_loss_sums_add_up_over_micro_batches(self) -> None:
        """The loss is a sum over rows, so that the trainer can divide by the global count."""
        whole = self.loss_sum(self.corrupt(packed_rows()))
        parts = [self.loss_sum(self.corrupt(packed_rows(start, ROWS // 2))) for start in (0, ROWS // 2)]
        torch.testing.assert_close(whole, torch.stack(parts).sum())

    def test_loss_sums_add_up_over_positions(self) -> None:
        """The trainer takes the loss in parts, so that the logits of a whole batch never exist."""
        corruption = self.corrupt(packed_rows())
        answers, number = self.answers(corruption), int(corruption.scored.sum())
        thirds = [slice(start, start + number // 3 + 1) for start in range(0, number, number // 3 + 1)]
        parts = [self.loss_of(answers[chosen], corruption, chosen) for chosen in thirds]
        whole = self.loss_of(answers, corruption, slice(0, number))
        torch.testing.assert_close(torch.stack(parts).sum(), whole)

    def test_the_loss_is_finite_and_has_gradients(self) -> None:
        """A scalar that training can go down."""
        corruption = self.corrupt(packed_rows())
        answers = self.answers(corruption).float().requires_grad_()
        loss = self.loss_of(answers, corruption, slice(0, len(answers)))
        assert loss.ndim == 0
        loss.backward()
        assert answers.grad is not None, "the loss doesn't hang on what the model says"
        assert bool(torch.isfinite(answers.grad).all())

    def answers(self, corruption: Corruption) -> torch.Tensor:
        """What a model might say of the scored positions: likelihoods [N], or logits [N, V]; float64."""
        number = int(corruption.scored.sum())
        if not self.objective().reads_distributions:
            return torch.linspace(0.1, 5, number, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        return torch.randn(number, MASK_TOKEN_ID + 1, generator=generator, dtype=torch.float64)

    def loss_of(self, answers: torch.Tensor, corruption: Corruption, chosen: slice) -> torch.Tensor:
        """The share of the loss that some scored positions have."""
        part = self.objective().loss_part(corruption, self.schedule())
        return part.of(answers, chosen) if isinstance(part, DistributionLoss) else part(answers, chosen)

    def loss_sum(self, corruption: Corruption) -> torch.Tensor:
        """With the answers of a tiny model."""
        lm = TableLM(MASK_TOKEN_ID + 1)
        if self.objective().reads_distributions:
            logits = lm.project(lm.hidden_states(corruption.inputs)[corruption.scored]).double()
            return self.loss_of(logits, corruption, slice(0, len(logits))).detach()
        nll = lm.negative_log_likelihood(corruption.inputs, corruption.targets, corruption.scored)
        return self.objective().loss_sum(nll.double(), corruption).detach()

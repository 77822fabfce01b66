"""The contract of objectives, as tests."""

from __future__ import annotations

from dataclasses import replace

import torch

from opendllm.core.testing.contract import PluginContract
from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.segments import document_positions
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Objective
from opendllm.registries.options import ObjectiveOptions
from opendllm.registries.sequences import PADDING_SEGMENT, AttentionPattern, TokenRows

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
        """A schedule that goes with it."""
        options = self.registration().options
        assert issubclass(options, ObjectiveOptions)
        name = "linear" if options.noise_schedules is None else sorted(options.noise_schedules)[0]
        return installed_plugins().noise_schedules.get(name).build()

    def prepared(self, rows: TokenRows) -> TokenRows:
        """With the attention blocks of a model that it trains."""
        options = self.registration().options
        assert issubclass(options, ObjectiveOptions)
        pattern = AttentionPattern(options.trains, BLOCK_LENGTH if options.trains == "block-causal" else None)
        return replace(rows, blocks=pattern.blocks(rows.positions))

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
        nll = torch.linspace(0.1, 5, int(corruption.scored.sum()), dtype=torch.float64)
        thirds = [slice(start, start + len(nll) // 3 + 1) for start in range(0, len(nll), len(nll) // 3 + 1)]
        parts = [self.objective().loss_sum(nll[chosen], corruption.part(chosen)) for chosen in thirds]
        whole = self.objective().loss_sum(nll, corruption)
        torch.testing.assert_close(torch.stack(parts).sum(), whole)

    def test_the_loss_is_finite_and_has_gradients(self) -> None:
        """A scalar that training can go down."""
        nll = torch.rand(int(self.corrupt(packed_rows()).scored.sum()), requires_grad=True)
        loss = self.objective().loss_sum(nll, self.corrupt(packed_rows()))
        assert loss.ndim == 0
        loss.backward()
        assert nll.grad is not None
        assert bool(torch.isfinite(nll.grad).all())

    def loss_sum(self, corruption: Corruption) -> torch.Tensor:
        """With the log-likelihoods of a tiny model."""
        lm = TableLM(MASK_TOKEN_ID + 1)
        nll = lm.negative_log_likelihood(corruption.inputs, corruption.targets, corruption.scored)
        return self.objective().loss_sum(nll.double(), corruption).detach()

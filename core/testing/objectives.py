"""The contract of objectives, as tests."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from opendllm.core.testing.contract import PluginContract, check_close, example_options
from opendllm.core.testing.exact_bounds import masked_bound, noise_bound
from opendllm.core.testing.known_law import BLOCK_LENGTH as LAW_BLOCK
from opendllm.core.testing.known_law import IDS, LawLM, drawn_texts, entropy, rows_of, texts
from opendllm.core.testing.table_lm import CopyingLM, TableLM
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.segments import document_positions
from opendllm.registries.backbones import DiffusionLM, DistributionLoss
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Objective
from opendllm.registries.options import ObjectiveOptions, noise_destination
from opendllm.registries.sequences import PADDING_SEGMENT, AttentionPattern, TokenIds, TokenRows

MASK_TOKEN_ID = 11
ROWS, LENGTH = 8, 24
BLOCK_LENGTH = 4
BATCHES, BATCH_ROWS = 48, 256
"""How many rows a mean is of; a batch's times are spread evenly, and batches are drawn apart."""
SLACK = 0.02
"""Of a bound: published objectives leave out the least noise."""


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
        return self.built(Objective)  # type: ignore[type-abstract]

    def checked_options(self) -> ObjectiveOptions:
        """What it is built with."""
        registration = self.registration()
        options = registration.options.model_validate(example_options(registration, self.options))
        assert isinstance(options, ObjectiveOptions), f"derive {type(options).__name__} from ObjectiveOptions"
        return options

    def schedule(self) -> NoiseSchedule:
        """A schedule that goes with it: linear, where it may be."""
        options = self.checked_options()
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
            f"{sorted(options.destinations)}: name one in noise_schedules, or None for any"
        )

    def attention(self, block_length: int) -> AttentionPattern:
        """Of the models that it trains."""
        trains = self.checked_options().trains
        return AttentionPattern(trains, block_length if trains == "block-causal" else None)

    def prepared(self, rows: TokenRows) -> TokenRows:
        """With the attention blocks of a model that it trains."""
        ids = TokenIds(MASK_TOKEN_ID + 1, MASK_TOKEN_ID)
        return replace(rows, blocks=self.attention(BLOCK_LENGTH).blocks(rows.positions), ids=ids)

    def masking(self) -> Masking:
        """Of the packed rows, with the noise of seed 5."""
        rows = self.prepared(packed_rows())
        return self.objective().mask(rows, AddressedNoise(5, rows, ROWS), self.schedule())

    def corrupt(self, rows: TokenRows) -> Corruption:
        """Mask and corrupt with the noise of seed 5."""
        rows = self.prepared(rows)
        objective, schedule = self.objective(), self.schedule()
        masking = objective.mask(rows, AddressedNoise(5, rows, ROWS), schedule)
        return objective.corrupt(masking, schedule, MASK_TOKEN_ID)

    def test_prompts_and_padding_are_never_masked(self) -> None:
        """Only maskable positions are hidden."""
        masking = self.masking()
        assert bool(masking.masked.any()), (
            "of eight rows no token was masked: `mask` draws with `noise` what is hidden, a share of the "
            "maskable tokens"
        )
        wrong = (masking.masked & ~masking.rows.maskable).nonzero().tolist()
        assert not wrong, (
            f"tokens of prompts or padding are masked at (row, column) {wrong[:3]}: mask only where "
            f"`rows.maskable`"
        )

    def test_prompts_and_padding_are_never_scored(self) -> None:
        """The loss is of what the model has to write, in each copy of a row that it reads."""
        rows, corruption = packed_rows(), self.corrupt(packed_rows())
        copies, halves = self.copies(corruption)
        given = (~rows.maskable).repeat_interleave(copies, 0).repeat(1, halves)
        wrong = (corruption.scored & given).nonzero().tolist()
        assert not wrong, (
            f"tokens of prompts or padding are scored at (row, column) {wrong[:3]}: score only where "
            f"`rows.maskable`"
        )

    def copies(self, corruption: Corruption) -> tuple[int, int]:
        """How often the model reads a row: in rows after it, and in columns right of it."""
        read = list(corruption.inputs.tokens.shape)
        copies, halves = read[0] // ROWS, read[1] // LENGTH
        assert read == [copies * ROWS, halves * LENGTH], (
            f"{ROWS} rows of {LENGTH} tokens are read as {read}: a row is read whole, as often as you like"
        )
        return copies, halves

    def test_the_model_reads_prompts_and_padding_as_they_are(self) -> None:
        """Noise that replaces tokens keeps off them too, in each copy of a row that the model reads."""
        rows, corruption = packed_rows(), self.corrupt(packed_rows())
        copies, halves = self.copies(corruption)
        given = (~rows.maskable).repeat_interleave(copies, 0).repeat(1, halves)
        clean = rows.tokens.repeat_interleave(copies, 0).repeat(1, halves)
        wrong = (given & (corruption.inputs.tokens != clean)).nonzero().tolist()
        assert not wrong, (
            f"a prompt or padding token was changed at (row, column) {wrong[:3]}: corrupt only where "
            f"`rows.maskable`"
        )

    def test_scored_positions_have_their_clean_token_as_target(self) -> None:
        """Targets are never masks, and one finite weight belongs to each scored position."""
        rows, corruption = packed_rows(), self.corrupt(packed_rows())
        assert bool(corruption.scored.any()), "nothing is scored: `scored` are the positions with a loss"
        copies, halves = self.copies(corruption)
        clean = rows.tokens.repeat_interleave(copies, 0).repeat(1, halves)
        wrong = (corruption.scored & (corruption.targets != clean)).nonzero().tolist()
        assert not wrong, (
            f"the target at (row, column) {wrong[:3]} isn't the clean token: `targets` are what stood there "
            f"before the noise"
        )
        shape, number = list(corruption.weight.shape), int(corruption.scored.sum())
        assert shape == [number], f"the weight is {shape}, and [{number}] was expected: one a scored position"
        finite = bool(torch.isfinite(corruption.weight).all())
        assert finite, "a weight is not finite: keep times away from where the schedule's weight is infinite"

    def test_the_same_noise_gives_the_same_corruption(self) -> None:
        """Nothing is drawn from a hidden generator."""
        first, second = self.corrupt(packed_rows()), self.corrupt(packed_rows())
        same = torch.equal(first.inputs.tokens, second.inputs.tokens)
        assert same, "the same noise gave other tokens the second time: draw with `noise` only"
        check_close(second.weight, first.weight, "a weight, made again", "draw with `noise` only")

    def test_a_row_is_corrupted_alike_in_any_batch(self) -> None:
        """Micro-batches must not matter: rows in two halves equal rows in one batch."""
        whole = self.corrupt(packed_rows())
        halves = [self.corrupt(packed_rows(start, ROWS // 2)) for start in (0, ROWS // 2)]
        mend = "draw with `noise`, which is addressed by sample, and weigh each row by itself"
        for name, found, wanted in (
            ("a token", [half.inputs.tokens for half in halves], whole.inputs.tokens),
            ("`scored`", [half.scored for half in halves], whole.scored),
            ("a weight", [half.weight for half in halves], whole.weight),
        ):
            check_close(torch.cat(found), wanted, f"{name} of two half batches, against one batch", mend)
        counts = torch.stack([half.count for half in halves]).sum()
        check_close(counts, whole.count, "the counts of two half batches, summed", mend)

    def test_loss_sums_add_up_over_micro_batches(self) -> None:
        """The loss is a sum over rows, so that the trainer can divide by the global count."""
        whole = self.loss_sum(self.corrupt(packed_rows()))
        parts = [self.loss_sum(self.corrupt(packed_rows(start, ROWS // 2))) for start in (0, ROWS // 2)]
        check_close(
            torch.stack(parts).sum(),
            whole,
            "the losses of two half batches, summed",
            "give a sum over positions, no mean: what it is divided by is `count`",
            rtol=1e-5,
            atol=1e-5,
        )

    def test_loss_sums_add_up_over_positions(self) -> None:
        """The trainer takes the loss in parts, so that the logits of a whole batch never exist."""
        corruption = self.corrupt(packed_rows())
        answers, number = self.answers(corruption), int(corruption.scored.sum())
        thirds = [slice(start, start + number // 3 + 1) for start in range(0, number, number // 3 + 1)]
        parts = [self.loss_of(answers[chosen], corruption, chosen) for chosen in thirds]
        check_close(
            torch.stack(parts).sum(),
            self.loss_of(answers, corruption, slice(0, number)),
            "the loss in three parts, summed",
            "a position's loss hangs on its own likelihood and weight alone: no mean, no normalising",
            rtol=1e-6,
        )

    def test_the_loss_is_finite_and_has_gradients(self) -> None:
        """A scalar that training can go down."""
        corruption = self.corrupt(packed_rows())
        answers = self.answers(corruption).float().requires_grad_()
        loss = self.loss_of(answers, corruption, slice(0, len(answers)))
        assert loss.ndim == 0, f"the loss is {list(loss.shape)}, and a scalar was expected: sum it"
        assert bool(torch.isfinite(loss)), f"the loss is {float(loss)}, and a finite one was expected"
        assert loss.requires_grad, "the loss doesn't hang on what the model says: don't detach it"
        (slope,) = torch.autograd.grad(loss, answers)
        assert bool(torch.isfinite(slope).all()), "a gradient of the loss is not finite: mend its weights"

    def test_a_gradient_reaches_every_parameter(self) -> None:
        """Through the module, as in training."""
        options, corruption = self.checked_options(), self.corrupt(packed_rows())
        lm = TableLM(MASK_TOKEN_ID + 1, self.attention(BLOCK_LENGTH), reads_time=options.tells_time)
        part = self.objective().loss_part(corruption, self.schedule())
        lm.module(corruption.inputs, corruption.targets, corruption.scored, part).backward()
        unreached = [
            name
            for name, parameter in lm.module.named_parameters()
            if parameter.grad is None or not bool(parameter.grad.any())
        ]
        assert not unreached, (
            f"no gradient reaches {unreached}: the loss is one of the model's answers, at positions that it "
            f"reads with what stands around them"
        )

    def test_the_loss_is_unbiased(self) -> None:
        """Its mean over what is drawn is the bound, summed over everything that can be drawn.

        Of an objective whose options say `loss_is_bound`.
        """
        options = self.checked_options()
        if not options.loss_is_bound:
            return
        attention = self.attention(LAW_BLOCK)
        rows = rows_of(texts()[27:28], 0, attention)
        if options.bound == "masks":
            lm = TableLM(IDS.size, attention, reads_time=options.tells_time)
            exact = masked_bound(lm, rows)
        else:
            lm = CopyingLM(IDS.size, attention, reads_time=options.tells_time)
            rows = rows_of(texts()[27:28, :3], 0, attention)
            reconstruction = options.bound == "noise-and-reconstruction"
            exact = noise_bound(lm, rows, self.schedule(), options.tells_time, reconstruction)
        mean, error = self.mean_loss(lm, rows.tokens.expand(BATCHES * BATCH_ROWS, -1))
        assert abs(mean - exact) <= 4 * error + SLACK * exact, (
            f"a row's loss is {mean:.3f} nats on average, and its bound, by enumeration, {exact:.3f}: let "
            f"the weights belong to the chances that tokens are drawn with, or give loss_is_bound = False "
            f"where it isn't meant to be the bound"
        )

    def test_the_loss_is_a_bound_of_a_known_law(self) -> None:
        """No model can be better than the law that the texts are drawn from; the law itself is as good."""
        options = self.checked_options()
        if not options.loss_is_bound:
            return
        masks = options.bound == "masks"
        lm = LawLM(self.attention(LAW_BLOCK), None if masks else 0.5)
        mean, error = self.mean_loss(lm, drawn_texts(BATCHES * BATCH_ROWS))
        least = entropy()
        assert mean >= least - 4 * error - SLACK * least, (
            f"the law has an entropy of {least:.3f} nats, and the loss of its own model is {mean:.3f}: a "
            f"bound lies above; score every token that was hidden, with its whole weight"
        )
        if masks:
            assert mean <= least + 4 * error + SLACK * least, (
                f"the law has an entropy of {least:.3f} nats, and the loss of its own model is {mean:.3f}: "
                f"of masks, or a causal model, it is the entropy; show the model what isn't masked"
            )

    @torch.no_grad()
    def mean_loss(self, lm: DiffusionLM, tokens: Tensor) -> tuple[float, float]:
        """(the mean of a row's loss sum, its standard error) over rows [N, L], a global batch at a time."""
        objective, schedule, sums = self.objective(), self.schedule(), []
        for start in range(0, len(tokens), BATCH_ROWS):
            rows = rows_of(tokens[start : start + BATCH_ROWS], start, lm.attention)
            masking = objective.mask(rows, AddressedNoise(5, rows, BATCH_ROWS), schedule)
            corruption = objective.corrupt(masking, schedule, IDS.mask_token_id)
            sums.append(self.loss_sum(corruption, lm) / BATCH_ROWS)
        means = torch.stack(sums).double()
        return float(means.mean()), float(means.std()) / len(means) ** 0.5

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

    def loss_sum(self, corruption: Corruption, lm: DiffusionLM | None = None) -> torch.Tensor:
        """With the answers of a model, by default a tiny one."""
        if lm is None:
            reads_time = self.checked_options().tells_time
            lm = TableLM(MASK_TOKEN_ID + 1, self.attention(BLOCK_LENGTH), reads_time)
        if self.objective().reads_distributions:
            logits = lm.project(lm.hidden_states(corruption.inputs)[corruption.scored]).double()
            return self.loss_of(logits, corruption, slice(0, len(logits))).detach()
        nll = lm.negative_log_likelihood(corruption.inputs, corruption.targets, corruption.scored)
        return self.objective().loss_sum(nll.double(), corruption).detach()

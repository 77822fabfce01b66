"""The contract of objectives: what they hide, what they score, and what the model may see."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from opendllm.core.testing.contract import check_close, passed_over
from opendllm.core.testing.known_noise import PowerNoise
from opendllm.core.testing.objective_case import BLOCK_LENGTH, MASK_TOKEN_ID, ROWS, ObjectiveCase, packed_rows
from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.registries.objectives import Corruption, Masking
from opendllm.registries.sequences import TokenRows

NARROW = (0.3, 0.6)
"""Of a schedule that trains on a part of its noise only."""
MANY_ROWS = 1024
SURPLUS = 0.1
"""By how much more may be masked than by chance: a row without a mask is drawn anew by some."""


class CorruptionTests(ObjectiveCase):
    """A pure function of rows and noise that never touches prompts or padding, and shows no answer."""

    def test_prompts_and_padding_are_never_masked(self) -> None:
        """Only maskable positions are hidden."""
        for told, schedule in self.schedules().items():
            masking = self.masking(schedule, packed_rows())
            assert bool(masking.masked.any()), (
                f"of eight rows no token was masked, with {told}: `mask` draws with `noise` what is hidden, "
                f"a share of the maskable tokens"
            )
            wrong = (masking.masked & ~masking.rows.maskable).nonzero().tolist()
            assert not wrong, (
                f"tokens of prompts or padding are masked at (row, column) {wrong[:3]}: mask only where "
                f"`rows.maskable`"
            )

    def test_prompts_and_padding_are_never_scored(self) -> None:
        """The loss is of what the model has to write, in each copy of a row that it reads."""
        for _, _, corruption in self.corruptions():
            given = self.in_each_copy(~packed_rows().maskable, corruption)
            wrong = (corruption.scored & given).nonzero().tolist()
            assert not wrong, (
                f"tokens of prompts or padding are scored at (row, column) {wrong[:3]}: score only where "
                f"`rows.maskable`"
            )

    def test_the_model_reads_prompts_and_padding_as_they_are(self) -> None:
        """Noise that replaces tokens keeps off them too, in each copy of a row that the model reads."""
        for _, _, corruption in self.corruptions():
            rows = packed_rows()
            given = self.in_each_copy(~rows.maskable, corruption)
            changed = corruption.inputs.tokens != self.in_each_copy(rows.tokens, corruption)
            wrong = (given & changed).nonzero().tolist()
            assert not wrong, (
                f"a prompt or padding token was changed at (row, column) {wrong[:3]}: corrupt only where "
                f"`rows.maskable`"
            )

    def test_scored_positions_have_their_clean_token_as_target(self) -> None:
        """Targets are never masks, and one finite weight belongs to each scored position."""
        for told, _, corruption in self.corruptions():
            assert bool(corruption.scored.any()), (
                f"nothing is scored, with {told}: `scored` are the positions with a loss"
            )
            clean = self.in_each_copy(packed_rows().tokens, corruption)
            wrong = (corruption.scored & (corruption.targets != clean)).nonzero().tolist()
            assert not wrong, (
                f"the target at (row, column) {wrong[:3]} isn't the clean token: `targets` are what stood "
                f"there before the noise"
            )
            shape, number = list(corruption.weight.shape), int(corruption.scored.sum())
            assert shape == [number], (
                f"the weight is {shape}, and [{number}] was expected: one a scored position"
            )
            finite = bool(torch.isfinite(corruption.weight).all())
            assert finite, (
                f"a weight is not finite, with {told}: keep times away from where the schedule's weight is "
                f"infinite"
            )

    def test_the_same_noise_gives_the_same_corruption(self) -> None:
        """Nothing is drawn from a hidden generator, and nothing that is given is changed."""
        for told, schedule, first in self.corruptions():
            rows = self.prepared(packed_rows())
            objective, noise = self.objective(), AddressedNoise(5, rows, ROWS)
            for _ in range(2):
                second = objective.corrupt(objective.mask(rows, noise, schedule), schedule, MASK_TOKEN_ID)
                same = torch.equal(first.inputs.tokens, second.inputs.tokens)
                assert same, (
                    f"the same noise gave other tokens the second time, with {told}: draw with `noise` only, "
                    f"and keep nothing in the object"
                )
                check_close(second.weight, first.weight, "a weight, made again", "draw with `noise` only")
            for name in ("tokens", "segments", "positions", "maskable"):
                kept = torch.equal(getattr(rows, name), getattr(packed_rows(), name))
                assert kept, (
                    f"`rows.{name}` were expected to stay as they are, and were changed in place: work on a "
                    f"copy, with masked_fill and torch.where"
                )

    def test_a_row_is_corrupted_alike_in_any_batch(self) -> None:
        """Micro-batches must not matter: rows in two halves equal rows in one batch."""
        for _, schedule, whole in self.corruptions():
            halves = [self.corrupt(schedule, packed_rows(start, ROWS // 2)) for start in (0, ROWS // 2)]
            mend = "draw with `noise`, which is addressed by sample, and weigh each row by itself"
            for name, found, wanted in (
                ("a token", [half.inputs.tokens for half in halves], whole.inputs.tokens),
                ("`scored`", [half.scored for half in halves], whole.scored),
                ("a weight", [half.weight for half in halves], whole.weight),
            ):
                check_close(torch.cat(found), wanted, f"{name} of two half batches, against one batch", mend)
            counts = torch.stack([half.count for half in halves]).sum()
            check_close(counts, whole.count, "the counts of two half batches, summed", mend)

    def test_tokens_are_masked_as_likely_as_it_says(self) -> None:
        """`mask_probability` is the chance that they were drawn with, and the schedule's at `time`."""
        for told, schedule in self.schedules().items():
            masking = self.masking(schedule, packed_rows(0, MANY_ROWS))
            maskable = masking.rows.maskable
            chance, masked = masking.mask_probability[maskable], masking.masked[maskable].double()
            said, found = float(chance.mean()), float(masked.mean())
            error = float((chance * (1 - chance)).sum().sqrt()) / len(chance)
            assert abs(found - said) <= 5 * error + SURPLUS * said, (
                f"with {told}, {found:.3f} of the maskable tokens are masked, and mask_probability says "
                f"{said:.3f}: give the chance that each was drawn with"
            )
            check_close(
                schedule.mask_probability(masking.time)[maskable],
                chance,
                f"mask_probability, against that of {told} at `time`",
                "give as `time` the schedule's time at which that is the mask probability",
                atol=1e-6,
            )

    def test_every_token_gets_its_turn(self) -> None:
        """In each document of a packed row; but for a document's first, which nothing need predict."""
        for told, schedule in self.schedules().items():
            rows = packed_rows(0, MANY_ROWS)
            corruption = self.corrupt(schedule, rows)
            copies, halves = self.copies(corruption, MANY_ROWS)
            scored = corruption.scored.view(MANY_ROWS * copies, halves, -1).any(0).any(0)
            wanted = rows.maskable[0] & (rows.positions[0] > 0)
            never = (wanted & ~scored).nonzero()[:, 0].tolist()
            assert not never, (
                f"of {MANY_ROWS} rows with {told}, the maskable tokens at columns {never[:5]} are never "
                f"scored, and each was expected to be at times: learn every document of a row, to its end"
            )

    def test_times_keep_to_the_schedules_interval(self) -> None:
        """A schedule says in `interval` which part of its noise is trained on."""
        options = self.objective_options()
        if options.noise_schedules is not None:
            passed_over(f"its options' noise_schedules are {sorted(options.noise_schedules)} only")
        for destination in options.destinations:
            schedule = PowerNoise(1, destination, NARROW)
            masking = self.masking(schedule, packed_rows(0, MANY_ROWS))
            times = masking.time[masking.rows.maskable]
            least, most = float(times.min()), float(times.max())
            assert least >= NARROW[0] - 1e-6 and most <= NARROW[1] + 1e-6, (  # noqa: PT018 (one thing)
                f"of a schedule whose interval is {NARROW}, times from {least:.3f} to {most:.3f} were drawn: "
                f"draw them from `schedule.interval`"
            )

    def test_no_scored_token_is_shown(self) -> None:
        """Where noise is masks: another clean token at a position changes nothing that predicts it."""
        shown = [told for told, schedule in self.schedules().items() if schedule.destination == "mask"]
        if not shown:
            passed_over("its options' destinations are without masks, and other noise leaves tokens there")
        for told in shown:
            schedule, rows = self.schedules()[told], packed_rows()
            before = self.corrupt(schedule, rows)
            said = self._predicted(before)
            for column in rows.maskable[0].nonzero()[:, 0].tolist():
                others = rows.tokens.clone()
                others[:, column] = (others[:, column] + 1) % 10
                after = self.corrupt(schedule, replace(rows, tokens=others))
                here = self.in_each_copy(torch.arange(rows.tokens.shape[1]).expand_as(others), before)
                both = before.scored & after.scored & (here == column)
                moved = (self._predicted(after) - said).abs().amax(-1)
                wrong = (both & (moved > 1e-6)).nonzero().tolist()
                assert not wrong, (
                    f"with {told}, the prediction at (row, column) {wrong[:3]} was expected to stay when the "
                    f"clean token there is another, and changes: the model is shown what it is scored on; "
                    f"score only what is hidden from it"
                )

    def _predicted(self, corruption: Corruption) -> Tensor:
        """[B', L', V]: what the tiny model says of each position."""
        reads_time = self.objective_options().tells_time
        lm = TableLM(MASK_TOKEN_ID + 1, self.attention(BLOCK_LENGTH), reads_time)
        return lm.project(lm.hidden_states(corruption.inputs)).detach()

    def test_noise_leaves_no_more_than_the_schedule_says(self) -> None:
        """Where noise isn't masks: a scored position still reads its own token as often as chance has it."""
        others = {told: each for told, each in self.schedules().items() if each.destination != "mask"}
        if not others:
            passed_over("its options' destinations are masks only")
        for told, schedule in others.items():
            rows = packed_rows(0, MANY_ROWS)
            masking = self.masking(schedule, rows)
            corruption = self.objective().corrupt(masking, schedule, MASK_TOKEN_ID)
            read, clean = corruption.inputs.tokens[corruption.scored], corruption.targets[corruption.scored]
            times = self._times(masking, corruption, rows)
            mass = schedule.noise_mass(times.clamp(*schedule.interval), MASK_TOKEN_ID + 1)
            chance = torch.where(times > 0, schedule.alpha(times) + mass.other, 1.0)
            kept, due = float((read == clean).double().mean()), float(chance.mean())
            error = float((chance * (1 - chance)).clamp(min=0).sum().sqrt()) / len(chance)
            assert kept <= due + 5 * error + 0.01, (
                f"with {told}, {kept:.3f} of the scored positions read their own clean token, and chance "
                f"leaves {due:.3f}: replace as many as the schedule says; the model is shown what it is "
                f"scored on"
            )

    def _times(self, masking: Masking, corruption: Corruption, rows: TokenRows) -> Tensor:
        """[N] float64: of each scored position."""
        if corruption.time is not None:
            return corruption.time.double()
        return self.in_each_copy(masking.time.expand_as(rows.tokens), corruption)[corruption.scored]

"""The contract of policy objectives: what is read of answers, and which tokens are learnt."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from opendllm.core.testing.contract import check_close
from opendllm.core.testing.policy_case import ANSWERS, LENGTH, PolicyCase, answers
from opendllm.core.toolkit.policy_updates import PolicyUpdate, log_probabilities
from opendllm.registries.policies import FixedTerms

DRAWS = 16
"""Seeds in which each token must be learnt at least once."""


class ReadingTests(PolicyCase):
    """A pure function of answers and noise, whose terms are the answers' tokens, hidden from the model."""

    def test_only_answers_are_learnt(self) -> None:
        """Each term is of a token of a completion, which is what the model has to predict there."""
        rollouts = answers()
        for reading in self.readings(rollouts):
            wrong = int((~rollouts.rows.maskable[reading.row, reading.column]).sum())
            assert not wrong, f"{wrong} terms are of prompts or padding: learn only where `rows.maskable`"
            tokens = rollouts.rows.tokens[reading.row, reading.column]
            positions = int(reading.scored.sum()) // (2 if reading.guidance_scale else 1)
            there = reading.targets[reading.scored][:positions]
            wrong = int((there != tokens[reading.token]).sum())
            assert not wrong, (
                f"the target of {wrong} scored positions isn't the token of their term: `targets` are what "
                f"the answers hold, and `token` counts terms in the order of `row` and `column`"
            )

    def test_every_token_gets_its_turn(self) -> None:
        """Up to an answer's end each token is learnt, if not in each draw."""
        rollouts = answers()
        learnt = torch.zeros_like(rollouts.counted)
        for seed in range(DRAWS):
            for reading in self.readings(rollouts, seed):
                learnt[reading.row, reading.column] = True
        missed = (rollouts.counted & ~learnt).nonzero().tolist()
        assert not missed, (
            f"in {DRAWS} draws the tokens at (row, column) {missed[:3]} of {len(missed)} were never learnt: "
            f"all of an answer's tokens, where `counted`, must have a term"
        )

    def test_no_learnt_token_is_shown(self) -> None:
        """Another token in its place leaves what the model predicts there as it was."""
        rollouts, lm = answers(), self.lm()
        before = self.readings(rollouts)
        for column in rollouts.counted.any(0).nonzero().squeeze(1).tolist():
            tokens = rollouts.rows.tokens.clone()
            tokens[:, column] = 1 + tokens[:, column] % 10
            after = self.readings(replace(rollouts, rows=replace(rollouts.rows, tokens=tokens)))
            for one, other in zip(before, after, strict=True):
                positions = len(one.token)
                here = one.column[one.token] == column
                first, second = (
                    lm.hidden_states(each.inputs)[each.scored][:positions][here] for each in (one, other)
                )
                moved = int(((first - second).abs().amax(-1) > 1e-6).sum())
                assert not moved, (
                    f"where column {column} is learnt, {moved} predictions hang on the very token that "
                    f"stands there: hide what is scored"
                )

    def test_the_same_noise_gives_the_same_readings(self) -> None:
        """Old log-probabilities are worked out on readings that are made anew; nothing given is changed."""
        rollouts = answers()
        first, second = self.readings(rollouts), self.readings(rollouts)
        for one, other in zip(first, second, strict=True):
            for name in ("scored", "token", "weight", "row", "column", "share", "kl_share", "count"):
                same = torch.equal(getattr(one, name), getattr(other, name))
                assert same, f"`{name}` was another one the second time: draw with `noise` only"
            same = torch.equal(one.inputs.tokens, other.inputs.tokens)
            assert same, "other tokens were read the second time: draw with `noise` only"
        untouched = answers()
        for name, value, was in (
            ("tokens", rollouts.rows.tokens, untouched.rows.tokens),
            ("counted", rollouts.counted, untouched.counted),
            ("committed_at", rollouts.committed_at, untouched.committed_at),
        ):
            kept = torch.equal(value, was)
            assert kept, f"`{name}` was changed in place: work on a copy"

    def test_an_answer_is_read_alike_in_any_batch(self) -> None:
        """Micro-batches and the order of rows must not matter."""
        mend = "draw with `noise`, which is addressed by sample, and weigh each answer by itself"
        whole = self.term_table(answers())
        halves = [self.term_table(answers(range(first, first + 3))) for first in (0, 3)]
        self._check_tables(torch.cat(halves), whole, "the terms of two half batches, against one batch", mend)
        turned = self.term_table(answers(range(ANSWERS)[::-1]))
        self._check_tables(turned, whole, "the terms of rows in another order", mend)

    def test_padding_does_not_matter(self) -> None:
        """Rows are as long as the longest of their batch."""
        wider = self.term_table(answers(length=LENGTH + 4))
        mend = "let padding neither be seen nor counted"
        self._check_tables(wider, self.term_table(answers()), "the terms of wider rows", mend)

    def _check_tables(self, found: Tensor, wanted: Tensor, what: str, mend: str) -> None:
        rows = sorted(found.tolist(), key=lambda row: [round(value, 4) for value in row])
        again = torch.tensor(rows, dtype=torch.float64).view(-1, 5)
        check_close(again, wanted, what, mend, rtol=1e-4, atol=1e-4)

    def test_counts_add_up(self) -> None:
        """Of all readings of a global batch: the loss is divided by their sum."""
        whole = sum(float(reading.count) for reading in self.readings(answers()))
        halves = sum(
            float(reading.count)
            for first in (0, 3)
            for reading in self.readings(answers(range(first, first + 3)))
        )
        assert whole > 0, f"the count is {whole}, and one above 0 was expected: what the loss is a mean over"
        assert abs(halves - whole) < 1e-6 * whole, (
            f"the counts of two half batches are {halves:g} in sum, and {whole:g} was expected: count what "
            f"each answer adds"
        )

    def test_weights_and_shares_are_finite(self) -> None:
        """And no share is negative: which way a term pulls is its advantage's to say."""
        for reading in self.readings(answers()):
            for name in ("weight", "share", "kl_share"):
                value = getattr(reading, name)
                right = bool(torch.isfinite(value).all()) and bool((value >= 0).all())
                assert right, f"a {name} is negative or not finite: {value.min():g} to {value.max():g}"

    def test_an_update_reaches_every_parameter(self) -> None:
        """The loss goes through a module and back, all readings divided by one count; also with no terms."""
        lm, objective = self.lm(), self.objective()
        readings = self.readings(answers())
        count = sum(float(reading.count) for reading in readings)
        total = torch.zeros((), dtype=torch.float64)
        for reading in [*readings, readings[0].without_terms()]:
            old = log_probabilities(lm.module, reading)
            reference = old - 0.1 if self.policy_options().needs_reference else None
            advantages = torch.linspace(-1, 2, ANSWERS, dtype=torch.float64)
            fixed = FixedTerms(old, reading.of_answers(advantages), reference)
            update = PolicyUpdate(objective, reading, fixed, count)
            total = total + lm.module(reading.inputs, reading.targets, reading.scored, update.loss_part)
        finite = bool(torch.isfinite(total))
        assert finite, f"the loss is {float(total.detach())}, and a finite one was expected"
        slopes = torch.autograd.grad(total, list(lm.module.parameters()))
        unreached = [
            name
            for (name, _), slope in zip(lm.module.named_parameters(), slopes, strict=True)
            if not bool(slope.any()) or not bool(torch.isfinite(slope).all())
        ]
        assert not unreached, (
            f"no finite gradient reaches {unreached}: let the loss hang on what the model says"
        )

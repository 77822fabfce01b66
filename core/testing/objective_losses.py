"""The contract of objectives: the loss, what it is divided by, and its gradients."""

from __future__ import annotations

from dataclasses import replace

import torch

from opendllm.core.testing.contract import check_close
from opendllm.core.testing.objective_case import BLOCK_LENGTH, MASK_TOKEN_ID, ROWS, ObjectiveCase, packed_rows
from opendllm.core.testing.table_lm import TableLM
from opendllm.registries.sequences import PADDING_SEGMENT


class LossTests(ObjectiveCase):
    """A sum over scored positions, divided by a count of the global batch."""

    def test_loss_sums_add_up_over_micro_batches(self) -> None:
        """The loss is a sum over rows, so that the trainer can divide by the global count."""
        for _, schedule, corruption in self.corruptions():
            whole = self.loss_sum(corruption, schedule)
            parts = [
                self.loss_sum(self.corrupt(schedule, packed_rows(start, ROWS // 2)), schedule)
                for start in (0, ROWS // 2)
            ]
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
        for _, schedule, corruption in self.corruptions():
            answers, number = self.answers(corruption), int(corruption.scored.sum())
            step = number // 3 + 1
            thirds = [slice(start, start + step) for start in range(0, number, step)]
            parts = [self.loss_of(answers[chosen], corruption, chosen, schedule) for chosen in thirds]
            check_close(
                torch.stack(parts).sum(),
                self.loss_of(answers, corruption, slice(0, number), schedule),
                "the loss in three parts, summed",
                "a position's loss hangs on its own likelihood and weight alone: no mean, no normalising",
                rtol=1e-6,
            )

    def test_the_loss_is_finite_and_has_gradients(self) -> None:
        """A scalar that training can go down."""
        for told, schedule, corruption in self.corruptions():
            answers = self.answers(corruption).float().requires_grad_()
            loss = self.loss_of(answers, corruption, slice(0, len(answers)), schedule)
            assert loss.ndim == 0, f"the loss is {list(loss.shape)}, and a scalar was expected: sum it"
            assert bool(torch.isfinite(loss)), (
                f"the loss is {float(loss)} with {told}, and a finite one was expected: mend its weights"
            )
            assert loss.requires_grad, "the loss doesn't hang on what the model says: don't detach it"
            (slope,) = torch.autograd.grad(loss, answers)
            assert bool(torch.isfinite(slope).all()), (
                f"a gradient of the loss is not finite, with {told}: mend its weights"
            )

    def test_less_surprise_is_a_smaller_loss(self) -> None:
        """Training goes down the loss: it has to fall as clean tokens become likelier, over all of them."""
        for told, schedule, corruption in self.corruptions():
            answers = self.answers(corruption).requires_grad_()
            loss = self.loss_of(answers, corruption, slice(0, len(answers)), schedule)
            assert loss.requires_grad, "the loss doesn't hang on what the model says: don't detach it"
            (slope,) = torch.autograd.grad(loss, answers)
            if slope.ndim > 1:  # summed over positions: noise that chance has put there may turn some round
                slope = -slope.gather(-1, corruption.targets[corruption.scored][:, None])
            rise = -float(slope.sum())
            assert rise <= 0, (
                f"with {told}, the loss was expected to fall as clean tokens become likelier, and it rises: "
                f"weights are never negative"
            )

    def test_the_count_is_of_what_the_rows_hold(self) -> None:
        """The trainer divides by it: finite, above 0 where something is scored, at most the tokens read."""
        for told, _, corruption in self.corruptions():
            count = float(corruption.count)
            held = int((corruption.inputs.segments != PADDING_SEGMENT).sum())
            assert 0 < count <= held, (
                f"the count is {count:g} with {told}, and above 0 and at most {held}, the tokens that the "
                f"model reads, was expected: give how many tokens, or texts, the loss is a mean over"
            )

    def test_rows_with_nothing_to_learn_count_for_nothing(self) -> None:
        """Of a batch whose documents are all prompt, loss and count are 0 and no number is NaN."""
        for told, schedule in self.schedules().items():
            rows = packed_rows()
            rows = replace(rows, maskable=torch.zeros_like(rows.maskable))
            corruption = self.corrupt(schedule, rows)
            loss = float(self.loss_sum(corruption, schedule))
            scored = int(corruption.scored.sum())
            finite = bool(torch.isfinite(corruption.count)) and float(corruption.count) >= 0
            assert loss == 0 and scored == 0 and finite, (  # noqa: PT018 (one thing)
                f"of rows without a maskable token the loss is {loss} with {told}, of {scored} scored "
                f"positions, and the count {float(corruption.count)}; 0 of 0 was expected, and a count that "
                f"is a number: divide by nothing that can be 0, and score only where `rows.maskable`"
            )

    def test_a_gradient_reaches_every_parameter(self) -> None:
        """Through the module, as in training."""
        reads_time = self.objective_options().tells_time
        for told, schedule, corruption in self.corruptions():
            lm = TableLM(MASK_TOKEN_ID + 1, self.attention(BLOCK_LENGTH), reads_time=reads_time)
            part = self.objective().loss_part(corruption, schedule)
            lm.module(corruption.inputs, corruption.targets, corruption.scored, part).backward()
            unreached = [
                name
                for name, parameter in lm.module.named_parameters()
                if parameter.grad is None or not bool(parameter.grad.any())
            ]
            assert not unreached, (
                f"no gradient reaches {unreached} with {told}: the loss is one of the model's answers, at "
                f"positions that it reads with what stands around them"
            )

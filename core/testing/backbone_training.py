"""The contract of backbones: a module that trains, its loss taken in pieces."""

from __future__ import annotations

import torch

from opendllm.core.testing.backbone_case import VOCABULARY, BackboneCase, gradients, loss_part, training_batch
from opendllm.core.testing.contract import check_close
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import DiffusionLM, DistributionLoss, JointLoss


class TrainingTests(BackboneCase):
    """The loss of a module is that of its logits, and a step lowers it."""

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

    def test_a_joint_loss_is_of_all_likelihoods_at_once(self) -> None:
        """`JointLoss`: one call with each scored position's; what it gives is the loss, as in a policy's."""
        lm, batch = self.lm(), training_batch()
        number, seen = int(batch[2].sum()), list[list[int]]()

        def largest(nll: torch.Tensor) -> torch.Tensor:
            seen.append(list(nll.shape))
            return (nll.double() * torch.arange(1, len(nll) + 1)).logsumexp(0)

        found = lm.module(*batch, JointLoss(largest))
        assert seen == [[number]], (
            f"JointLoss.of was called with likelihoods {seen}, and once with [{number}] was expected: work "
            f"out those of all scored positions first"
        )
        assert_same(lm, found, largest(lm.negative_log_likelihood(*batch)))

    def test_a_joint_loss_can_be_guided(self) -> None:
        """Of the scored positions the last half is the same without its prompt, and only steers the first."""
        lm, (inputs, targets, scored) = self.lm(), training_batch()
        number = int(scored.sum()) // 2
        kept = (scored.flatten().cumsum(0) <= 2 * number).view_as(scored) & scored
        found = lm.module(inputs, targets, kept, JointLoss(lambda nll: nll.double().square().sum(), 1.5))
        of_prompt, without = lm.project(lm.hidden_states(inputs)[kept]).float().chunk(2)
        guided = without + 2.5 * (of_prompt - without)
        nll = torch.nn.functional.cross_entropy(guided, targets[kept][:number], reduction="none")
        assert_same(lm, found, nll.double().square().sum())

    def test_nothing_scored_is_a_loss_of_zero(self) -> None:
        """A process whose rows have nothing to score goes through the backward pass with the others."""
        lm, (inputs, targets, scored) = self.lm(), training_batch()
        loss = lm.module(inputs, targets, torch.zeros_like(scored), lambda nll, _: nll.double().sum())
        assert isinstance(loss, torch.Tensor), (
            f"with nothing scored the module gave {loss!r}, no tensor: a sum over no pieces; begin it with "
            f"`logits.sum() * 0`, so that the backward pass goes through"
        )
        slope = any(bool(slope.any()) for slope in gradients(lm.module, loss).values())
        assert float(loss.detach()) == 0 and not slope, (  # noqa: PT018 (one thing)
            f"with nothing scored the loss is {float(loss.detach())}{' with a gradient' if slope else ''}, "
            f"and 0 without one was expected: add `logits.sum() * 0`, so that the backward pass goes through"
        )


def assert_same(lm: DiffusionLM, loss: torch.Tensor, other: torch.Tensor) -> None:
    """Two losses and their gradients are the same, to float32's precision.

    That of the module's largest gradient: a key bias's, which softmax cancels, is 0 but for rounding.
    """
    mend = "sum loss_part over all scored positions, each once, and let gradients through"
    check_close(loss, other, "the module's loss", mend, rtol=1e-5, atol=1e-5)
    wanted = gradients(lm.module, other)
    largest = max((float(slope.abs().max()) for slope in wanted.values() if slope.numel()), default=0.0)
    for name, found in gradients(lm.module, loss).items():
        check_close(found, wanted[name], f"the gradient of {name}", mend, rtol=1e-4, atol=1e-4 * largest)

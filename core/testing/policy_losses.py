"""The contract of policy objectives: advantages, and what a term costs."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.core.testing.contract import check_close, passed_over
from opendllm.core.testing.policy_case import PolicyCase
from opendllm.registries.errors import UserError
from opendllm.registries.policies import FixedTerms

TERMS = 31


class PolicyLossTests(PolicyCase):
    """At first REINFORCE's gradient; each term by itself; what is said to be clipped is."""

    def fixed(self, old: Tensor, advantages: Tensor, reference: Tensor | None = None) -> FixedTerms:
        """With a reference where the options say that there is one; by default the old policy."""
        needed = self.policy_options().needs_reference
        return FixedTerms(old, advantages, (old if reference is None else reference) if needed else None)

    def test_at_first_it_is_reinforce(self) -> None:
        """While the policy is the one that wrote the answers, the loss is -A, its gradient -A, its KL 0."""
        old, _, advantages = self.terms_of(TERMS)
        new = old.clone().requires_grad_()
        losses = self.objective().losses(new, self.fixed(old, advantages))
        (slope,) = torch.autograd.grad(losses.loss.sum(), new)
        mend = (
            "the ratio exp(new - old) is 1 there, and a term's loss is the negative of it times the advantage"
        )
        check_close(losses.loss, -advantages, "a term's loss at ratio 1", mend)
        check_close(slope, -advantages, "its gradient at ratio 1", mend)
        if losses.kl is not None:
            check_close(losses.kl, torch.zeros_like(old), "the KL estimate of a policy to itself", mend)
        clipped = int((losses.clipped_low | losses.clipped_high).sum())
        assert not clipped, f"{clipped} terms are said to be clipped at ratio 1, where nothing is"

    def test_what_is_clipped_is_held_back(self) -> None:
        """A term has no gradient where it is said to be clipped, and one wherever else."""
        old, ratio, advantages = self.terms_of(TERMS)
        new = (old + ratio).requires_grad_()
        losses = self.objective().losses(new, self.fixed(old, advantages))
        (slope,) = torch.autograd.grad(losses.loss.sum(), new)
        said, held = losses.clipped_low | losses.clipped_high, slope == 0
        wrong = (said != held).nonzero().squeeze(1).tolist()
        assert not wrong, (
            f"of {TERMS} terms those at {wrong[:3]} are said to be clipped and aren't, or the other way "
            f"round: `clipped_low` and `clipped_high` are where the bound decides, by the advantage's sign"
        )
        both = int((losses.clipped_low & losses.clipped_high).sum())
        sides = bool((ratio[losses.clipped_low] < 0).all()) and bool((ratio[losses.clipped_high] > 0).all())
        assert sides, "a term is said to be clipped at the side that its ratio isn't on"
        assert not both, f"{both} terms are said to be clipped at both sides"

    def test_terms_cost_each_by_itself(self) -> None:
        """The trainer takes them in as many micro-batches as it likes."""
        old, ratio, advantages = self.terms_of(TERMS)
        reference = old - ratio / 3
        whole = self.objective().losses(old + ratio, self.fixed(old, advantages, reference))
        chosen = torch.arange(TERMS) % 4 == 1
        part = self.objective().losses(
            (old + ratio)[chosen], self.fixed(old[chosen], advantages[chosen], reference[chosen])
        )
        mend = "no mean and no normalising over terms: that is what `share` and `count` are for"
        check_close(part.loss, whole.loss[chosen], "some terms' losses, against those among all", mend)
        if whole.kl is not None and part.kl is not None:
            check_close(part.kl, whole.kl[chosen], "some terms' KL, against that among all", mend)

    def test_nothing_costs_nothing(self) -> None:
        """A process may have no terms."""
        none = torch.zeros(0, dtype=torch.float64)
        losses = self.objective().losses(none, self.fixed(none, none))
        assert losses.loss.shape == (0,), f"no terms gave a loss of {list(losses.loss.shape)}"

    def test_the_reference_is_read_where_it_is_needed(self) -> None:
        """`needs_reference` says whether the trainer keeps one."""
        if not self.policy_options().needs_reference:
            passed_over("its options' needs_reference is False")
        old, ratio, advantages = self.terms_of(TERMS)
        near, far = (
            self.objective().losses(old, FixedTerms(old, advantages, old - away)).kl
            for away in (0 * ratio, ratio)
        )
        assert near is not None, "needs_reference is True, and `losses` gave no kl"
        assert far is not None, "needs_reference is True, and `losses` gave no kl"
        moved = bool((near != far).any())
        assert moved, "another reference gave the same KL estimates: read `fixed.reference`"

    def test_equal_rewards_have_no_advantage(self) -> None:
        """Exactly: .7 ten times is no binary fraction, and its mean may not be .7."""
        for value in (0.7, 0.1, 1 / 3, -2.3, 0.0, 1e6 + 0.1):
            for size in (2, 3, 10):
                rewards = torch.full((2, size), value, dtype=torch.float64)
                found = self.objective().advantages(rewards)
                zero = bool((found == 0).all())
                assert zero, (
                    f"{size} rewards of {value} have advantage {float(found.abs().max()):g}, and 0 was "
                    f"expected: take one of them from all before the mean"
                )

    def test_better_answers_have_more_advantage(self) -> None:
        """In the order of their rewards; the best gains, the worst loses."""
        rewards = torch.tensor([[0.0, 2.5, 1.0, 0.3], [-3.0, 0.2, 0.1, 9.0]], dtype=torch.float64)
        found = self.objective().advantages(rewards)
        ordered = torch.equal(found.argsort(1), rewards.argsort(1))
        assert ordered, f"rewards {rewards[0].tolist()} have advantages {found[0].tolist()}: in another order"
        signs = bool((found.amax(1) > 0).all()) and bool((found.amin(1) < 0).all())
        assert signs, "the best answer's advantage must be above 0 and the worst one's below"

    def test_groups_do_not_know_each_other(self) -> None:
        """An answer is compared with the answers to its own prompt."""
        rewards = torch.tensor([[0.0, 2.5, 1.0], [7.0, 7.5, 4.0]], dtype=torch.float64)
        whole = self.objective().advantages(rewards)
        alone = torch.cat([self.objective().advantages(group[None]) for group in rewards])
        mend = "take means and deviations over the second dimension only"
        check_close(alone, whole, "the advantages of one group, against those of two", mend)
        kept = self.objective().kept(rewards)
        each = torch.cat([self.objective().kept(group[None]) for group in rewards])
        same = torch.equal(kept, each)
        assert same, "whether a prompt is kept hangs on the other prompts: look at its own rewards only"

    def test_groups_of_one_are_refused(self) -> None:
        """There is nothing to compare the answer with."""
        try:
            found = self.objective().advantages(torch.tensor([[1.5]], dtype=torch.float64))
        except UserError:
            return
        raise AssertionError(f"a group of one has advantage {found.tolist()}: raise UserError")

"""The contract of a policy objective: what reinforcement learning takes from answers and their rewards.

A phase of training writes answers (`Rollouts`), gives each a reward, and takes some updates on them. An
update reads the answers again behind masks: a `PolicyReading` says what the model reads, and how its answers
become the log-probabilities of M *terms*, mostly one a token of the answers. The policy of now, the one that
wrote the answers and a reference are read alike, so that their ratio is of the same quantity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from opendllm.registries.objectives import Noise
from opendllm.registries.sequences import ModelInputs, TokenRows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rollouts:
    """B answers, as the policy wrote them.

    Attributes:
        rows: [B, L]: a prompt, the completion, whatever stands after it, and padding. `maskable` is the
            whole completion, as far as it was written, also after its end; everything else that is real is
            prompt. `sample_index` is another for each (phase, iteration, answer): it addresses the masks.
            `ids` and, of a block-causal model, `blocks` are the model's.
        counted: [B, L] bool, the completion up to and with its first stop token; all of it where it has none.
        committed_at: [B, L] int64, the forward pass, from 1, that committed each token of a completion (the
            last one, where a token was masked again); 0 elsewhere.
        max_completion_length: the most tokens that a completion could have.
    """

    rows: TokenRows
    counted: Tensor
    committed_at: Tensor
    max_completion_length: int


@dataclass(frozen=True)
class PolicyReading:
    """Rows that are read once, and the M terms of the loss that their answers make up.

    The log-probability of term m is minus the sum of weight * nll over the scored positions whose `token`
    is m. The loss is the sum over terms of share * (loss of the term) + kl_share * (its KL estimate), over
    all readings of a global batch, divided by the sum of their counts.

    Attributes:
        inputs: what the model reads, [B', L'].
        targets: [B', L'] int64.
        scored: [B', L'] bool, the positions whose likelihood is needed: N of them, row by row; with a
            `guidance_scale` 2N.
        token: [N] int64, which term each scored position is part of.
        weight: [N] float64, its factor there.
        row: [M] int64, whose answer it is: a row of the rollouts.
        column: [M] int64, which of its tokens.
        share: [M] float64, the term's factor in the loss.
        kl_share: [M] float64, its KL estimate's, the penalty's strength in it; 0 where there is none.
        count: scalar float64, what the loss sum is divided by, once summed over the global batch.
        guidance_scale: above 0, the scored positions are N and then N more, of the same rows without their
            prompt, and the logits are those of classifier-free guidance, see `JointLoss`.
    """

    inputs: ModelInputs
    targets: Tensor
    scored: Tensor
    token: Tensor
    weight: Tensor
    row: Tensor
    column: Tensor
    share: Tensor
    kl_share: Tensor
    count: Tensor
    guidance_scale: float = 0.0

    def log_probabilities(self, negative_log_likelihood: Tensor) -> Tensor:
        """[M] float64 of the terms.

        Args:
            negative_log_likelihood: [N] float, of the scored positions in row-major order.
        """
        parts = -self.weight * negative_log_likelihood.double()
        return parts.new_zeros(len(self.row)).index_add(0, self.token, parts)

    def of_answers(self, values: Tensor) -> Tensor:
        """[M] of the terms: of values [B], one an answer, or [B, L], one a token."""
        return values[self.row] if values.ndim == 1 else values[self.row, self.column]

    def without_terms(self) -> PolicyReading:
        """The same rows with nothing scored: for a process that has fewer readings than others."""
        return replace(
            self,
            scored=self.scored & False,
            **{name: getattr(self, name)[:0] for name in ("token", "weight", "row", "column")},
            share=self.share[:0],
            kl_share=self.kl_share[:0],
            count=self.count * 0,
        )


@dataclass(frozen=True)
class FixedTerms:
    """What an update holds fixed, for each of M terms.

    Attributes:
        old: [M] float64, log-probabilities under the policy that wrote the answers.
        advantages: [M] float64.
        reference: [M] float64, log-probabilities under the reference; None where the objective's options
            need none.
    """

    old: Tensor
    advantages: Tensor
    reference: Tensor | None = None


@dataclass(frozen=True)
class PolicyLosses:
    """What M terms cost, each by itself.

    Attributes:
        loss: [M] float64, to be made small.
        kl: [M] float64, an estimate of the KL divergence, without its strength; None where there is no
            penalty.
        clipped_low: [M] bool, where the ratio's lower bound holds its gradient back.
        clipped_high: [M] bool, where its upper bound does.
    """

    loss: Tensor
    kl: Tensor | None
    clipped_low: Tensor
    clipped_high: Tensor


class PolicyObjective(ABC):
    """Turns answers and their rewards into a loss. A pure function of its inputs, as an objective is.

    Its options derive from `PolicyObjectiveOptions`; it is registered with `register_objectives`.
    """

    @abstractmethod
    def readings(self, rollouts: Rollouts, noise: Noise) -> Sequence[PolicyReading]:
        """What is read of some answers in one update, all scored positions of a term in one reading.

        An answer's part of it hangs on that answer and its noise alone, not on the rows beside it.

        Args:
            rollouts: B answers.
            noise: theirs, for this iteration.

        Returns:
            One or more, each of about as many rows as there are answers, or some times that.
        """

    @abstractmethod
    def advantages(self, rewards: Tensor) -> Tensor:
        """[P, G] float64: how much better each answer is than the others to its prompt.

        Equal rewards have advantage 0, exactly.

        Args:
            rewards: [P, G] float64, of G answers to each of P prompts.

        Raises:
            UserError: G is 1.
        """

    @abstractmethod
    def losses(self, new: Tensor, fixed: FixedTerms) -> PolicyLosses:
        """What the terms cost, each by itself.

        Args:
            new: [M] float64, log-probabilities under the policy of now, with a gradient.
            fixed: the rest.
        """

    def kept(self, rewards: Tensor) -> Tensor:
        """[P] bool: which prompts' answers are learnt from; the others are left out of the phase.

        Args:
            rewards: [P, G] float64.
        """
        return rewards[:, 0] == rewards[:, 0]

"""A phase begins: answers of the policy as it is, judged; their likelihoods now, and under the reference."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from opendllm.core.foundation.notices import tell_once
from opendllm.core.foundation.process_group import summed
from opendllm.core.training.engine import whole_weights
from opendllm.core.training.reinforcement.answers import Answer, Writer, rollouts_of
from opendllm.core.training.reinforcement.figures import answer_figures, answer_sums, reward_figures
from opendllm.core.training.reinforcement.judging import Judge, Judged
from opendllm.core.training.reinforcement.phase import Phase
from opendllm.core.training.reinforcement.problems import ProblemOrder
from opendllm.core.training.reinforcement.readings import PhaseReader
from opendllm.core.training.reinforcement.reference import ReferenceModel
from opendllm.core.training.reinforcement.term_values import TermValues
from opendllm.registries.policies import PolicyObjective

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


@dataclass(frozen=True)
class PhaseMaker:
    """Makes the phases of one run.

    Attributes:
        order: which problems are asked in which phase.
        own: which of a phase's answers are this rank's.
        writer: writes them.
        longest: the most tokens that one may have.
        judge: says what they are worth.
        reader: says how likely they are.
        reference: None where the objective needs none.
    """

    order: ProblemOrder
    own: range
    writer: Writer
    longest: int
    judge: Judge
    reader: PhaseReader
    reference: ReferenceModel | None

    def phase(self, number: int, engine: DeepSpeedEngine) -> Phase:
        """The phase of this number. Every rank must call this.

        Raises:
            UserError: a reward raised, hung or gave no such values, here or on another rank.
        """
        objective = self.reader.objective
        started = time.perf_counter()
        questions = self.order.questions(number, self.own)
        with whole_weights(engine):
            pending = self.judge.pending(self.writer.write(questions))
        answers = pending.answers
        written = time.perf_counter()
        rollouts = rollouts_of(answers, self.reader.lm, self.longest)
        phase = Phase(number, rollouts, torch.zeros(0), torch.ones(len(answers), dtype=torch.bool), {}, {})
        # Where every answer is learnt, likelihoods are computed while the last answers are judged.
        early = type(objective).kept is PolicyObjective.kept
        if early:
            phase = self._with_likelihoods(phase, engine)
        wait_for_device(engine)
        read = time.perf_counter()
        found = pending.collect()
        rewards, values = self._of_all_ranks(found, engine.device)
        kept = objective.kept(rewards)
        learnt = kept.repeat_interleave(rewards.shape[1])
        if not bool(kept.any()):
            tell_once(
                "the objective keeps none of a phase's prompts, so nothing is learnt in it; `learnt` in "
                "train.jsonl says of each phase how much is"
            )
        own = slice(self.own.start, self.own.stop)
        phase = replace(phase, advantages=objective.advantages(rewards).flatten()[own], learnt=learnt[own])
        judged_by = time.perf_counter()
        if not early:
            phase = self._with_likelihoods(phase, engine)
            wait_for_device(engine)
        figures = {
            **reward_figures(rewards, values, self.judge.labels),
            **self._answer_figures(answers, engine.device),
            "learnt": float(learnt.double().mean()),
            "rollout_seconds": written - started,
            "reward_seconds": found.waited,
            "likelihood_seconds": (read - written) + (time.perf_counter() - judged_by),
        }
        return replace(phase, figures=figures)

    def _of_all_ranks(self, found: Judged, device: torch.device) -> tuple[Tensor, Tensor]:
        """([P, G], [P * G, R]) float64, on the CPU: every rank knows what all answers are worth."""
        whole = torch.zeros(self.order.answers, 1 + len(self.judge.labels), dtype=torch.float64)
        whole[self.own.start : self.own.stop] = torch.cat([found.totals[:, None], found.values], dim=1)
        whole = summed(whole.to(device)).cpu()
        return whole[:, 0].view(-1, self.order.group_size), whole[:, 1:]

    def _answer_figures(self, answers: Sequence[Answer], device: torch.device) -> Mapping[str, float]:
        sums = answer_sums(
            [each.counted for each in answers],
            [each.kept < len(each.tokens) for each in answers],
            [each.forward_passes for each in answers],
        )
        return answer_figures(summed(sums.to(device)).cpu())

    def _with_likelihoods(self, phase: Phase, engine: DeepSpeedEngine) -> Phase:
        """Of the terms of all its iterations, before the first step changes the policy."""
        iterations = range(self.reader.iterations)
        old = {each: self.reader.likelihoods(phase, each) for each in iterations[1:]}
        reference: dict[int, TermValues] = {}
        if self.reference is not None:
            with self.reference.in_place(engine):
                reference = {each: self.reader.likelihoods(phase, each) for each in iterations}
        return replace(phase, old=old, reference=reference)


def wait_for_device(engine: DeepSpeedEngine) -> None:
    """So that what was measured is what was done."""
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)

"""What the model reads of a phase's answers, micro-batch by micro-batch, and how likely they are under it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.foundation.process_group import largest
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.policy_updates import log_probabilities
from opendllm.core.training.reinforcement.answers import answering, part_of
from opendllm.core.training.reinforcement.phase import Phase
from opendllm.core.training.reinforcement.term_values import TermValues
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.policies import FixedTerms, PolicyObjective, PolicyReading


@dataclass(frozen=True)
class MicroBatch:
    """Some of a phase's answers.

    Attributes:
        rows: [B'] int64, which; they ascend.
        readings: all that is read of them in an iteration.
    """

    rows: Tensor
    readings: list[PolicyReading]

    def fixed_terms(self, phase: Phase, iteration: int) -> Iterator[FixedTerms]:
        """Of each reading."""
        old, reference = phase.old.get(iteration), phase.reference.get(iteration)
        olds = None if old is None else old.of_answers(self.rows).of_readings(self.readings)
        references = None
        if reference is not None:
            references = reference.of_answers(self.rows).of_readings(self.readings)
        for number, reading in enumerate(self.readings):
            advantages = reading.of_answers(phase.advantages[self.rows].to(reading.row.device))
            yield FixedTerms(
                old=torch.zeros_like(advantages) if olds is None else olds[number],
                advantages=advantages,
                reference=None if references is None else references[number],
            )


@dataclass(frozen=True)
class PhaseReader:
    """Reads phases of one run.

    Attributes:
        lm: the model.
        objective: says what is read.
        seed: of the masks.
        answers: of a phase, over all ranks.
        iterations: of a phase.
        micro_batch: answers that are read together.
    """

    lm: DiffusionLM
    objective: PolicyObjective
    seed: int
    answers: int
    iterations: int
    micro_batch: int

    def micro_batches(self, phase: Phase, iteration: int) -> list[MicroBatch]:
        """Of this rank's answers in one iteration. Every rank must call this.

        All ranks have the same number of readings: some of those of a rank that has fewer score nothing.
        """
        first = (phase.number * self.iterations + iteration) * self.answers
        found: list[MicroBatch] = []
        for start in range(0, len(phase.learnt), self.micro_batch):
            rows = torch.arange(start, start + self.micro_batch)
            learnt = rows[phase.learnt[rows]]
            if len(learnt):
                found.append(MicroBatch(learnt, self._readings(phase, learnt, first)))
            else:
                found.append(MicroBatch(rows, [self._readings(phase, rows, first)[0].without_terms()]))
        own = sum(len(each.readings) for each in found)
        missing = largest(own) - own
        found[-1].readings.extend([found[-1].readings[0].without_terms()] * missing)
        return found

    def likelihoods(self, phase: Phase, iteration: int) -> TermValues:
        """Of one iteration's terms, under the model as it is. Every rank must call this."""
        parts = []
        with answering(self.lm.module):
            for each in self.micro_batches(phase, iteration):
                found = [log_probabilities(self.lm.module, reading) for reading in each.readings]
                parts.append(TermValues.of(each.readings, found, each.rows, len(phase.learnt)))
        return TermValues.joined(parts)

    def _readings(self, phase: Phase, rows: Tensor, first: int) -> list[PolicyReading]:
        part = part_of(phase.rollouts, self.lm, rows, first)
        noise = AddressedNoise(self.seed, part.rows, self.answers)
        return list(self.objective.readings(part, noise))

"""What a run is asked: problems in their order, and the answers that a phase wants to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from opendllm.core.data.rows import permuted
from opendllm.core.toolkit.draws import hash_address, stream_id
from opendllm.registries.problems import Problem


@dataclass(frozen=True)
class Question:
    """An answer that is to be written.

    Attributes:
        number: its place among all answers of its phase.
        problem: what it answers.
        sample: which of the answers to that problem, from 0.
        seed: of its draws.
    """

    number: int
    problem: Problem
    sample: int
    seed: int


@dataclass(frozen=True)
class ProblemOrder:
    """Problems in a shuffled order that differs from epoch to epoch: a pure function of the seed.

    Attributes:
        problems: at least one.
        seed: of order and answers.
        group_size: answers to each prompt.
        answers: of a phase.
    """

    problems: Sequence[Problem]
    seed: int
    group_size: int
    answers: int

    def questions(self, phase: int, numbers: range) -> list[Question]:
        """Some of a phase's questions.

        Args:
            phase: from 0.
            numbers: which of its answers; those to one prompt stand side by side.
        """
        prompts = self.answers // self.group_size
        first, last = numbers.start // self.group_size, -(-numbers.stop // self.group_size)
        asked = torch.arange(phase * prompts + first, phase * prompts + last)
        size = len(self.problems)
        order = permuted(asked % size, size, self.seed, asked // size, stream="problem-order").tolist()
        found = []
        for number in numbers:
            group, sample = divmod(number, self.group_size)
            # By the prompt's number in the run: a small set's problem may come twice in a phase.
            prompt = phase * prompts + group
            seed = int(hash_address(self.seed, stream_id("rollout"), phase, prompt, sample))
            found.append(Question(number, self.problems[order[group - first]], sample, seed))
        return found


def held_out_questions(problems: Sequence[Problem], samples: int, seed: int, own: range) -> list[Question]:
    """The same questions every time, so that what changes is the model.

    Args:
        problems: that are held out.
        samples: answers to each.
        seed: of the answers.
        own: which of all answers this process writes.
    """
    found = []
    for number in own:
        index, sample = divmod(number, samples)
        drawn = int(hash_address(seed, stream_id("held-out-rollout"), index, sample))
        found.append(Question(number, problems[index], sample, drawn))
    return found

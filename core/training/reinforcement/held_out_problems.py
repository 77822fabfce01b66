"""How many problems pass that are never trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from opendllm.core.foundation.process_group import summed
from opendllm.core.foundation.ranks import rank, world_size
from opendllm.core.manifest.reward_schema import HeldOutProblems
from opendllm.core.training.reinforcement.answers import Writer
from opendllm.core.training.reinforcement.judging import FULL_MARK, Judge
from opendllm.core.training.reinforcement.problems import held_out_questions
from opendllm.registries.problems import Problem


@dataclass(frozen=True)
class HeldOutMeasure:
    """Asks them, the same way each time.

    Attributes:
        settings: the manifest's section.
        problems: at least one.
        writer: writes the answers of a phase.
        judge: of the same answers.
        seed: of the answers.
    """

    settings: HeldOutProblems
    problems: Sequence[Problem]
    writer: Writer
    judge: Judge
    seed: int

    def figures(self, device: torch.device) -> Mapping[str, float]:
        """For a line of train.jsonl. Every rank must call this, with all weights whole.

        Args:
            device: that the ranks' sums go through.
        """
        total = len(self.problems) * self.settings.samples
        share = -(-total // world_size())
        own = range(min(rank() * share, total), min((rank() + 1) * share, total))
        questions = held_out_questions(self.problems, self.settings.samples, self.seed, own)
        writer = self.writer.at_temperature(self.settings.temperature)
        found = self.judge.pending(writer.write(questions)).collect()
        labels = list(self.judge.labels)
        passing = labels.index(self.settings.reward) if self.settings.reward is not None else 0
        passed = (found.values[:, passing] >= FULL_MARK).double()
        own_sums = torch.tensor([len(own), found.totals.sum(), passed.sum()], dtype=torch.float64)
        number, reward, passes = summed(own_sums.to(device)).tolist()
        return {"held_out_reward": reward / number, "held_out_pass_rate": passes / number}

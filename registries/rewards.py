"""The contract of a reward: a number for each answer that a model wrote to a problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from opendllm.registries.benchmarks import CodeExecution
from opendllm.registries.problems import Completion, Problem


@dataclass(frozen=True)
class RewardContext:
    """What a reward may ask of the run.

    Attributes:
        code_execution: whether, and how, it may run what a model wrote; None forbids it.
        max_new_tokens: as many tokens as an answer may have.
        seed: for whatever a reward draws; the same through a whole run.
    """

    code_execution: CodeExecution | None = None
    max_new_tokens: int | None = None
    seed: int = 0


class Reward(ABC):
    """Judges answers. An answer is worth the same whatever stands beside it, and whenever it is asked.

    It runs in a process of its own while the model goes on, and is built there from its options.
    """

    bounds: tuple[float, float] = (0.0, 1.0)
    """The least and the greatest value that it gives."""

    @abstractmethod
    def values(self, completions: Sequence[Completion], context: RewardContext) -> Sequence[float]:
        """What each answer is worth, in their order; finite numbers within `bounds`.

        Args:
            completions: answers to any number of problems. Their texts may be anything: empty, half a
                program, with characters that no encoding takes.
            context: what the run allows.
        """

    def issue_with(self, problem: Problem) -> str | None:
        """Why answers to a problem can't be judged ("it has no tests"), found before training begins; None
        where they can.
        """
        return None

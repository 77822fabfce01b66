"""Small made-up functions: some to be tested with, others to learn from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from opendllm.core.toolkit.synthetic_functions import SyntheticFunction, synthetic_functions
from opendllm.plugins.benchmarks import SyntheticFunctionsOptions
from opendllm.plugins.benchmarks.judged_programs import JudgedPrograms
from opendllm.registries.benchmarks import BenchmarkContext, GeneratedText, GenerationRequest
from opendllm.registries.gaps import Gap
from opendllm.registries.problems import Problem

STOP = ("\ndef", "\nclass", "\nassert", "\nprint", "\n#")


class SyntheticFunctions(JudgedPrograms[SyntheticFunctionsOptions, SyntheticFunction]):
    """pass@k of held-out functions; no two splits have one in common."""

    def asked(self, context: BenchmarkContext) -> Mapping[str, SyntheticFunction]:
        """The first of the held-out functions."""
        wanted = min(filter(None, (self.options.problems, context.limit)))
        held_out = synthetic_functions("held-out", self.options.most_steps)
        return {each.name: each for each in itertools.islice(held_out, wanted)}

    def ask(self, task: str, problem: SyntheticFunction) -> Sequence[GenerationRequest]:
        """See `JudgedPrograms`."""
        return [GenerationRequest(task, Gap(problem.prompt), problem.solution, stop=STOP)]

    def training_problems(self, context: BenchmarkContext) -> Sequence[Problem]:
        """Every function of a split: its program continues the prompt."""
        return [
            Problem(each.name, Gap(each.prompt), answer=each.solution, tests=each.tests)
            for each in synthetic_functions(self.options.training_split, self.options.most_steps)
        ]

    def program(self, answer: GeneratedText, problem: SyntheticFunction) -> str:
        """See `JudgedPrograms`."""
        return f"{problem.prompt}{answer.text}\n"

    def judge_data(self, task: str) -> dict[str, Any]:
        """See `JudgedPrograms`."""
        function = self.problems[task]
        return {
            "gold": function.prompt + function.solution,
            "tests": "\n".join(function.tests),
            "seconds": self.options.timeout,
        }

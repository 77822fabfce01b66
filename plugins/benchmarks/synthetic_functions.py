"""Small made-up functions: some to be tested with, others to learn from."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from opendllm.core.sandbox import assertion_judge
from opendllm.core.sandbox.limits import limits_of
from opendllm.core.scoring.program_scores import ProgramTests, score_programs
from opendllm.core.scoring.scores_by_setting import lower_is_better
from opendllm.core.toolkit.synthetic_functions import SyntheticFunction, synthetic_functions
from opendllm.plugins.benchmarks import SyntheticFunctionsOptions
from opendllm.registries.benchmarks import (
    Answer,
    Benchmark,
    BenchmarkContext,
    CodeExecution,
    GeneratedText,
    GenerationRequest,
    Scores,
)
from opendllm.registries.gaps import Gap
from opendllm.registries.problems import Problem

STOP = ("\ndef", "\nclass", "\nassert", "\nprint", "\n#")


class SyntheticFunctions(Benchmark):
    """pass@k of held-out functions; no two splits have one in common."""

    lower_is_better = lower_is_better(())
    executes_code = True
    accepts = frozenset({"written", "completion", "solution"})

    def __init__(self, options: SyntheticFunctionsOptions) -> None:
        self._options = options
        self.headline = tuple(f"pass@{k}" for k in options.pass_at)
        self._functions: dict[str, SyntheticFunction] = {}
        self._execution: CodeExecution | None = None

    def requests(self, context: BenchmarkContext) -> Sequence[GenerationRequest]:
        """The first of the held-out functions."""
        wanted = min(filter(None, (self._options.problems, context.limit)))
        held_out = synthetic_functions("held-out", self._options.most_steps)
        self._functions = {each.name: each for each in itertools.islice(held_out, wanted)}
        self._execution = context.code_execution
        return [
            GenerationRequest(name, Gap(each.prompt), each.solution, stop=STOP)
            for name, each in self._functions.items()
        ]

    def score(self, answers: Sequence[Answer]) -> Scores:
        """pass@k of the functions' assertions."""
        texts = [answer for answer in answers if isinstance(answer, GeneratedText)]
        tests = ProgramTests(assertion_judge, self._judge_data, self._options.pass_at)
        limits = limits_of(self._options.memory_gib)
        return score_programs(texts, self._program, tests, self._execution, limits)

    def training_problems(self, context: BenchmarkContext) -> Sequence[Problem]:
        """Every function of a split: its program continues the prompt."""
        return [
            Problem(each.name, Gap(each.prompt), answer=each.solution, tests=each.tests)
            for each in synthetic_functions(self._options.training_split, self._options.most_steps)
        ]

    def _program(self, answer: GeneratedText) -> str:
        if answer.form == "solution":
            return answer.text
        return f"{self._functions[answer.task_id].prompt}{answer.text}\n"

    def _judge_data(self, task: str) -> dict[str, object]:
        function = self._functions[task]
        return {
            "gold": function.prompt + function.solution,
            "tests": "\n".join(function.tests),
            "seconds": self._options.timeout,
        }

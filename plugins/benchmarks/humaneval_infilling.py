"""HumanEval infilling (Bavarian et al. 2022, arXiv:2207.14255), as openai/human-eval-infilling scores it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opendllm.core.sandbox import assertion_judge
from opendllm.core.sandbox.limits import limits_of
from opendllm.core.scoring.infilling_lengths import averaged_setting, fixed_lengths, setting_of
from opendllm.core.scoring.problem_files import ProblemSource, read_problems
from opendllm.core.scoring.program_scores import ProgramTests, score_programs
from opendllm.core.scoring.scores_by_setting import DEFAULT_SETTING, lower_is_better, metric_name
from opendllm.plugins.benchmarks import HumanEvalInfillingOptions
from opendllm.registries.benchmarks import (
    Answer,
    Benchmark,
    BenchmarkContext,
    CodeExecution,
    GeneratedText,
    GenerationRequest,
    Scores,
)

FILES = {
    "single-line": "HumanEval-SingleLineInfilling",
    "multi-line": "HumanEval-MultiLineInfilling",
    "random-span": "HumanEval-RandomSpanInfilling",
    "random-span-light": "HumanEval-RandomSpanInfillingLight",
}
FIELDS = ("task_id", "entry_point", "prompt", "suffix", "canonical_solution", "test")


class HumanEvalInfilling(Benchmark):
    """pass@k of prompt, answer and suffix, at each length."""

    executes_code = True
    accepts = frozenset({"written", "completion", "solution"})

    def __init__(self, options: HumanEvalInfillingOptions) -> None:
        self._options = options
        self._settings = [setting_of(length) for length in options.lengths]
        self._problems: dict[str, dict[str, Any]] = {}
        self._execution: CodeExecution | None = None
        fixed = fixed_lengths(self._settings)
        averaged = [averaged_setting(fixed.values())] if len(fixed) > 1 else []
        shown = [setting for setting in self._settings if setting not in fixed or not averaged] + averaged
        self.headline = tuple(
            metric_name(f"pass@{min(options.pass_at)}", setting) for setting in (DEFAULT_SETTING, *shown)
        )
        self.lower_is_better = lower_is_better(self._settings)

    def requests(self, context: BenchmarkContext) -> Sequence[GenerationRequest]:
        """Every problem of the subset, asked at each length."""
        name = FILES[self._options.subset]
        source = ProblemSource(
            "loubnabnl/humaneval_infilling",
            "test",
            f"data/{name}.jsonl.gz of https://github.com/openai/human-eval-infilling",
            configuration=name,
        )
        rows = read_problems("humaneval-infilling", self._options.problems, source, FIELDS)
        self._problems = {row["task_id"]: row for row in rows[: context.limit]}
        self._execution = context.code_execution
        return [
            GenerationRequest(
                task_id=task,
                prefix=row["prompt"],
                suffix=row["suffix"],
                length=length,
                reference=row["canonical_solution"],
                setting=setting,
            )
            for task, row in self._problems.items()
            for length, setting in zip(self._options.lengths, self._settings, strict=True)
        ]

    def score(self, answers: Sequence[Answer]) -> Scores:
        """pass@k of every setting."""
        return score_programs(
            [answer for answer in answers if isinstance(answer, GeneratedText)],
            self._program,
            ProgramTests(assertion_judge, self._tests, self._options.pass_at),
            self._execution,
            limits_of(self._options.memory_gib),
        )

    def _program(self, answer: GeneratedText) -> str:
        if answer.form == "solution":
            return answer.text
        problem = self._problems[answer.task_id]
        return f"{problem['prompt']}{answer.text}{problem['suffix']}\n"

    def _tests(self, task: str) -> dict[str, Any]:
        problem = self._problems[task]
        return {
            "gold": problem["prompt"] + problem["canonical_solution"] + problem["suffix"],
            "tests": problem["test"],
            "entry_point": problem["entry_point"],
            "seconds": self._options.timeout,
        }

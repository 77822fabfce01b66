"""HumanEval (Chen et al. 2021, arXiv:2107.03374), scored as openai/human-eval scores it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opendllm.core.sandbox import assertion_judge
from opendllm.core.sandbox.limits import limits_of
from opendllm.core.scoring.problem_files import ProblemSource, read_problems
from opendllm.core.scoring.program_scores import ProgramTests, score_programs
from opendllm.core.scoring.scores_by_setting import lower_is_better
from opendllm.plugins.benchmarks import HumanEvalOptions
from opendllm.plugins.benchmarks.sanitizing import sanitize
from opendllm.registries.benchmarks import (
    Answer,
    Benchmark,
    BenchmarkContext,
    CodeExecution,
    GeneratedText,
    GenerationRequest,
    Scores,
)

SOURCE = ProblemSource(
    "openai/openai_humaneval",
    "test",
    "data/HumanEval.jsonl.gz of https://github.com/openai/human-eval",
)
FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Of section 2.2 of the paper, and of Open-dLLM's runs."""
NOTES = {
    "openai": "programs are the prompt and the answer, as openai/human-eval joins them",
    "open-dllm": "programs are prompt, newline and answer, through EvalPlus's sanitizer, as Open-dLLM had it",
}


class HumanEval(Benchmark):
    """pass@k of `check(entry_point)`; helpers that the tests use are those of the published program."""

    lower_is_better = lower_is_better(())
    executes_code = True
    accepts = frozenset({"written", "completion", "solution"})

    def __init__(self, options: HumanEvalOptions) -> None:
        self._options = options
        self.headline = tuple(f"pass@{k}" for k in options.pass_at)
        self._problems: dict[str, dict[str, Any]] = {}
        self._execution: CodeExecution | None = None

    def requests(self, context: BenchmarkContext) -> Sequence[GenerationRequest]:
        """The prompt of every function."""
        rows = read_problems("humaneval", self._options.problems, SOURCE, FIELDS)
        self._problems = {row["task_id"]: row for row in rows[: context.limit]}
        self._execution = context.code_execution
        return [
            GenerationRequest(task, row["prompt"], reference=row["canonical_solution"], stop=STOP)
            for task, row in self._problems.items()
        ]

    def score(self, answers: Sequence[Answer]) -> Scores:
        """pass@k over all tasks."""
        texts = [answer for answer in answers if isinstance(answer, GeneratedText)]
        written = any(answer.form == "written" for answer in texts)
        return score_programs(
            texts,
            self._program,
            ProgramTests(assertion_judge, self._tests, self._options.pass_at),
            self._execution,
            limits_of(self._options.memory_gib),
            [NOTES[self._options.protocol]] if written else [],
        )

    def task_of(self, given: str) -> str:
        """A number alone is HumanEval's."""
        return f"HumanEval/{given}" if given.isdecimal() else given

    def _program(self, answer: GeneratedText) -> str:
        if answer.form == "solution":
            return answer.text
        problem = self._problems[answer.task_id]
        if answer.form == "written" and self._options.protocol == "open-dllm":
            return sanitize(f"{problem['prompt']}\n{answer.text}", problem["entry_point"])
        return f"{problem['prompt']}{answer.text}\n"

    def _tests(self, task: str) -> dict[str, Any]:
        problem = self._problems[task]
        return {
            "gold": problem["prompt"] + problem["canonical_solution"],
            "tests": problem["test"],
            "entry_point": problem["entry_point"],
            "seconds": self._options.timeout,
        }

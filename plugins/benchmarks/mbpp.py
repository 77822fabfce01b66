"""MBPP (Austin et al. 2021, arXiv:2108.07732): a task in words, and three asserts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opendllm.core.sandbox import assertion_judge
from opendllm.core.sandbox.limits import limits_of
from opendllm.core.scoring.problem_files import ProblemSource, read_problems
from opendllm.core.scoring.program_scores import ProgramTests, score_programs
from opendllm.core.scoring.scores_by_setting import lower_is_better
from opendllm.plugins.benchmarks import MbppOptions
from opendllm.registries.benchmarks import (
    Answer,
    Benchmark,
    BenchmarkContext,
    CodeExecution,
    GeneratedText,
    GenerationRequest,
    Scores,
)

DATASET = "google-research-datasets/mbpp"
REPOSITORY = "https://github.com/google-research/google-research/tree/master/mbpp"
TEST_SPLIT = range(11, 511)
STOP = {
    # bigcode-evaluation-harness, tasks/mbpp.py
    "docstring": ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
    "open-dllm": ("\nclass", "\n#", "\nif", "\nprint"),
}
NOTES = {
    "docstring": "zero-shot: the task and its tests as a docstring, as bigcode-evaluation-harness puts them",
    "open-dllm": "zero-shot: the task, its tests and a code fence, as Open-dLLM put them; fences are removed",
}


class Mbpp(Benchmark):
    """pass@k of the three asserts of each task."""

    name = "mbpp"
    source = ProblemSource(DATASET, "test", f"mbpp.jsonl of {REPOSITORY}", configuration="full")
    fields: tuple[str, ...] = ("task_id", "text", "code", "test_list", "test_setup_code")
    lower_is_better = lower_is_better(())
    executes_code = True
    accepts = frozenset({"written", "completion", "solution"})

    def __init__(self, options: MbppOptions) -> None:
        self._options = options
        self.headline = tuple(f"pass@{k}" for k in options.pass_at)
        self._problems: dict[str, dict[str, Any]] = {}
        self._execution: CodeExecution | None = None

    def requests(self, context: BenchmarkContext) -> Sequence[GenerationRequest]:
        """Every task of the split."""
        rows = read_problems(self.name, self._options.problems, self.source, self.fields)
        chosen = [row for row in rows if self._options.tasks == "all" or int(row["task_id"]) in TEST_SPLIT]
        self._problems = {f"Mbpp/{row['task_id']}": row for row in chosen[: context.limit]}
        self._execution = context.code_execution
        return [
            GenerationRequest(
                task, self._prompt(row), reference=row["code"], stop=STOP[self._options.protocol]
            )
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
        """A number alone is MBPP's."""
        return f"Mbpp/{given}" if given.isdecimal() else given

    def task_text(self, row: Mapping[str, Any]) -> str:
        """The task in words."""
        return str(row["text"])

    def setup(self, row: Mapping[str, Any]) -> str:
        """What runs before the asserts."""
        return str(row["test_setup_code"])

    def _prompt(self, row: Mapping[str, Any]) -> str:
        tests = "\n".join(row["test_list"])
        if self._options.protocol == "open-dllm":
            return f"{self.task_text(row)} Your code should pass these tests:\n\n{tests}\n```python\n"
        return f'"""\n{self.task_text(row)}\n{tests}\n"""\n'

    def _program(self, answer: GeneratedText) -> str:
        """An answer is a program of its own: the prompt has no code."""
        if answer.form != "written" or self._options.protocol == "docstring":
            return f"{answer.text}\n"
        lines = answer.text.split("\n")
        return "\n".join(line for line in lines if not line.startswith("```"))

    def _tests(self, task: str) -> dict[str, Any]:
        row = self._problems[task]
        return {
            "gold": row["code"],
            "tests": "\n".join([self.setup(row), *row["test_list"]]),
            "seconds": self._options.timeout,
        }


class MbppSanitized(Mbpp):
    """The same, of the tasks and in the words that were checked by hand."""

    name = "mbpp-sanitized"
    source = ProblemSource(DATASET, "test", f"sanitized-mbpp.json of {REPOSITORY}", configuration="sanitized")
    fields = ("task_id", "prompt", "code", "test_list", "test_imports")

    def task_text(self, row: Mapping[str, Any]) -> str:
        """The task in words."""
        return str(row["prompt"])

    def setup(self, row: Mapping[str, Any]) -> str:
        """What the asserts import."""
        return "\n".join(row["test_imports"])

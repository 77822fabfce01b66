"""What benchmarks of programs have in common whose problems are published as a file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from opendllm.core.scoring.problem_files import ProblemSource, read_problems
from opendllm.plugins.benchmarks import ProgramOptions
from opendllm.plugins.benchmarks.judged_programs import JudgedPrograms
from opendllm.registries.benchmarks import BenchmarkContext, ChatTemplate
from opendllm.registries.problems import Problem

Row = Mapping[str, Any]
"""A problem, as it is published."""
OptionsT = TypeVar("OptionsT", bound=ProgramOptions)


class ProgramBenchmark(JudgedPrograms[OptionsT, Row]):
    """pass@k of programs, over all problems of a file or a data set.

    Attributes:
        name: the benchmark's.
        fields: that every problem must have.
        task_prefix: what stands before a task's number: a number alone means the benchmark's task.
        chat: what instructions are put into; None where nothing is.
    """

    name: str
    fields: tuple[str, ...]
    task_prefix: str | None = None
    chat: ChatTemplate | None = None

    def asked(self, context: BenchmarkContext) -> Mapping[str, Row]:
        """Every problem, in its published order."""
        self.chat = context.chat
        chosen = [row for row in self.rows() if self.is_asked(row)]
        return {self.task_id(row): row for row in chosen[: context.limit]}

    def training_problems(self, context: BenchmarkContext) -> Sequence[Problem]:
        """None: what is published is there to be tested with."""
        return ()

    def task_of(self, given: str) -> str:
        """A number alone is the benchmark's."""
        return f"{self.task_prefix}/{given}" if self.task_prefix and given.isdecimal() else given

    @abstractmethod
    def source(self) -> ProblemSource:
        """Where the problems are published."""

    def rows(self) -> Sequence[Row]:
        """All problems, in their published order."""
        return read_problems(self.options.problems, self.source(), self.fields)

    def is_asked(self, row: Row) -> bool:
        """Whether the options choose this problem."""
        return True

    def task_id(self, row: Row) -> str:
        """The problem's id."""
        return str(row["task_id"])


def without_fences(text: str) -> str:
    """The lines that don't fence code in Markdown, as Open-dLLM takes MBPP's answers."""
    return "\n".join(line for line in text.split("\n") if not line.startswith("```"))

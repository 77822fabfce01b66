"""What benchmarks have in common that run what the model wrote."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from opendllm.core.sandbox import assertion_judge
from opendllm.core.sandbox.limits import limits_of
from opendllm.core.scoring.problem_files import asked_or_failed
from opendllm.core.scoring.program_scores import ProgramTests, score_programs
from opendllm.core.scoring.scores_by_setting import lower_is_better
from opendllm.plugins.benchmarks import RunOptions
from opendllm.registries.benchmarks import (
    DEFAULT_SETTING,
    Answer,
    Benchmark,
    BenchmarkContext,
    CodeExecution,
    GeneratedText,
    GenerationRequest,
    Scores,
)

OptionsT = TypeVar("OptionsT", bound=RunOptions)
TaskT = TypeVar("TaskT")


class JudgedPrograms(Benchmark, Generic[OptionsT, TaskT]):
    """pass@k of programs.

    Attributes:
        settings: the ways of asking.
        options: the benchmark's.
        problems: task id -> the problems that are asked.
    """

    settings: Sequence[str] = (DEFAULT_SETTING,)
    lower_is_better = lower_is_better(())
    executes_code = True
    accepts = frozenset({"written", "completion", "solution"})

    def __init__(self, options: OptionsT) -> None:
        self.options = options
        self.headline = tuple(f"pass@{k}" for k in options.pass_at)
        self.problems: dict[str, TaskT] = {}
        self._execution: CodeExecution | None = None

    def requests(self, context: BenchmarkContext) -> Sequence[GenerationRequest]:
        """Every problem that is asked, in its order."""
        self.problems = dict(self.asked(context))
        self._execution = context.code_execution
        return [
            request
            for task, problem in self.problems.items()
            for request in asked_or_failed(task, self.settings, partial(self.ask, task, problem))
        ]

    def score(self, answers: Sequence[Answer]) -> Scores:
        """pass@k of every setting."""
        texts = [answer for answer in answers if isinstance(answer, GeneratedText)]
        note = self.note() if any(answer.form == "written" for answer in texts) else None
        return score_programs(
            texts,
            self._program,
            self.tests(),
            self._execution,
            limits_of(self.options.memory_gib),
            [] if note is None else [note],
        )

    @abstractmethod
    def asked(self, context: BenchmarkContext) -> Mapping[str, TaskT]:
        """Task id -> problem, of those that are asked."""

    @abstractmethod
    def ask(self, task: str, problem: TaskT) -> Sequence[GenerationRequest]:
        """The requests of a problem."""

    @abstractmethod
    def program(self, answer: GeneratedText, problem: TaskT) -> str:
        """The whole program that an answer makes, unless it is a whole solution."""

    @abstractmethod
    def judge_data(self, task: str) -> dict[str, Any]:
        """What the judge's script prepares of a task."""

    def note(self) -> str | None:
        """How programs are made of answers, where an option says so."""
        return None

    def tests(self) -> ProgramTests:
        """How programs are judged."""
        return ProgramTests(assertion_judge, self.judge_data, self.options.pass_at)

    def _program(self, answer: GeneratedText) -> str:
        if answer.form == "solution":
            return answer.text
        return self.program(answer, self.problems[answer.task_id])

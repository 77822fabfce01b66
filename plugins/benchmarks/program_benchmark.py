"""What benchmarks have in common that run what the model wrote."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from opendllm.core.sandbox import assertion_judge
from opendllm.core.sandbox.limits import limits_of
from opendllm.core.scoring.problem_files import ProblemSource, asked_or_failed, read_problems
from opendllm.core.scoring.program_scores import ProgramTests, score_programs
from opendllm.core.scoring.scores_by_setting import lower_is_better
from opendllm.plugins.benchmarks import ProgramOptions
from opendllm.registries.benchmarks import (
    DEFAULT_SETTING,
    Answer,
    Benchmark,
    BenchmarkContext,
    ChatTemplate,
    CodeExecution,
    GeneratedText,
    GenerationRequest,
    Scores,
)
from opendllm.registries.corpora import Message
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.problems import Problem

Row = Mapping[str, Any]
"""A problem, as it is published."""
OptionsT = TypeVar("OptionsT", bound=ProgramOptions)


class ProgramBenchmark(Benchmark, Generic[OptionsT]):
    """pass@k of programs, over all problems of a file or a data set.

    Attributes:
        name: the benchmark's.
        fields: that every problem must have.
        task_prefix: what stands before a task's number: a number alone means the benchmark's task.
        settings: the ways of asking.
        options: the benchmark's.
        problems: task id -> the problems that are asked.
        chat: what instructions are put into; None where nothing is.
    """

    name: str
    fields: tuple[str, ...]
    task_prefix: str | None = None
    settings: Sequence[str] = (DEFAULT_SETTING,)
    lower_is_better = lower_is_better(())
    executes_code = True
    accepts = frozenset({"written", "completion", "solution"})

    def __init__(self, options: OptionsT) -> None:
        self.options = options
        self.headline = tuple(f"pass@{k}" for k in options.pass_at)
        self.problems: dict[str, Row] = {}
        self.chat: ChatTemplate | None = None
        self._execution: CodeExecution | None = None

    def requests(self, context: BenchmarkContext) -> Sequence[GenerationRequest]:
        """Every problem, in its published order."""
        self.chat = context.chat
        chosen = [row for row in self.rows() if self.is_asked(row)]
        self.problems = {self.task_id(row): row for row in chosen[: context.limit]}
        self._execution = context.code_execution
        return [
            request
            for task, row in self.problems.items()
            for request in asked_or_failed(task, self.settings, partial(self.ask, task, row))
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

    def training_problems(self, context: BenchmarkContext) -> Sequence[Problem]:
        """None: what is published is there to be tested with."""
        return ()

    def task_of(self, given: str) -> str:
        """A number alone is the benchmark's."""
        return f"{self.task_prefix}/{given}" if self.task_prefix and given.isdecimal() else given

    @abstractmethod
    def source(self) -> ProblemSource:
        """Where the problems are published."""

    @abstractmethod
    def ask(self, task: str, row: Row) -> Sequence[GenerationRequest]:
        """The requests of a problem."""

    @abstractmethod
    def program(self, answer: GeneratedText, row: Row) -> str:
        """The whole program that an answer makes, unless it is a whole solution."""

    @abstractmethod
    def judge_data(self, task: str) -> dict[str, Any]:
        """What the judge's script prepares of a task."""

    def rows(self) -> Sequence[Row]:
        """All problems, in their published order."""
        return read_problems(self.options.problems, self.source(), self.fields)

    def is_asked(self, row: Row) -> bool:
        """Whether the options choose this problem."""
        return True

    def task_id(self, row: Row) -> str:
        """The problem's id."""
        return str(row["task_id"])

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


@dataclass(frozen=True)
class Instruction:
    """A problem as an instruct model is asked it.

    Attributes:
        turn: the user's.
        begun: how the answer begins, up to its code.
        fence: what ends the code of an answer that begins so.
    """

    turn: str
    begun: str
    fence: str = "\n```"


def instructed(
    asked: GenerationRequest, instruction: Instruction, chat: ChatTemplate | None
) -> GenerationRequest:
    """The request as an instruction: the answer begins with its code, and ends with it.

    A template, or a server, that can't begin an answer has the user's turn alone; its code stands in fences.

    Args:
        asked: with the stop strings that hold in any case.
        instruction: what is asked.
        chat: what it is put into; None for nothing.

    Raises:
        UserError: the template fails.
    """
    ended = replace(asked, stop=(*asked.stop, instruction.fence))
    if chat is None:
        return replace(ended, gap=Gap(instruction.turn + instruction.begun))
    user = Message("user", instruction.turn)
    try:
        begun = chat([user, Message("assistant", instruction.begun)], prefilled=True)
    except UserError:
        return replace(asked, gap=Gap(chat([user]), templated=True))
    return replace(ended, gap=Gap(begun, templated=True))


def code_of(text: str) -> str:
    """What stands in the first fence of an answer; all of it where there is none."""
    before, found, rest = text.partition("```")
    if not found:
        return text
    code = rest.partition("\n")[2].partition("```")[0]
    return code if code.strip() else before


def without_fences(text: str) -> str:
    """The lines that don't fence code in Markdown, as Open-dLLM takes MBPP's answers."""
    return "\n".join(line for line in text.split("\n") if not line.startswith("```"))

"""Where problems come from: files of JSON lines, and benchmarks that have some to learn from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from opendllm.core.foundation.json_lines import json_lines
from opendllm.core.foundation.option_errors import option_errors
from opendllm.registries.benchmarks import Benchmark, BenchmarkContext
from opendllm.registries.corpora import Message
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.plugin_calls import owner_of
from opendllm.registries.problems import Problem

MOST_TOKENS = 1 << 20
"""Of an answer: more than any model reads."""
Text = Annotated[str, Field(min_length=1)]


class _Turn(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: Text
    content: str


class _Line(BaseModel):
    """A line of a file of problems: a prompt, with what stands after the gap; or a chat."""

    model_config = ConfigDict(extra="forbid", strict=True)

    task_id: str | int
    prompt: Text | None = None
    suffix: str | None = None
    messages: list[_Turn] = []
    max_new_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    answer: str | None = None
    tests: list[Text] = []
    setup: str = ""

    @model_validator(mode="after")
    def _one_kind(self) -> _Line:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("give a `prompt` or `messages`, one of them")
        if self.messages and self.suffix is not None:
            raise ValueError("a chat has no `suffix`")
        return self

    def problem(self) -> Problem:
        """The same for rewards."""
        return Problem(
            task_id=str(self.task_id),
            gap=Gap(self.prompt or "", self.suffix, self.max_new_tokens),
            messages=tuple(Message(turn.role, turn.content) for turn in self.messages),
            answer=self.answer,
            tests=tuple(self.tests),
            setup=self.setup,
        )


def read_problem_file(path: Path) -> list[Problem]:
    """The problems of a file of JSON lines, packed or not, in its order.

    Raises:
        UserError: the file can't be read or is empty, or a line is no problem or repeats one; it is named.
    """
    problems: dict[str, Problem] = {}
    for line in json_lines(path):
        where = f"{path}:{line.number}"
        if line.issue is not None:
            raise UserError(f"{where} {line.issue}")
        try:
            problem = _Line.model_validate(line.content).problem()
        except ValidationError as error:
            raise UserError(f"{where} {_said(error)}") from error
        if problem.task_id in problems:
            raise UserError(f"{where} has task_id {problem.task_id!r}, which an earlier line has")
        problems[problem.task_id] = problem
    if not problems:
        raise UserError(f"{path} holds no problems")
    return list(problems.values())


def benchmark_problems(benchmark: Benchmark, context: BenchmarkContext) -> list[Problem]:
    """What a benchmark has to learn from.

    Raises:
        UserError: it has nothing, or its problems can't be had.
    """
    problems = list(benchmark.training_problems(context))
    repeated = [task for task, times in Counter(each.task_id for each in problems).items() if times > 1]
    if repeated:
        raise UserError(
            f"{owner_of(benchmark, 'benchmark')} has several problems with task_id {repeated[0]!r}: each "
            f"needs its own"
        )
    if not problems:
        raise UserError(
            f"{owner_of(benchmark, 'benchmark')} has no problems to train on: all that it has are test "
            f"problems, or have no reference"
        )
    return problems[: context.limit]


def _said(error: ValidationError) -> str:
    first = next(option_errors(error, _Line))
    place: list[Any] = list(first.path)
    return f"{'.'.join(map(str, place))}: {first.message}" if place else first.message

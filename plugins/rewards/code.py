"""How many of a problem's tests an answer's program passes."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from opendllm.core.sandbox import assertion_judge
from opendllm.core.sandbox.cases import Case, Trial
from opendllm.core.sandbox.limits import limits_of
from opendllm.core.sandbox.parallel import judge_in_parallel
from opendllm.core.scoring.scores_by_setting import parses_as_python
from opendllm.plugins.rewards import CodeOptions
from opendllm.plugins.rewards.code_block import first_block, python_block_value
from opendllm.registries.benchmarks import CodeExecution
from opendllm.registries.errors import UserError
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.rewards import Reward, RewardContext


class _Judges(NamedTuple):
    """What an answer's worth hangs on, whoever else has its problem's id."""

    task_id: str
    setup: str
    tests: tuple[str, ...]


class CodeReward(Reward):
    """The share of tests passed, each by a process of its own that has its own time limit.

    The tests run in another process than the answer's program, which can't touch them: exits, overwritten
    built-ins and objects that equal everything pass nothing.
    """

    def __init__(self, options: CodeOptions) -> None:
        self._options = options

    def values(self, completions: Sequence[Completion], context: RewardContext) -> list[float]:
        """See `Reward.values`; the same program of a problem is run once.

        Raises:
            UserError: code must not be run, the sandbox can't be had, or a test can't be run at all.
        """
        execution = context.code_execution
        if execution is None:
            raise UserError(
                "it runs generated code: allow that with `allow_code_execution: true` in the manifest or "
                "--allow-code-execution"
            )
        programs = [self._program(completion) for completion in completions]
        asked = [
            (completion.problem, program)
            for completion, program in zip(completions, programs, strict=True)
            if program is not None
        ]
        passed = self._passed(asked, execution)
        return [
            passed[_judged_by(completion.problem), program] / len(completion.problem.tests)
            for completion, program in zip(completions, programs, strict=True)
        ]

    def issue_with(self, problem: Problem) -> str | None:
        """It needs tests, and for a continuation a prompt that is the program's beginning."""
        if not problem.tests:
            return "it has no `tests`"
        if self._options.program == "continuation" and problem.messages:
            return "it is a chat, whose answers continue no program: choose `program: block`"
        return _issue_with_tests(problem)

    def _program(self, completion: Completion) -> str | None:
        """What is run; None where an answer has no program that could be."""
        text, problem = completion.text, completion.problem
        if self._options.program == "block":
            if python_block_value(text) != 1:
                return None
            text = first_block(text)
        elif self._options.program == "continuation":
            text = f"{problem.gap.prefix}{text}{problem.gap.suffix or ''}"
        program = _after_setup(problem.setup, f"{text}\n")
        return program if parses_as_python(program) else None

    def _passed(
        self, asked: Sequence[tuple[Problem, str]], execution: CodeExecution
    ) -> Counter[tuple[_Judges, str | None]]:
        """How many of its problem's tests each program passes, by what judges it and the program."""
        programs: dict[_Judges, dict[str, None]] = defaultdict(dict)
        for problem, program in asked:
            programs[_judged_by(problem)][program] = None
        tested = [(judges, test) for judges in programs for test in judges.tests]
        script = inspect.getsource(assertion_judge)
        cases = [
            Case(
                judges.task_id,
                script,
                {"gold": judges.setup, "tests": f"{judges.setup}\n{test}\n"},
                tuple(Trial(program, ("tests",), self._options.seconds) for program in programs[judges]),
            )
            for judges, test in tested
        ]
        results = judge_in_parallel(cases, execution, limits_of(self._options.memory_gib))
        passed: Counter[tuple[_Judges, str | None]] = Counter()
        for (judges, _), case, verdicts in zip(tested, cases, results, strict=True):
            for trial, verdict in zip(case.trials, verdicts, strict=True):
                if verdict.unscorable:
                    raise UserError(f"problem {verdict.reason}")
                passed[judges, trial.program] += verdict.reason == "passed"
        return passed


def _judged_by(problem: Problem) -> _Judges:
    return _Judges(problem.task_id, problem.setup, problem.tests)


def _after_setup(setup: str, text: str) -> str:
    """The program with its problem's setup before it; imports from `__future__` stay first."""
    if not setup:
        return text
    if "__future__" in text and parses_as_python(text):
        last = max(
            (
                node.end_lineno or 0
                for node in ast.parse(text).body
                if isinstance(node, ast.ImportFrom) and node.module == "__future__"
            ),
            default=0,
        )
        lines = io.StringIO(text, newline=None).readlines()  # as Python counts them
        return f"{''.join(lines[:last])}{setup}\n{''.join(lines[last:])}"
    return f"{setup}\n{text}"


def _issue_with_tests(problem: Problem) -> str | None:
    """Why its setup or a test can't be run, or a test can't fail."""
    issue = _issue_with_program(problem.setup)
    if issue is not None:
        return f"its setup {issue}"
    for test in problem.tests:
        named = f"its test {textwrap.shorten(test, 60, placeholder='...')!r}"
        issue = _issue_with_program(f"{problem.setup}\n{test}\n")
        if issue is not None:
            return f"{named} {issue}"
        if not any(map(_can_fail, ast.walk(ast.parse(test)))):
            return f"{named} has no `assert`: every answer passes it"
    return None


def _issue_with_program(program: str) -> str | None:
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            compile(program, "<problem>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"is no Python: {error.msg if isinstance(error, SyntaxError) else error}"
    return None


def _can_fail(node: ast.AST) -> bool:
    """It raises by itself, or calls what may: a helper."""
    calls = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    return calls or isinstance(node, ast.Assert | ast.Raise)

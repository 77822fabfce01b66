"""How many of a problem's tests an answer's program passes."""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from collections.abc import Sequence

from opendllm.core.sandbox import assertion_judge
from opendllm.core.sandbox.limits import limits_of
from opendllm.core.sandbox.parallel import judge_in_parallel
from opendllm.core.sandbox.sandbox import Case, Trial
from opendllm.core.scoring.scores_by_setting import parses_as_python
from opendllm.plugins.rewards import CodeOptions
from opendllm.plugins.rewards.code_block import first_block, python_block_value
from opendllm.registries.benchmarks import CodeExecution
from opendllm.registries.errors import UserError
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.rewards import Reward, RewardContext


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
            passed[completion.problem.task_id, program] / len(completion.problem.tests)
            for completion, program in zip(completions, programs, strict=True)
        ]

    def issue_with(self, problem: Problem) -> str | None:
        """It needs tests, and for a continuation a prompt that is the program's beginning."""
        if not problem.tests:
            return "it has no `tests`"
        if self._options.program == "continuation" and problem.messages:
            return "it is a chat, whose answers continue no program: choose `program: block`"
        return None

    def _program(self, completion: Completion) -> str | None:
        """What is run; None where an answer has no program that could be."""
        text, problem = completion.text, completion.problem
        if self._options.program == "block":
            if python_block_value(text) != 1:
                return None
            text = first_block(text)
        elif self._options.program == "continuation":
            text = f"{problem.gap.prefix}{text}{problem.gap.suffix or ''}"
        program = f"{problem.setup}\n{text}\n" if problem.setup else f"{text}\n"
        return program if parses_as_python(program) else None

    def _passed(
        self, asked: Sequence[tuple[Problem, str]], execution: CodeExecution
    ) -> Counter[tuple[str, str | None]]:
        """How many of its problem's tests each program passes, by the problem's id and the program."""
        programs: dict[str, dict[str, None]] = defaultdict(dict)
        for problem, program in asked:
            programs[problem.task_id][program] = None
        tested = {problem.task_id: problem for problem, _ in asked}
        script = inspect.getsource(assertion_judge)
        cases = [
            Case(
                task,
                script,
                {"gold": problem.setup, "tests": f"{problem.setup}\n{test}\n"},
                tuple(Trial(program, ("tests",), self._options.seconds) for program in programs[task]),
            )
            for task, problem in tested.items()
            for test in problem.tests
        ]
        results = judge_in_parallel(cases, execution, limits_of(self._options.memory_gib))
        passed: Counter[tuple[str, str | None]] = Counter()
        for case, verdicts in zip(cases, results, strict=True):
            for trial, verdict in zip(case.trials, verdicts, strict=True):
                if verdict.unscorable:
                    raise UserError(f"problem {verdict.reason}")
                passed[case.name, trial.program] += verdict.reason == "passed"
        return passed

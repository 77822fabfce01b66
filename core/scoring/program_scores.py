"""pass@k of programs that a model wrote, judged in the sandbox."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from opendllm.core.foundation.atomic_files import write_text
from opendllm.core.foundation.cache_folder import cache_folder
from opendllm.core.sandbox.cases import Case, Trial, Verdict
from opendllm.core.sandbox.limits import Limits
from opendllm.core.sandbox.sandbox import Sandbox
from opendllm.core.scoring.pass_at_k import pass_at_k_by_task
from opendllm.core.scoring.problem_files import preparation_failure
from opendllm.core.scoring.scores_by_setting import (
    TaskValues,
    output_shares,
    parses_as_python,
    scores_by_setting,
)
from opendllm.registries.benchmarks import CodeExecution, GeneratedText, Scores
from opendllm.registries.errors import UserError

NAMED_PROBLEMS = 5
JUDGING_SECONDS = 600.0
"""Backstop for a part, until the judge's script has set a program's own limit: a published solution may run
before that."""


@dataclass(frozen=True)
class ProgramTests:
    """How the programs of a benchmark are judged.

    Attributes:
        judge: a module whose source is the judge's script (see `sandbox.judge`).
        data_of: task id -> what the script prepares.
        pass_at: the k of pass@k; those that a task has too few samples for are left out.
        parts: what a program must pass, in this order.
        metrics: prefix of a metric's name -> the parts that count for it.
        remembers: whether the script's `remember` gives something worth keeping in the user's cache.
        recall: task ids of which nothing is kept yet -> what to keep of each, as the script's `remember`
            would give it; None leaves a task to the script.
    """

    judge: ModuleType
    data_of: Callable[[str], Any]
    pass_at: tuple[int, ...]
    parts: tuple[str, ...] = ("tests",)
    metrics: Mapping[str, frozenset[str]] | None = None
    remembers: bool = False
    recall: Callable[[Sequence[str]], Mapping[str, str | None]] | None = None


def score_programs(
    answers: Sequence[GeneratedText],
    program_of: Callable[[GeneratedText], str],
    tests: ProgramTests,
    execution: CodeExecution | None,
    limits: Limits,
    notes: Sequence[str] = (),
) -> Scores:
    """Judge every answer's program; the same program of a task is judged once, a failed answer never.

    Args:
        answers: all of them.
        program_of: the whole program that an answer makes.
        tests: of the benchmark.
        execution: the user's leave.
        limits: of each program.
        notes: see `Scores`; the sandbox that was in force and why programs failed are added.

    Raises:
        UserError: there is no leave, or the machine has no sandbox as strong as asked for.
    """
    if execution is None:
        raise UserError(
            "scoring this benchmark runs generated code: allow it with `allow_code_execution: true` in the "
            "manifest or --allow-code-execution"
        )
    programs, unjudged = _programs(answers, program_of)
    wanted: dict[str, dict[str, None]] = defaultdict(dict)
    for number, (answer, program) in enumerate(zip(answers, programs, strict=True)):
        if number not in unjudged:
            wanted[answer.task_id][program] = None
    cases, unscorable = _cases(wanted, tests)
    unjudged |= {
        number: unscorable[answer.task_id]
        for number, answer in enumerate(answers)
        if answer.task_id in unscorable
    }
    if tests.recall is not None:
        _keep(cases, tests.recall)
    passed: list[bool] = []

    def on_progress(done: int, found: list[Verdict]) -> None:
        passed.extend(verdict.reason == "passed" for verdict in found)
        execution.on_progress(done, len(cases), sum(passed) / len(passed))

    with Sandbox(execution.level or "rlimits", execution.workers, limits) as sandbox:
        results = sandbox.judge(cases, on_progress)
        described = sandbox.described
    verdicts = {
        (case.name, trial.program): verdict
        for case, found in zip(cases, results, strict=True)
        for trial, verdict in zip(case.trials, found, strict=True)
    }
    of_answers = [
        unjudged.get(number) or verdicts[answer.task_id, text]
        for number, (answer, text) in enumerate(zip(answers, programs, strict=True))
    ]
    values = _values(answers, of_answers, tests)
    text_of = {id(answer): text for answer, text in zip(answers, programs, strict=True)}
    shares = output_shares(answers, lambda answer: parses_as_python(text_of[id(answer)]))
    hidden = [name for name in values if name.endswith("passed")]
    said = [*notes, f"programs ran in a sandbox: {described}", *_reasons(of_answers)]
    scores = scores_by_setting({**values, **shares}, said, hidden)
    return replace(
        scores,
        verdicts={
            (answer.task_id, answer.setting, answer.sample): verdict.reason
            for answer, verdict in zip(answers, of_answers, strict=True)
        },
    )


def _programs(
    answers: Sequence[GeneratedText], program_of: Callable[[GeneratedText], str]
) -> tuple[list[str], dict[int, Verdict]]:
    """The program of each answer; and of those that have none, by their number, what became of them."""
    programs: list[str] = []
    unjudged: dict[int, Verdict] = {}
    for number, answer in enumerate(answers):
        programs.append("")
        if answer.failure is not None:
            reason = "not asked" if answer.form == "written" else "no sample that can be scored"
            unjudged[number] = Verdict(frozenset(), reason)
            continue
        try:
            programs[-1] = program_of(answer)
        except Exception as error:  # a text that no parser was made for
            unjudged[number] = Verdict(frozenset(), f"no program: {preparation_failure(error)}")
    return programs, unjudged


def _cases(
    wanted: Mapping[str, Collection[str]], tests: ProgramTests
) -> tuple[list[Case], dict[str, Verdict]]:
    """What is to be judged of each task's programs; and the verdict on tasks that can't be scored."""
    script = inspect.getsource(tests.judge)
    cases: list[Case] = []
    unscorable: dict[str, Verdict] = {}
    for task, programs in wanted.items():
        try:
            data = tests.data_of(task)
        except Exception as error:  # whatever a field raises that isn't as published
            reason = f"{task} can't be scored: {preparation_failure(error)}"
            unscorable[task] = Verdict(frozenset(), reason, unscorable=True)
            continue
        trials = tuple(Trial(program, tests.parts, JUDGING_SECONDS) for program in programs)
        cases.append(Case(task, script, data, trials, _memory(script, data) if tests.remembers else None))
    return cases, unscorable


def _memory(script: str, data: Any) -> Path | None:
    """The file for what a script remembers of a problem: another one for anything that may change it. None
    where nothing can be kept.
    """
    cache = cache_folder()
    if cache is None:
        return None
    content = json.dumps([script, data, sys.version])
    return cache / "judges" / f"{hashlib.sha256(content.encode()).hexdigest()}.json"


def _keep(cases: Sequence[Case], recall: Callable[[Sequence[str]], Mapping[str, str | None]]) -> None:
    """Write down what is known of the problems that nothing is remembered of."""
    files = {case.name: case.remembered for case in cases if case.remembered and not case.remembered.exists()}
    if not files:
        return
    for task, text in recall(list(files)).items():
        if text is not None:
            with suppress(OSError):  # without it, the judge works it out
                files[task].parent.mkdir(parents=True, exist_ok=True)
                write_text(files[task], text)


def _values(
    answers: Sequence[GeneratedText], verdicts: Sequence[Verdict], tests: ProgramTests
) -> dict[str, dict[str, TaskValues]]:
    """Metric -> setting -> task id -> value."""
    values: dict[str, dict[str, TaskValues]] = defaultdict(dict)
    for prefix, parts in (tests.metrics or {"": frozenset(tests.parts)}).items():
        passed: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        for answer, verdict in zip(answers, verdicts, strict=True):
            passed[answer.setting][answer.task_id].append(parts <= verdict.passed)
        for setting, by_task in passed.items():
            for name, of_tasks in pass_at_k_by_task(by_task, tests.pass_at).items():
                values[prefix + name][setting] = of_tasks
    return values


def _reasons(verdicts: Sequence[Verdict]) -> list[str]:
    """One note on why programs failed, and one on problems that can't be scored at all."""
    failed = [verdict for verdict in verdicts if verdict.reason != "passed"]
    broken = sorted({verdict.reason for verdict in failed if verdict.unscorable})
    counted = Counter(verdict.reason.split(":")[0] for verdict in failed if not verdict.unscorable)
    notes = []
    if counted:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counted.most_common(NAMED_PROBLEMS))
        more = sum(counted.values()) - sum(count for _, count in counted.most_common(NAMED_PROBLEMS))
        notes.append(f"failed: {reasons}" + (f", {more} for other reasons" if more else ""))
    if broken:
        more = len(broken) - NAMED_PROBLEMS
        notes.append("; ".join(broken[:NAMED_PROBLEMS]) + (f"; and {more} more" if more > 0 else ""))
    return notes

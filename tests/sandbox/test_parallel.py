"""Programs that several fork servers share: each verdict at its place, no more at once than asked for."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from opendllm.core.sandbox import assertion_judge, parallel
from opendllm.core.sandbox.cases import Case, Trial
from opendllm.core.sandbox.limits import Limits
from opendllm.core.sandbox.sandbox import Sandbox
from opendllm.registries.benchmarks import CodeExecution
from opendllm.registries.errors import UserError

SCRIPT = inspect.getsource(assertion_judge)
CASES = [
    Case(
        f"more than {least}",
        SCRIPT,
        {"gold": "", "tests": f"assert f() > {least}"},
        tuple(Trial(f"def f():\n    return {least + n}\n") for n in range(1 + least % 3)),
    )
    for least in range(7)
]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many programs each sandbox runs at once."""
    found: list[int] = []

    class Counted(Sandbox):
        def __init__(self, at_least: Any, workers: int, limits: Limits) -> None:
            found.append(workers)
            super().__init__(at_least, workers, limits)

    monkeypatch.setattr(parallel, "Sandbox", Counted)
    return found


@pytest.mark.parametrize(
    ("programs_a_server", "workers", "servers"),
    [(4, 3, [1, 1, 1]), (6, 4, [2, 2]), (100, 2, [2]), (1, 1, [1])],
)
def test_every_verdict_is_at_its_place(
    monkeypatch: pytest.MonkeyPatch,
    started: list[int],
    programs_a_server: int,
    workers: int,
    servers: list[int],
) -> None:
    monkeypatch.setattr(parallel, "PROGRAMS_A_SERVER", programs_a_server)
    found = parallel.judge_in_parallel(CASES, CodeExecution(workers=workers), Limits())
    wanted = [[n > 0 for n in range(1 + least % 3)] for least in range(7)]
    assert [[verdict.reason == "passed" for verdict in verdicts] for verdicts in found] == wanted
    assert started == servers


def test_nothing_is_no_work(started: list[int]) -> None:
    assert parallel.judge_in_parallel([], CodeExecution(), Limits()) == []


def test_a_level_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "PROGRAMS_A_SERVER", 1)

    def refuse(*given: object) -> None:
        raise UserError("this machine doesn't hold that level")

    monkeypatch.setattr(parallel, "Sandbox", refuse)
    with pytest.raises(UserError, match="doesn't hold that level"):
        parallel.judge_in_parallel(CASES, CodeExecution("bubblewrap", 2), Limits())

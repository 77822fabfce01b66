"""Rewards are computed in a process of their own, and one that fails is named with its problem."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from opendllm.core.rewards import worker as worker_module
from opendllm.core.rewards.messages import read_context, written_setting
from opendllm.core.rewards.weighing import RewardedCompletion, WeightedReward, check_problems, labels
from opendllm.core.rewards.worker import RewardFailedError, RewardWorker
from opendllm.registries.benchmarks import CodeExecution
from opendllm.registries.corpora import Message
from opendllm.registries.discovery import Plugins
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.rewards import RewardContext

from ..children import runs
from .conftest import answers, built_in

Trapped = Callable[..., WeightedReward]
HANGS_AFTER = 3.0


def test_values_are_weighed_and_keep_their_order() -> None:
    chat = Problem("chat", Gap(""), (Message("user", "x", ({"name": "f"},)),), tests=("assert f(1) == 2",))
    block = "```python\ndef f(x):\n    return x + {}\n```\n"
    given = [Completion(chat, n, block.format(n), (5, 6, 7)[: n + 1], n > 0) for n in range(3)]
    given.append(Completion(chat, 3, "\ud800 no block"))
    rewards = [
        built_in("code", 2.0),
        built_in("format", 0.5),
        built_in("format", 1.0, form="boxed-answer"),
        built_in("length", -4.0, buffer=2),
    ]
    context = RewardContext(CodeExecution(workers=2), max_new_tokens=3, seed=1)
    with RewardWorker(rewards, context) as worker:
        found = worker.submit(given).result()
        again = worker.submit(given[::-1]).result()  # the same process
    assert labels(rewards) == ["code", "format", "format-2", "length"]
    values = [list(each.values.values()) for each in found]
    assert values == [[0, 1, 0.25, 0], [1, 1, 0.25, -0.5], [0, 1, 0.25, -1], [0, 0, 0.25, 0]]
    assert [each.total for each in found] == [0.75, 4.75, 4.75, 0.25]
    assert again == found[::-1]


def test_no_answers_are_no_work() -> None:
    with RewardWorker([built_in("exact-match")], RewardContext()) as worker:
        assert worker.submit([]).result() == []


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (
            "raise",
            r" failed in values: RuntimeError: no such luck \(at .*heavy.py:\d+\); platform --debug shows "
            r"all of it \(on answers to problem 'b'\)",
        ),
        (
            "nan",
            r": values gave nan, and a finite number was expected, for answer 1 to problem 'b' \(at .*heavy"
            r".py:\d+\)",
        ),
        ("exit", r" ended its process \(exit code 7\), given 4 answers, the first to problem 'a'"),
        pytest.param(
            "hang", r" gave no values within 3 seconds for answers to problem 'b'", marks=pytest.mark.slow
        ),
    ],
)
def test_a_reward_that_fails_is_named_with_its_problem(trapped: Trapped, does: str, says: str) -> None:
    """And the worker goes on with the next batch."""
    rewards = [built_in("exact-match"), trapped(does=does)]
    seconds = HANGS_AFTER if does == "hang" else 60.0
    with RewardWorker(rewards, RewardContext(), seconds) as worker:
        caught = worker.submit(answers(a=["1"], b=["7", "trap"], c=["3"]))
        after = worker.submit(answers(d=["7"]))
        with pytest.raises(
            RewardFailedError, match=f"^rewards/trapped of strange-rewards 1.0{says}$"
        ) as failed:
            caught.result()
        assert after.result() == [RewardedCompletion(2.0, {"exact-match": 1.0, "trapped": 1.0})]
    assert failed.value.exit_code == (1 if does == "raise" else 2)


def test_a_reward_may_take_longer_than_the_system_counts(
    trapped: Trapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait is of many short ones, each of milliseconds in 32 bits."""
    with monkeypatch.context() as short:
        short.setattr(worker_module, "LONGEST_WAIT", 0.01)
        with RewardWorker([trapped()], RewardContext(), 1e9) as worker:
            assert len(worker.submit(answers(a=["7"])).result()) == 1
    with RewardWorker([trapped()], RewardContext(), 1e9) as worker:
        assert len(worker.submit(answers(a=["7"])).result()) == 1


def test_code_without_leave_is_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match=r"^rewards/code of .* runs generated code: allow that with"):
        RewardWorker([built_in("format"), built_in("code")], RewardContext())


def test_processes_of_a_run_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else right programs would run out of time."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))

    def workers(execution: CodeExecution | None) -> int | None:
        context = read_context(written_setting([built_in("code")], RewardContext(execution)))
        return None if context.code_execution is None else context.code_execution.workers

    assert workers(CodeExecution()) == 12
    launched = {"RANK": "1", "WORLD_SIZE": "16", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, text in {**launched, "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, text)
    assert workers(CodeExecution()) == 3
    assert workers(CodeExecution(workers=5)) == 5
    assert workers(None) is None


def test_what_it_says_itself_is_told_as_it_is() -> None:
    """A test that can't be run is no answer's fault."""
    broken = Problem("broken", Gap(""), tests=("assert f(1) ==",))
    answer = Completion(broken, 0, "```python\ndef f(x):\n    return x\n```\n")
    with (
        RewardWorker([built_in("code")], RewardContext(CodeExecution())) as worker,
        pytest.raises(
            RewardFailedError, match="problem broken can't be scored here, its own solution or tests"
        ),
    ):
        worker.submit([answer]).result()


def test_nobody_is_left_behind(trapped: Trapped) -> None:
    """Closed in the middle of a reward."""
    worker = RewardWorker([trapped(does="hang")], RewardContext())
    own = psutil.Process(worker._process.pid)
    pending = worker.submit(answers(a=["trap"]))
    waiting = worker.submit(answers(b=["1"]))
    worker.close()
    assert not runs(own)
    assert pending.cancelled() or isinstance(pending.exception(), RewardFailedError)
    assert waiting.cancelled() or isinstance(waiting.exception(), RewardFailedError)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from conftest import answers
from opendllm.core.rewards.weighing import WeightedReward
from opendllm.core.rewards import worker as worker_module
from opendllm.core.rewards.worker import RewardWorker
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.registry import ChosenPlugin
from opendllm.registries.rewards import RewardContext
registration = installed_plugins().rewards.get("trapped")
chosen = ChosenPlugin(registration, registration.options(does="hang"))
worker = RewardWorker([WeightedReward(chosen)], RewardContext())
worker.submit(answers(a=["trap"]))
print(worker._process.pid, flush=True)
sys.stdin.read(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_trainer_leaves_no_hanging_reward(strange: Plugins) -> None:
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        judging = psutil.Process(int(trainer.stdout.readline()))
        assert runs(judging)
        trainer.communicate("x")
    assert trainer.returncode == -signal.SIGKILL
    psutil.wait_procs([judging], timeout=120)
    assert not runs(judging)


def test_a_problem_that_a_reward_cannot_judge_is_refused_by_name(trapped: Trapped) -> None:
    problems = [Problem(task, Gap("x")) for task in ("a", "trap", "b", "c")]
    check_problems(problems, [built_in("format"), trapped()][:1])
    with pytest.raises(
        UserError, match=r"^rewards/trapped of .* can't judge answers to problem 'trap': it is a"
    ):
        check_problems(problems, [built_in("format"), trapped()])
    with pytest.raises(UserError, match=r"code .* problem 'a', 'trap', 'b' and 1 more: it has no `tests`$"):
        check_problems(problems, [built_in("code")])


def test_who_is_waited_for_is_said(
    trapped: Trapped, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker_module, "SAID_AFTER", 0.01)
    with RewardWorker([trapped()], RewardContext()) as worker:
        worker.submit(answers(a=["7"])).result()
    said = capfd.readouterr().err
    assert (
        "waiting for rewards/trapped of strange-rewards 1.0 since 0.01 s; after 600 s it counts as hung"
        in said
    )

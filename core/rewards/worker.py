"""Rewards in a process of their own: the model goes on meanwhile, and one that hangs can be ended."""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from opendllm.core.foundation.notices import tell_once
from opendllm.core.rewards.messages import written_completions, written_setting
from opendllm.core.rewards.weighing import (
    RewardedCompletion,
    WeightedReward,
    by_problem,
    labels,
    weighed,
)
from opendllm.registries.errors import UserError
from opendllm.registries.problems import Completion
from opendllm.registries.rewards import RewardContext

SECONDS = 600.0
BUILDING_SECONDS = 600.0
"""For a process to start, and for what a reward imports and loads."""
LONGEST_WAIT = 86400.0
"""Of one call, in seconds: the system counts milliseconds in 32 bits."""
SAID_AFTER = 30.0
"""Seconds after which it is said, once of each reward, who is waited for."""
_PROCESS = "opendllm.core.rewards.process"


class RewardFailedError(UserError):
    """A reward raised, hung, or ended the process that it runs in."""


class _HungError(Exception):
    """No answer in time, by the reward of this label."""


class RewardWorker:
    """Judges one batch after the other; use it as a context manager."""

    def __init__(
        self, rewards: Sequence[WeightedReward], context: RewardContext, seconds: float = SECONDS
    ) -> None:
        """Start the process, which gets ready by itself.

        Args:
            rewards: at least one.
            context: what each is told.
            seconds: that one reward may take for a batch.

        Raises:
            UserError: a reward runs generated code, and the context doesn't allow that.
        """
        self._rewards = dict(zip(labels(rewards), rewards, strict=True))
        self._setting = written_setting(rewards, context)
        self._seconds = seconds
        for each in rewards:
            if each.plugin.options.executes_code and context.code_execution is None:
                raise UserError(
                    f"{each.plugin.registration.owner} runs generated code: allow that with "
                    f"`allow_code_execution: true` in the manifest or --allow-code-execution"
                )
        self._closed = False
        self._waiting = b""
        self._process = self._started()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rewards")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, completions: Sequence[Completion]) -> Future[list[RewardedCompletion]]:
        """What answers are worth, in their order, once it is known.

        The result raises a RewardFailedError that names the reward, and where it can be told the problem.
        """
        return self._thread.submit(self._rewarded, list(completions))

    def close(self) -> None:
        """End the process; batches that wait are given up."""
        self._closed = True
        self._process.kill()
        self._thread.shutdown(cancel_futures=True)
        self._end()

    def _rewarded(self, completions: list[Completion]) -> list[RewardedCompletion]:
        if not completions:
            return []
        try:
            values = self._values(list(self._rewards), completions)
        except _HungError as hung:
            raise self._hung(str(hung), completions) from None
        return weighed(values, {label: each.weight for label, each in self._rewards.items()})

    def _values(self, asked: Sequence[str], completions: Sequence[Completion]) -> dict[str, list[float]]:
        """Of the rewards of these labels.

        Raises:
            _HungError: one takes too long; the process has been ended.
        """
        if self._closed:
            raise RewardFailedError("the rewards were given up")
        if self._process.poll() is not None:
            self._process = self._started()
        judging, seconds = asked[0], BUILDING_SECONDS
        try:
            self._write({"rewards": list(asked), **written_completions(completions)})
            while True:
                answer = self._answer(seconds, judging)
                if "judging" in answer:
                    judging, seconds = answer["judging"], self._seconds
                elif "building" in answer:
                    judging, seconds = answer["building"], BUILDING_SECONDS
                elif "error" in answer:
                    failure = RewardFailedError(answer["error"])
                    failure.exit_code = answer["exit_code"]
                    raise failure
                else:
                    values: dict[str, list[float]] = answer["values"]
                    return values
        except TimeoutError:
            self._end()
            raise _HungError(judging) from None
        except (EOFError, OSError):
            code = self._process.wait()
            self._end()
            raise RewardFailedError(
                f"{self._owner(judging)} ended its process (exit code {code}), given {len(completions)} "
                f"answers, the first to problem {completions[0].problem.task_id!r}"
            ) from None

    def _hung(self, label: str, completions: Sequence[Completion]) -> RewardFailedError:
        """The error of a reward that takes too long, with the problem that it hangs on by itself."""
        told = f"{self._owner(label)} gave no values within {self._seconds:g} seconds"
        for problem, answers in by_problem(completions).items():
            try:
                self._values([label], answers)
            except _HungError:
                return RewardFailedError(f"{told} for answers to problem {problem!r}")
            except RewardFailedError as error:
                return error
        return RewardFailedError(
            f"{told} for {len(completions)} answers, though it does for each problem's alone"
        )

    def _owner(self, label: str) -> str:
        return self._rewards[label].plugin.registration.owner

    def _started(self) -> subprocess.Popen[bytes]:
        self._waiting = b""
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", _PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # an interrupt at the keyboard is the trainer's
        )
        self._process = process
        self._write(self._setting)
        return process

    def _write(self, content: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(content).encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self, seconds: float, label: str) -> dict[str, Any]:
        """The next line, for which the reward of this label has so many seconds.

        Raises:
            TimeoutError: there is none in time.
            EOFError: the process has ended.
        """
        assert self._process.stdout is not None
        stream = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        said_at = time.monotonic() + SAID_AFTER
        while b"\n" not in self._waiting:
            left = max(0.0, min(deadline, said_at) - time.monotonic())
            if not poll.poll(min(left, LONGEST_WAIT) * 1000):
                if left > LONGEST_WAIT:
                    continue
                if deadline <= said_at:
                    raise TimeoutError
                said_at = math.inf
                tell_once(
                    f"waiting for {self._owner(label)} since {SAID_AFTER:g} s; after {seconds:g} s it counts "
                    f"as hung"
                )
                continue
            data = os.read(stream, 1 << 20)
            if not data:
                raise EOFError
            self._waiting += data
        line, _, self._waiting = self._waiting.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was being written to it
                    stream.close()

"""Judges programs in confined processes, several at a time."""

from __future__ import annotations

import os
import select
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from opendllm.core.foundation.cores import usable_cores
from opendllm.core.sandbox.launch import Child, ForkServerHandle, LevelUnavailableError
from opendllm.core.sandbox.levels import start
from opendllm.core.sandbox.limits import Limits
from opendllm.core.sandbox.wire import Channel, ChannelClosedError, ChannelTimeoutError
from opendllm.registries.benchmarks import IsolationLevel
from opendllm.registries.errors import UserError

PREPARING_SECONDS = 300
"""At most so long a judge takes to prepare a problem: the gold solution's own time, mostly."""
GRACE_SECONDS = 3
"""A judge that hasn't spoken so long after its candidate's time is up is killed."""


@dataclass(frozen=True)
class Trial:
    """One program to be judged.

    Attributes:
        program: the text that a model wrote.
        parts: what it must pass, one after the other, each time in a process of its own.
        seconds: for each part, until the judge's script sets another limit with `Candidate.limit`. No
            program gets more processor time than that.
    """

    program: str
    parts: tuple[str, ...] = ("tests",)
    seconds: float = 3.0


@dataclass(frozen=True)
class Case:
    """One problem: a judge's script with its data, and the programs to be judged.

    Attributes:
        name: for messages.
        script: see `judge`.
        data: JSON; handed to the script.
        trials: the programs.
        remembered: file for the text that the script remembers of the problem; `prepare` finds it in the
            data as `remembered`. None where it remembers nothing.
    """

    name: str
    script: str
    data: Any
    trials: tuple[Trial, ...]
    remembered: Path | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of a trial.

    Attributes:
        passed: the parts that were passed; a part after a failed one isn't run.
        reason: "passed", or in a few words why the first failed part failed.
        unscorable: whether the benchmark is at fault: its own solution or tests don't run here.
    """

    passed: frozenset[str]
    reason: str
    unscorable: bool = False


class Sandbox:
    """A fork server and some threads that keep it busy; use it as a context manager.

    Attributes:
        level: how strongly programs are confined.
        described: the same in words, for reports.
    """

    def __init__(
        self, at_least: IsolationLevel = "rlimits", workers: int | None = None, limits: Limits | None = None
    ) -> None:
        """Start the strongest level that the machine holds.

        Args:
            at_least: the weakest level that will do.
            workers: problems judged at the same time; None for one a core.
            limits: of each program.

        Raises:
            UserError: the machine doesn't hold that level.
        """
        self._limits = limits or Limits()
        self._workers = workers or usable_cores()
        self.level: IsolationLevel
        self._server, self.level, filtered = start(at_least, self._limits)
        self.described = f"{self.level}, system calls {'' if filtered else 'not '}filtered"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    def judge(
        self,
        cases: Sequence[Case],
        on_progress: Callable[[int, list[Verdict]], None] = lambda done, verdicts: None,
    ) -> list[list[Verdict]]:
        """Judge every case's trials, in order.

        Args:
            cases: the problems.
            on_progress: told how many of them are done, and what became of the last one's trials.

        Raises:
            UserError: the sandbox itself broke down.
        """
        results = []
        with ThreadPoolExecutor(self._workers) as threads:
            pending = [threads.submit(_CaseRun(self._server, self._limits, case).verdicts) for case in cases]
            try:
                for done, future in enumerate(pending, start=1):
                    results.append(future.result())
                    on_progress(done, results[-1])
            except (LevelUnavailableError, ChannelClosedError) as error:
                threads.shutdown(wait=False, cancel_futures=True)
                raise UserError(f"the sandbox ({self.level}) stopped working: {error}") from error
            except BaseException:  # an interrupt waits for the cases in hand, not for all
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        return results


class _CaseRun:
    """One case, from its judge's start to its last verdict."""

    def __init__(self, server: ForkServerHandle, limits: Limits, case: Case) -> None:
        self._server = server
        self._limits = limits
        self._case = case
        self._judge: Child | None = None
        self._broken: str | None = None

    def verdicts(self) -> list[Verdict]:
        try:
            verdicts = [self._verdict(trial) for trial in self._case.trials]
            self._remember()
            return verdicts
        finally:
            self._end_judge()

    def _verdict(self, trial: Trial) -> Verdict:
        passed: list[str] = []
        for part in trial.parts:
            unprepared = self._unprepared()
            if unprepared is not None:
                return Verdict(frozenset(passed), unprepared, unscorable=True)
            try:
                reason = self._reason(trial, part)
            except ChannelClosedError:
                reason = "the judge died"
                self._end_judge()
            if reason != "passed":
                return Verdict(frozenset(passed), reason)
            passed.append(part)
        return Verdict(frozenset(passed), "passed")

    def _unprepared(self) -> str | None:
        """Have a judge that is ready; or say why there can't be one."""
        if self._judge is not None or self._broken is not None:
            return self._broken
        # Tests and expected values take memory, too; they are trusted, but data.
        limits = replace(self._limits, memory_bytes=2 * self._limits.memory_bytes)
        self._judge = judge = self._server.judge(limits, cpu_seconds=100_000)
        assert judge.channel is not None
        judge.channel.send([self._case.script, self._data()])
        try:
            answer = judge.channel.receive(time.monotonic() + PREPARING_SECONDS)
        except (ChannelClosedError, ChannelTimeoutError):
            answer = {"unprepared": "memory or time ran out"}
        if "prepared" in answer:
            return None
        self._end_judge()
        self._broken = (
            f"{self._case.name} can't be scored here, its own solution or tests fail: {answer['unprepared']}"
        )
        return self._broken

    def _reason(self, trial: Trial, part: str) -> str:
        assert self._judge is not None
        assert self._judge.channel is not None
        candidate = self._server.candidate(self._limits, cpu_seconds=int(trial.seconds) + 2)
        try:
            self._judge.channel.send([trial.program, part, trial.seconds], [candidate.peer])
            answer = self._watch(self._judge.channel, candidate, trial.seconds)
            if isinstance(answer, str):
                self._end_judge()
                return answer
            return "passed" if answer["passed"] is True else str(answer["reason"])
        finally:
            self._server.kill(candidate)

    def _watch(self, judge: Channel, candidate: Child, seconds: float) -> dict[str, Any] | str:
        """Wait for the judge's verdict, draining the candidate's output; or say what went wrong.

        A judge that is busy with what a candidate sent it is not waited for longer than the candidate.
        """
        deadline = time.monotonic() + seconds + GRACE_SECONDS
        written = 0
        poll = select.poll()
        poll.register(judge.fileno(), select.POLLIN)
        poll.register(candidate.output, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            ready = {} if judge.has_more else dict(poll.poll(max(0.0, left) * 1000))
            if judge.has_more or judge.fileno() in ready:
                answer: dict[str, Any] = judge.receive()
                if "seconds" not in answer:
                    return answer
                deadline = time.monotonic() + answer["seconds"] + GRACE_SECONDS
                continue
            if left <= 0 or not ready:
                return "timed out"
            data = os.read(candidate.output, 1 << 20)
            written += len(data)
            if not data:
                poll.unregister(candidate.output)
            if written > self._limits.output_bytes:
                return f"wrote more than {self._limits.output_bytes >> 20} MiB of output"

    def _data(self) -> Any:
        file = self._case.remembered
        if file is None:
            return self._case.data
        with suppress(OSError, UnicodeDecodeError):
            return {**self._case.data, "remembered": file.read_text(encoding="utf-8")}
        return self._case.data

    def _remember(self) -> None:
        """Keep what the judge has to remember; without it the next time takes longer, and that is all."""
        file, judge = self._case.remembered, self._judge
        if file is None or judge is None or judge.channel is None or file.exists():
            return
        with suppress(OSError, ChannelClosedError, ChannelTimeoutError):
            judge.channel.send("remember")
            text = judge.channel.receive(time.monotonic() + PREPARING_SECONDS)
            if isinstance(text, str):
                file.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(
                    "w", dir=file.parent, delete=False, encoding="utf-8"
                ) as whole:
                    whole.write(text)
                Path(whole.name).replace(file)

    def _end_judge(self) -> None:
        if self._judge is not None:
            self._server.kill(self._judge)
            self._judge = None

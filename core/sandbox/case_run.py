"""One problem's programs, judged one after the other; what the machine did to one is no fault of its own."""

from __future__ import annotations

import os
import select
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from opendllm.core.sandbox.cases import Case, Trial, Verdict
from opendllm.core.sandbox.launch import Child, ForkServerHandle, LevelUnavailableError
from opendllm.core.sandbox.limits import Limits
from opendllm.core.sandbox.wire import Channel, ChannelClosedError, ChannelTimeoutError

PREPARING_SECONDS = 300
"""At most so long a judge takes to prepare a problem: the gold solution's own time, mostly."""
GRACE_SECONDS = 3
"""A judge that hasn't spoken so long after its candidate's time is up is killed."""
ENDING_SECONDS = 2.0
"""A process that is gone from its channel ends within them, or has closed it itself."""
STALL_SECONDS = 1.0
"""A wait that takes so much longer than was asked for: all processes stood still, or had no core."""
_TICK = 0.5


class DisturbedError(Exception):
    """The machine may be why a program failed; says what was seen."""


class CaseRun:
    """One case, from its judge's start to its last verdict."""

    def __init__(self, server: ForkServerHandle, limits: Limits, case: Case, excuses: bool = True) -> None:
        """Prepare nothing yet.

        Args:
            server: forks its processes.
            limits: of each program.
            case: the problem.
            excuses: whether a program that fails while the machine may be why is a `DisturbedError`.
        """
        self.killed = False
        """Whether somebody killed a program."""
        self._excuses = excuses
        self._stalled = False
        self._server = server
        self._limits = limits
        self._case = case
        self._judge: Child | None = None
        self._broken: str | None = None

    def verdicts(self) -> list[Verdict]:
        """Of its trials, in order.

        Raises:
            DisturbedError: the machine may be why one failed.
            LevelUnavailableError, ChannelClosedError, OSError: no process can be had, or no room.
        """
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
                self._end_judge(ENDING_SECONDS)
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
        try:
            judge.channel.send([self._case.script, self._data()])
            answer = judge.channel.receive(time.monotonic() + PREPARING_SECONDS)
        except ChannelTimeoutError:
            answer = {"unprepared": f"it took more than {PREPARING_SECONDS} s"}
        except ChannelClosedError:
            self._end_judge(ENDING_SECONDS)
            answer = {"unprepared": "its process died"}
        if "prepared" in answer:
            return None
        self._end_judge()
        self._broken = (
            f"{self._case.name} can't be scored here, its own solution or tests fail: {answer['unprepared']}"
        )
        return self._broken

    def _reason(self, trial: Trial, part: str) -> str:
        """Why the program fails, or "passed".

        Raises:
            DisturbedError: the machine may be why.
            LevelUnavailableError: the machine has no room for what a program may write.
        """
        assert self._judge is not None
        assert self._judge.channel is not None
        candidate = self._server.candidate(self._limits, cpu_seconds=int(trial.seconds) + 2)
        reason = ""
        self._stalled = False
        try:
            self._judge.channel.send([trial.program, part, trial.seconds], [candidate.peer])
            answer = self._watch(self._judge.channel, candidate, trial.seconds)
            if isinstance(answer, str):
                self._end_judge()
                reason = answer
            else:
                reason = "passed" if answer["passed"] is True else str(answer["reason"])
        finally:
            ending = self._server.kill(candidate, ENDING_SECONDS if reason == "died" else 0.0)
        if reason == "passed":
            return reason
        if ending.no_room:
            raise LevelUnavailableError(
                "there is less room than the programs may use where they write; TMPDIR=FOLDER names another"
            )
        if reason == "died" and ending.killed:
            self.killed = True
            if self._excuses:
                raise DisturbedError(f"a program of {self._case.name} was killed")
        if reason == "timed out" and self._stalled and self._excuses:
            raise DisturbedError(f"a program of {self._case.name} was not timed")
        return reason

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
            ready = {} if judge.has_more else self._ready(poll, max(0.0, left))
            if judge.has_more or judge.fileno() in ready:
                answer: dict[str, Any] = judge.receive()
                if "seconds" not in answer:
                    return answer
                deadline = time.monotonic() + answer["seconds"] + GRACE_SECONDS
                continue
            if left <= 0:
                return "timed out"
            if not ready:
                continue
            data = os.read(candidate.output, 1 << 20)
            written += len(data)
            if not data:
                poll.unregister(candidate.output)
            if written > self._limits.output_bytes:
                return f"wrote more than {self._limits.output_bytes >> 20} MiB of output"

    def _ready(self, poll: select.poll, seconds: float) -> dict[int, int]:
        """What can be read within so long, or a moment; a moment that was none is noted."""
        asked = min(seconds, _TICK)
        began = time.monotonic()
        ready = dict(poll.poll(asked * 1000))
        self._stalled |= time.monotonic() - began > asked + STALL_SECONDS
        return ready

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

    def _end_judge(self, patience: float = 0.0) -> None:
        """Let there be no judge.

        Raises:
            DisturbedError: it didn't end by itself, but was killed.
        """
        if self._judge is not None:
            judge, self._judge = self._judge, None
            if self._server.kill(judge, patience).killed and patience:
                raise DisturbedError(f"the judge of {self._case.name} was killed")

"""Judges programs in confined processes, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from opendllm.core.foundation.cores import usable_cores
from opendllm.core.sandbox.case_run import CaseRun, DisturbedError
from opendllm.core.sandbox.cases import Case, Verdict
from opendllm.core.sandbox.launch import LevelUnavailableError
from opendllm.core.sandbox.levels import start
from opendllm.core.sandbox.limits import Limits
from opendllm.core.sandbox.machine import check_shell_limits, out_of_memory_kills
from opendllm.core.sandbox.wire import ChannelClosedError
from opendllm.registries.benchmarks import IsolationLevel
from opendllm.registries.errors import UserError

ATTEMPTS = 3
"""So often a case is judged that the machine disturbs, alone but for the first time."""


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
            UserError: the machine doesn't hold that level, or leaves programs less than their limits.
        """
        self._limits = limits or Limits()
        check_shell_limits(self._limits)
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
            UserError: the sandbox itself broke down, or the machine has not what programs may use.
        """
        results: dict[int, list[Verdict]] = {}
        with ThreadPoolExecutor(self._workers) as threads:
            pending = [threads.submit(CaseRun(self._server, self._limits, case).verdicts) for case in cases]
            try:
                for number, future in enumerate(pending):
                    with suppress(DisturbedError):
                        with self._named():
                            results[number] = future.result()
                        on_progress(len(results), results[number])
            except BaseException:  # an interrupt waits for the cases in hand, not for all
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        for number in range(len(cases)):
            if number not in results:
                with self._named():
                    results[number] = self._judged_alone(cases[number])
                on_progress(len(results), results[number])
        return [results[number] for number in range(len(cases))]

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Whose errors they are, of processes, descriptors and room that can't be had."""
        try:
            yield
        except (LevelUnavailableError, ChannelClosedError, OSError) as error:
            raise UserError(f"the sandbox ({self.level}) stopped working: {error}") from error

    def _judged_alone(self, case: Case) -> list[Verdict]:
        """A case that was disturbed among others; at last, what a program has done is its own fault.

        Raises:
            UserError: memory runs out, or the judge is killed, each time.
        """
        out_of_memory = out_of_memory_kills()
        for attempt in range(2, ATTEMPTS + 1):
            try:
                run = CaseRun(self._server, self._limits, case, excuses=attempt < ATTEMPTS)
                verdicts = run.verdicts()
            except DisturbedError as error:
                disturbed = str(error)
                continue
            if not run.killed or out_of_memory_kills() == out_of_memory:
                return verdicts
            disturbed = f"a program of {case.name} was killed"
        gib = self._limits.memory_bytes / 2**30
        raise UserError(
            f"{disturbed} {ATTEMPTS} times, so that its problem can't be judged here: "
            f"a program may use {gib:g} GiB; if memory ran out, end what else needs it, or lower memory_gib"
        )

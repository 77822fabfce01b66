"""Many small programs at once: a fork server starts one child after the other, so several start more."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from opendllm.core.foundation.cores import usable_cores
from opendllm.core.sandbox.cases import Case, Verdict
from opendllm.core.sandbox.limits import Limits
from opendllm.core.sandbox.sandbox import Sandbox
from opendllm.registries.benchmarks import CodeExecution

PROGRAMS_A_SERVER = 32
"""Of fewer, a server of its own would take longer to start than to run them."""


def judge_in_parallel(cases: Sequence[Case], execution: CodeExecution, limits: Limits) -> list[list[Verdict]]:
    """Judge all trials of all cases.

    Args:
        cases: each trial of one part counts as a program.
        execution: the user's leave; as many programs run at once as it says.
        limits: of each program.

    Returns:
        Each case's verdicts, in the order of its trials.

    Raises:
        UserError: the machine doesn't hold the level that is asked for, or a sandbox broke down.
    """
    if not cases:
        return []
    workers = execution.workers or usable_cores()
    programs = sum(len(trial.parts) for case in cases for trial in case.trials)
    servers = max(1, min(workers, len(cases), programs // PROGRAMS_A_SERVER))

    def judged(number: int) -> list[list[Verdict]]:
        own = cases[number::servers]
        with Sandbox(execution.level or "rlimits", -(-workers // servers), limits) as sandbox:
            return sandbox.judge(own)

    results: list[list[Verdict]] = [[] for _ in cases]
    with ThreadPoolExecutor(servers) as threads:
        for number, found in enumerate(threads.map(judged, range(servers))):
            results[number::servers] = found
    return results

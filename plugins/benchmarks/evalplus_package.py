"""HumanEval+ and MBPP+ read through the package evalplus, where it is installed.

It works in a process of its own, `evalplus_process`: the package takes its override paths from the
environment when it is imported, downloads without a time limit, and its imports would stay.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from opendllm.registries.errors import UserError

PROCESS = "opendllm.plugins.benchmarks.evalplus_process"
PROBLEMS_SECONDS = 180
"""For a download of some megabytes."""
TRUTH_SECONDS = 1800
"""For running every published solution on all of its inputs, one after the other."""


def is_installed() -> bool:
    """Whether evalplus can be imported here; it isn't imported to find out."""
    return find_spec("evalplus") is not None


def published_problems(*, is_mbpp: bool) -> list[dict[str, Any]] | None:
    """What `get_human_eval_plus` or `get_mbpp_plus` gives, each input as JSON has it.

    HUMANEVAL_OVERRIDE_PATH and MBPP_OVERRIDE_PATH hold, as they do for EvalPlus.

    Returns:
        None where evalplus can't get them: its download, from GitHub, failed or took too long.
    """
    try:
        problems: list[dict[str, Any]] = _ask({"is_mbpp": is_mbpp}, PROBLEMS_SECONDS)
    except (subprocess.SubprocessError, OSError, ValueError):
        return None
    return problems


def ground_truth(
    tasks: Iterable[str], *, is_mbpp: bool, min_seconds: float, factor: float
) -> dict[str, str | None]:
    """What `get_groundtruth` computes: task id -> the text that `evalplus_judge.prepare` takes as remembered.

    None stands for outputs that are too large to write down, or no plain values: the judge computes them.

    Args:
        tasks: of the problems.
        is_mbpp: of which benchmark they are.
        min_seconds: that a call may take at least.
        factor: a call may take so many times what it took the published solution.

    Raises:
        UserError: evalplus failed, or took more than half an hour.
    """
    limits = {"min_seconds": min_seconds, "factor": factor}
    try:
        truth: dict[str, str | None] = _ask(
            {"is_mbpp": is_mbpp, "tasks": list(tasks), "limits": limits}, TRUTH_SECONDS
        )
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        raise UserError(
            f"evalplus cannot compute its ground truth ({error}): give the problems as a file, as option "
            "`problems` or --problems, and it is computed here"
        ) from error
    return truth


def _ask(request: dict[str, Any], seconds: float) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        subprocess.run(
            [sys.executable, "-m", PROCESS, json.dumps(request), answer],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
        )
        return json.loads(answer.read_text(encoding="utf-8"))

"""What `evalplus_package` starts: python -m opendllm.plugins.benchmarks.evalplus_process REQUEST FILE.

REQUEST is JSON; the answer goes to FILE, since evalplus prints what it likes.
"""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Any

from evalplus.data import get_human_eval_plus, get_mbpp_plus
from evalplus.data.mbpp import mbpp_serialize_inputs

from opendllm.plugins.benchmarks.evalplus_judge import written


def answer(request: dict[str, Any]) -> Any:
    """The problems of a benchmark; or, where tasks are named, what their published solutions give."""
    is_mbpp: bool = request["is_mbpp"]
    problems = (get_mbpp_plus if is_mbpp else get_human_eval_plus)(err_incomplete=False)
    if "tasks" in request:
        chosen = {task: problems[task] for task in request["tasks"]}
        return _ground_truth(chosen, is_mbpp, **request["limits"])
    return [_as_published(problem) if is_mbpp else problem for problem in problems.values()]


def _as_published(problem: dict[str, Any]) -> dict[str, Any]:
    """An MBPP+ task, with the inputs that JSON can hold, as its release has them."""
    task, parts = problem["task_id"], ("base_input", "plus_input")
    return {**problem, **{part: mbpp_serialize_inputs(task, problem[part]) for part in parts}}


def _ground_truth(
    problems: dict[str, Any], is_mbpp: bool, min_seconds: float, factor: float
) -> dict[str, str | None]:
    from evalplus.data.utils import CACHE_DIR
    from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
    from evalplus.evaluate import get_groundtruth

    # It would unpickle a file of this name, and leaves one: so the name is new, and the file doesn't stay.
    name = f"opendllm-{uuid.uuid4()}"
    try:
        truth = get_groundtruth(problems, name, MBPP_OUTPUT_NOT_NONE_TASKS if is_mbpp else [])
    finally:
        (Path(CACHE_DIR) / f"{name}.pkl").unlink(missing_ok=True)
    return {
        task: written(
            {
                part: (outputs[part], [max(min_seconds, factor * took) for took in outputs[f"{part}_time"]])
                for part in ("base", "plus")
            }
        )
        for task, outputs in truth.items()
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(answer(json.loads(sys.argv[1]))), encoding="utf-8")

"""Finds and loads the tasks of lm-evaluation-harness, with a network or without."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opendllm.core.foundation.hub import offline, why_unreachable
from opendllm.plugins.benchmarks import LmEvalOptions
from opendllm.registries.errors import UserError, first_line
from opendllm.registries.suggestions import did_you_mean

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


def load_tasks(options: LmEvalOptions) -> dict[str, Any]:
    """The tasks by name, and the groups.

    Raises:
        UserError: there is no such task, it can't be loaded, or it would run generated code.
    """
    if options.folder is not None and not Path(options.folder).expanduser().is_dir():
        raise UserError(f"benchmark lm-eval: {options.folder} is no folder of task files")
    manager = index_for(options)
    if options.task not in manager.all_tasks:
        hint = did_you_mean(options.task, manager.all_tasks) if options.folder else "see `lm_eval ls tasks`"
        raise UserError(f"benchmark lm-eval: no task {options.task!r}; {hint}")
    loaded = _read(manager, options.task)
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise UserError(
                f"benchmark lm-eval: task {name!r} would run generated code outside the sandbox: take "
                f"benchmark humaneval, humaneval-plus, mbpp or mbpp-plus"
            )
        if getattr(task, "MULTIMODAL", False):
            raise UserError(f"benchmark lm-eval: task {name!r} shows images or sounds to the model")
    return loaded


def index_for(options: LmEvalOptions) -> TaskManager:
    """An index of the tasks that may be meant.

    That of all tasks takes twelve seconds to read, so one of lm-eval's own is looked for first.
    """
    from lm_eval import tasks

    if options.folder is not None:
        return tasks.TaskManager(include_path=str(Path(options.folder).expanduser()), include_defaults=False)
    line = re.compile(
        rb"^['\"]?task['\"]?:\s*['\"]?%s['\"]?\s*$" % re.escape(options.task.encode()), re.MULTILINE
    )
    found = [path for path in Path(tasks.__file__).parent.rglob("*.yaml") if line.search(path.read_bytes())]
    if len(found) == 1:
        manager = tasks.TaskManager(include_path=str(found[0].parent), include_defaults=False)
        if options.task in manager.all_tasks:
            return manager
    return tasks.TaskManager()


def _read(manager: TaskManager, task: str) -> dict[str, Any]:
    """The task with its documents: those that are here, or else the hub's.

    Raises:
        UserError: something is wrong with its YAML, with what that imports or with its data set.
    """
    try:
        with offline():
            loaded: dict[str, Any] = manager.load([task])
            return loaded
    except Exception as error:
        failure: Exception = error
    unreachable = why_unreachable()
    if unreachable is None:
        try:
            loaded = manager.load([task])
        except Exception as error:
            failure = error
        else:
            return loaded
        advice = ""
    else:
        from datasets import config

        advice = (
            f"; the hub cannot be reached ({unreachable}): load its data set with Hugging Face datasets "
            f"elsewhere and copy the cache to {config.HF_DATASETS_CACHE}, or give a `folder` with a task "
            f"file that reads local data"
        )
    raise UserError(
        f"benchmark lm-eval: task {task!r} cannot be loaded ({first_line(failure)}){advice}"
    ) from failure

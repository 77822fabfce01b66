"""What a task of lm-eval asks: its own `build_all_requests`, in the checkpoint's chat template or not."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from opendllm.core.scoring.lm_eval_instances import LmEvalChat, instance_setting, stop_strings
from opendllm.core.scoring.problem_files import preparation_failure
from opendllm.plugins.benchmarks import LmEvalOptions
from opendllm.registries.benchmarks import (
    GenerationRequest,
    LikelihoodRequest,
    Request,
)
from opendllm.registries.errors import UserError, first_line
from opendllm.registries.gaps import Gap

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

FEWSHOT_SEED, RANDOM_SEED, NUMPY_SEED = 1234, 0, 1234
"""Those of `lm_eval.simple_evaluate`."""
GREEDY_METRICS = {"loglikelihood": "acc", "multiple_choice": "exact_match"}
"""Output type -> the metric that asks whether the model would write just this text."""


def build_requests(
    name: str, task: Task, options: LmEvalOptions, chat: LmEvalChat | None, limit: int | None
) -> list[tuple[int, Request]]:
    """(document, request) of everything that a task asks, as `simple_evaluate` prepares it.

    A document whose own preparation fails has one request, which says why; the others have what lm-eval
    asks where it is given just them.

    Raises:
        UserError: the task can't be prepared at all.
    """
    own = task.get_config("num_fewshot")
    if options.num_fewshot is not None and own != 0:  # a task that says zero examples keeps to it
        task.set_config(key="num_fewshot", value=options.num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    documents: list[int] | None = None
    failed: dict[int, str] = {}
    try:
        _build(task, options, chat, limit=limit)
    except Exception as error:  # whatever the task's templates and functions raise
        documents, failed = _build_without_failing(task, options, chat, limit, error)
    found = [(number, _failed_request(name, task, number, reason)) for number, reason in failed.items()]
    for instance in task.instances if documents != [] else ():
        number = instance.doc_id if documents is None else documents[instance.doc_id]
        for request in _requests(f"{name}/{number}", task, instance, chat is not None):
            found.append((number, request))
    return sorted(found, key=lambda item: item[0])


def _build(
    task: Task,
    options: LmEvalOptions,
    chat: LmEvalChat | None,
    limit: int | None = None,
    documents: Sequence[int] | None = None,
) -> None:
    """The task's instances, of its first `limit` documents or of those that are named."""
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    task.build_all_requests(
        limit=limit,
        samples=None if documents is None else list(documents),
        rank=0,
        world_size=1,
        system_instruction=options.system_instruction,
        apply_chat_template=chat is not None,
        fewshot_as_multiturn=options.fewshot_as_multiturn,
        chat_template=chat,
    )


def _build_without_failing(
    task: Task, options: LmEvalOptions, chat: LmEvalChat | None, limit: int | None, error: Exception
) -> tuple[list[int], dict[int, str]]:
    """The instances of what can be prepared: its documents, and why the others can't be.

    The latter are found by halving, since a task may read all its documents each time.
    """
    try:
        numbers = list(range(len(task.eval_docs)))[:limit]
    except Exception:
        numbers = []
    if not numbers:  # it is no document's fault
        raise UserError(
            f"benchmark lm-eval: task {task.task_name!r} cannot be asked ({first_line(error)})"
        ) from error
    failed: dict[int, str] = {}

    def search(part: list[int]) -> None:
        try:
            _build(task, options, chat, documents=part)
        except Exception as error:
            if len(part) == 1:
                failed[part[0]] = preparation_failure(error)
                return
            search(part[: len(part) // 2])
            search(part[len(part) // 2 :])

    search(numbers)
    whole = [number for number in numbers if number not in failed]
    if whole:
        _build(task, options, chat, documents=whole)
    return whole, failed


def _failed_request(name: str, task: Task, document: int, reason: str) -> Request:
    task_id = f"{name}/{document}"
    if task.OUTPUT_TYPE == "generate_until":
        return GenerationRequest(task_id, Gap(""), failure=reason)
    return LikelihoodRequest(task_id, "", failure=reason)


def _requests(task_id: str, task: Task, instance: Instance, chat: bool) -> Iterator[Request]:
    """One request, or several where the task repeats it."""
    choice = instance.idx if task.OUTPUT_TYPE == "multiple_choice" else None
    arguments, repeats = instance.args, instance.repeats or 1
    for repeat in range(repeats):
        setting = instance_setting(choice, repeat, repeats)
        if instance.request_type == "generate_until":
            yield GenerationRequest(
                task_id=task_id,
                gap=Gap(arguments[0], templated=chat),
                reference=_reference(task, instance.doc),
                setting=setting,
                stop=stop_strings(arguments[1]),
            )
        elif instance.request_type == "loglikelihood":
            yield LikelihoodRequest(
                task_id, arguments[1], setting, arguments[0], _asks_greedy(task), templated=chat
            )
        else:
            yield LikelihoodRequest(task_id, arguments[0], setting, "")


def _reference(task: Task, document: Any) -> str | None:
    target = task.doc_to_target(document)
    return target if isinstance(target, str) else None


def _asks_greedy(task: Task) -> bool:
    if callable(task.get_config("process_results")):
        return True
    return GREEDY_METRICS.get(task.OUTPUT_TYPE) in task.higher_is_better()


@contextmanager
def as_lm_eval_seeds() -> Iterator[None]:
    """Tasks may shuffle with the global generators, which are put back afterwards."""
    state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(RANDOM_SEED)
    np.random.seed(NUMPY_SEED)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


@contextmanager
def quiet() -> Iterator[None]:
    """lm-eval tells of every step."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

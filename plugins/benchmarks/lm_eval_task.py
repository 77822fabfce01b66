"""Any task of EleutherAI's lm-evaluation-harness: its prompts, filters, metrics and aggregation."""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from opendllm.core.scoring.scores_by_setting import OUTPUT_SHARES, output_shares, scores_by_setting
from opendllm.plugins.benchmarks import LmEvalOptions
from opendllm.plugins.benchmarks.lm_eval_loading import load_tasks
from opendllm.plugins.benchmarks.lm_eval_scores import mean_metrics, read_results, replaying_model
from opendllm.registries.benchmarks import (
    Answer,
    Benchmark,
    BenchmarkContext,
    GeneratedText,
    GenerationRequest,
    LikelihoodRequest,
    Metric,
    Request,
    Scores,
    TextLikelihood,
)
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

FEWSHOT_SEED, RANDOM_SEED, NUMPY_SEED = 1234, 0, 1234
"""Those of `lm_eval.simple_evaluate`."""
GREEDY_METRICS = {"loglikelihood": "acc", "multiple_choice": "exact_match"}
"""Output type -> the metric that asks whether the model would write just this text."""
NOTES = (
    "prompts, filters, metrics and aggregation are lm-eval's; the length to write is the manifest's "
    "max_new_tokens, sampling its own",
    "log-likelihoods of diffusion models are their ELBO",
)
Address = tuple[str, str, int]
"""(task id, setting, sample)."""


class LmEvalTask(Benchmark):
    """A task or group of lm-eval. Likelihoods are of the continuation alone, given the context.

    The answers are handed back to `lm_eval.evaluate` as if a model gave them there, so the numbers are
    lm-eval's own.
    """

    accepts = frozenset({"written", "completion"})

    def __init__(self, options: LmEvalOptions) -> None:
        self._options = options
        self._loaded: dict[str, Any] = {}
        self._documents: dict[str, dict[int, list[tuple[str, str]]]] = {}

    def requests(self, context: BenchmarkContext) -> Sequence[Request]:
        """Every instance of every document; `limit` counts documents of each task, as in lm-eval."""
        with _quiet(), _as_lm_eval_seeds():
            self._loaded = load_tasks(self._options)
            tasks: dict[str, Task] = self._loaded["tasks"]
            for task in tasks.values():
                _prepare(task, self._options.num_fewshot)
                task.build_all_requests(limit=context.limit, rank=0, world_size=1)
        self._documents = {name: defaultdict(list) for name in tasks}
        asked: list[Request] = []
        for name, task in tasks.items():
            for instance in task.instances:
                for request in _requests(name, task, instance):
                    self._documents[name][instance.doc_id].append((request.task_id, request.setting))
                    asked.append(request)
        self._name_metrics(tasks)
        return asked

    def score(self, answers: Sequence[Answer]) -> Scores:
        """By `lm_eval.evaluate`, once for each sample; the metrics are means over the samples."""
        by_address: dict[Address, Answer] = {
            (answer.task_id, answer.setting, getattr(answer, "sample", 0)): answer for answer in answers
        }
        runs = [self._replay(by_address, sample) for sample in sorted({key[2] for key in by_address})]
        metrics = mean_metrics([metrics for metrics, _ in runs])
        per_task: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for _, of_run in runs:
            for task_id, values in of_run.items():
                per_task[task_id]  # a document without a number of its own counts too
                for name, value in values.items():
                    per_task[task_id][name].append(value)
        means: dict[str, dict[str, Any]] = {
            task_id: {name: sum(found) / len(found) for name, found in values.items()}
            for task_id, values in per_task.items()
        }
        texts = [answer for answer in answers if isinstance(answer, GeneratedText)]
        shares = scores_by_setting(_in_one_setting(output_shares(texts)))
        for task_id, share in shares.per_task.items():
            means.setdefault(task_id, {}).update(share)
        return Scores({**metrics, **shares.metrics}, means, NOTES)

    def task_of(self, given: str) -> str:
        """TASK/NUMBER; of a single task the document's number will do."""
        return f"{next(iter(self._documents))}/{given}" if given.isdecimal() else given

    def _name_metrics(self, tasks: Mapping[str, Task]) -> None:
        single = len(tasks) == 1
        better = {
            (metric if single else f"{name}/{metric}"): up
            for name, task in tasks.items()
            for metric, up in task.higher_is_better().items()
        }
        self.lower_is_better = frozenset({*OUTPUT_SHARES, *(name for name, up in better.items() if not up)})
        groups = [name for name, group in self._loaded["groups"].items() if group.has_aggregation]
        metrics = {metric for task in tasks.values() for metric in task.higher_is_better()}
        self.headline = tuple(f"{group}/{metric}" for group in groups for metric in sorted(metrics)) or tuple(
            better
        )

    def _replay(
        self, answers: Mapping[Address, Answer], sample: int
    ) -> tuple[dict[str, Metric], dict[str, dict[str, float]]]:
        """Metrics and per-task values of one sample of everything that has a whole answer.

        What is asked once (a likelihood) counts in every sample.
        """
        found: dict[tuple[str, int], list[Answer]] = {}
        chosen: dict[str, list[int]] = defaultdict(list)
        for name, documents in self._documents.items():
            for document, addresses in documents.items():
                given = [_answer(answers, address, sample) for address in addresses]
                whole = [answer for answer in given if answer is not None]
                if len(whole) == len(addresses):
                    found[(name, document)] = whole
                    chosen[name].append(document)
        if not chosen:
            raise UserError(f"benchmark lm-eval: no document of {self._options.task} has all its answers")
        complete = len(chosen) == len(self._documents)
        from lm_eval.evaluator import evaluate

        with _quiet(), _as_lm_eval_seeds():
            results = evaluate(
                lm=replaying_model(found, chosen),
                task_dict={
                    "tasks": {name: self._loaded["tasks"][name] for name in chosen},
                    "groups": self._loaded["groups"] if complete else {},
                },
                samples=dict(chosen),
                bootstrap_iters=0,
            )
        assert results is not None
        return read_results(results, self._loaded["tasks"])


def _prepare(task: Task, num_fewshot: int | None) -> None:
    """As `simple_evaluate` does it: a task that says zero examples keeps to it."""
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def _requests(name: str, task: Task, instance: Instance) -> Iterator[Request]:
    """One request, or several where the task repeats it."""
    task_id = f"{name}/{instance.doc_id}"
    parts = [] if task.OUTPUT_TYPE != "multiple_choice" else [f"choice-{instance.idx}"]
    arguments = instance.args
    for repeat in range(instance.repeats or 1):
        repeats = [f"repeat-{repeat}"] if (instance.repeats or 1) > 1 else []
        setting = "-".join([*parts, *repeats]) or "default"
        if instance.request_type == "generate_until":
            until = arguments[1].get("until") or ()
            yield GenerationRequest(
                task_id=task_id,
                gap=Gap(arguments[0]),
                reference=_reference(task, instance.doc),
                setting=setting,
                stop=(until,) if isinstance(until, str) else tuple(until),
            )
        elif instance.request_type == "loglikelihood":
            yield LikelihoodRequest(task_id, arguments[1], setting, arguments[0], _asks_greedy(task))
        else:
            yield LikelihoodRequest(task_id, arguments[0], setting, "")


def _reference(task: Task, document: Any) -> str | None:
    target = task.doc_to_target(document)
    return target if isinstance(target, str) else None


def _answer(answers: Mapping[Address, Answer], address: tuple[str, str], sample: int) -> Answer | None:
    once = answers.get((*address, 0))
    return once if isinstance(once, TextLikelihood) else answers.get((*address, sample))


def _asks_greedy(task: Task) -> bool:
    if callable(task.get_config("process_results")):
        return True
    return GREEDY_METRICS.get(task.OUTPUT_TYPE) in task.higher_is_better()


def _in_one_setting(
    shares: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> dict[str, dict[str, dict[str, float]]]:
    """A repeat is no way of asking of its own."""
    merged: dict[str, dict[str, dict[str, float]]] = {}
    for name, by_setting in shares.items():
        values: dict[str, list[float]] = defaultdict(list)
        for by_task in by_setting.values():
            for task_id, value in by_task.items():
                values[task_id].append(value)
        merged[name] = {"default": {task_id: sum(found) / len(found) for task_id, found in values.items()}}
    return merged


@contextmanager
def _as_lm_eval_seeds() -> Iterator[None]:
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
def _quiet() -> Iterator[None]:
    """lm-eval tells of every step."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

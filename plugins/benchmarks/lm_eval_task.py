"""Any task of EleutherAI's lm-evaluation-harness: its prompts, filters, metrics and aggregation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opendllm.core.scoring.lm_eval_instances import LmEvalChat
from opendllm.core.scoring.scores_by_setting import OUTPUT_SHARES, output_shares, scores_by_setting
from opendllm.core.scoring.statistics import likelihood_kind
from opendllm.plugins.benchmarks import LmEvalOptions
from opendllm.plugins.benchmarks.lm_eval_loading import load_tasks
from opendllm.plugins.benchmarks.lm_eval_requests import as_lm_eval_seeds, build_requests, quiet
from opendllm.plugins.benchmarks.lm_eval_scores import mean_metrics, read_results, replaying_model
from opendllm.registries.benchmarks import (
    DEFAULT_SETTING,
    Answer,
    Benchmark,
    BenchmarkContext,
    GeneratedText,
    Metric,
    Request,
    Scores,
    TextLikelihood,
)
from opendllm.registries.errors import UserError, first_line

if TYPE_CHECKING:
    from lm_eval.api.task import Task

NOTES = (
    "prompts, filters, metrics and aggregation are lm-eval's; the length to write is the manifest's "
    "max_new_tokens, sampling its own",
    "log-likelihoods of diffusion models are their ELBO",
)
NO_SYSTEM_NOTE = (
    "the chat template refuses a system's turn, so descriptions and system_instruction were left out, as "
    "lm-eval does it"
)
FAILED_NOTE = (
    "documents that failed count as 0 in means of which more is better; other metrics (perplexity, f1) are "
    "of the rest"
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
        self._chat: LmEvalChat | None = None
        self._documents: dict[str, dict[int, list[tuple[str, str]]]] = {}

    def requests(self, context: BenchmarkContext) -> Sequence[Request]:
        """Every instance of every document; `limit` counts documents of each task, as in lm-eval."""
        self._chat = None if context.chat is None else LmEvalChat(context.chat)
        asked: list[Request] = []
        with quiet(), as_lm_eval_seeds():
            self._loaded = load_tasks(self._options)
            tasks: dict[str, Task] = self._loaded["tasks"]
            self._documents = {name: defaultdict(list) for name in tasks}
            for name, task in tasks.items():
                found = build_requests(name, task, self._options, self._chat, context.limit)
                for document, request in found:
                    self._documents[name][document].append((request.task_id, request.setting))
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
        notes = [*NOTES]
        if self._chat is not None and self._chat.left_out_system:
            notes.append(NO_SYSTEM_NOTE)
        if any(answer.failure is not None for answer in answers):
            notes.append(FAILED_NOTE)
        return Scores({**metrics, **shares.metrics}, means, tuple(notes))

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

        What is asked once (a likelihood) counts in every sample. A document with an answer that failed is
        kept from lm-eval, which might find it right.
        """
        found: dict[tuple[str, int], list[Answer]] = {}
        chosen: dict[str, list[int]] = defaultdict(list)
        failed: dict[str, list[int]] = defaultdict(list)
        for name, documents in self._documents.items():
            for document, addresses in documents.items():
                given = [_answer(answers, address, sample) for address in addresses]
                whole = [answer for answer in given if answer is not None]
                if any(answer.failure is not None for answer in whole):
                    failed[name].append(document)
                elif len(whole) == len(addresses):
                    found[(name, document)] = whole
                    chosen[name].append(document)
        if not chosen:
            raise UserError(f"benchmark lm-eval: no document of {self._options.task} has all its answers")
        complete = len(chosen) == len(self._documents)
        from lm_eval.evaluator import evaluate

        with quiet(), as_lm_eval_seeds():
            try:
                results = evaluate(
                    lm=replaying_model(found, chosen),
                    task_dict={
                        "tasks": {name: self._loaded["tasks"][name] for name in chosen},
                        "groups": self._loaded["groups"] if complete else {},
                    },
                    samples=dict(chosen),
                    bootstrap_iters=0,
                )
            except Exception as error:  # whatever the task's functions raise
                raise UserError(
                    f"benchmark lm-eval: task {self._options.task!r} cannot score its answers "
                    f"({type(error).__name__}: {first_line(error)})"
                ) from error
        assert results is not None
        given = [answer for of_document in found.values() for answer in of_document]
        kind = likelihood_kind([answer for answer in given if isinstance(answer, TextLikelihood)])
        return read_results(results, self._loaded["tasks"], self._loaded["groups"], failed, kind)


def _answer(answers: Mapping[Address, Answer], address: tuple[str, str], sample: int) -> Answer | None:
    once = answers.get((*address, 0))
    return once if isinstance(once, TextLikelihood) else answers.get((*address, sample))


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
        merged[name] = {
            DEFAULT_SETTING: {task_id: sum(found) / len(found) for task_id, found in values.items()}
        }
    return merged

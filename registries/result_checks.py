"""What the contracts' methods have to return: looked at when a plugin is first called.

Each check says what is wrong in words that complete "samplers/x of package 0.1: select ...".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opendllm.registries.benchmarks import GenerationRequest, LikelihoodRequest, Metric, Scores
from opendllm.registries.corpora import Document, Message, Skipped
from opendllm.registries.gaps import Gap
from opendllm.registries.model_checks import MODEL_CHECKS
from opendllm.registries.noise_schedules import NoiseMass
from opendllm.registries.objective_checks import OBJECTIVE_CHECKS
from opendllm.registries.plugin_calls import LOOK_AGAIN, Check, ItemCheck
from opendllm.registries.policy_checks import POLICY_CHECKS
from opendllm.registries.problems import Problem
from opendllm.registries.tensor_checks import described, wrong_tensor, wrong_type

_ROUNDING = 1e-9


def _document(item: Any) -> str | None:
    if not isinstance(item, Document):
        return f"gave {described(item)}, and every one must be a Document"
    if not isinstance(item.name, str) or not isinstance(item.text, str):
        return (
            f"gave a Document with name {described(item.name)} and text {described(item.text)}: both must be "
            f"strings"
        )
    prompt = item.prompt
    turns = isinstance(prompt, tuple) and all(isinstance(turn, Message) for turn in prompt)
    if not (prompt is None or isinstance(prompt, str) or turns):
        return (
            f"gave a Document with prompt {described(prompt)}: make it a string, a tuple of Messages or None"
        )
    return None


def _documents(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_type(result, Iterator, "an iterator")


def _fingerprint(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if isinstance(result, str) and not result:
        return "gave an empty string, and one that tells these documents from others was expected"
    return wrong_type(result, str, "a string")


def _skipped(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_type(result, Skipped, "a Skipped")


def _requests(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, Sequence):
        return f"gave {described(result)}, and a sequence of requests was expected"
    for request in result:
        if not isinstance(request, (GenerationRequest, LikelihoodRequest)):
            return f"gave {described(request)} as a request: make it a GenerationRequest or LikelihoodRequest"
        parts: dict[str, tuple[Any, type]] = {
            "task_id": (request.task_id, str),
            "setting": (request.setting, str),
        }
        if isinstance(request, GenerationRequest):
            parts["gap"] = (request.gap, Gap)
        else:
            parts["text"] = (request.text, str)
        for name, (value, wanted) in parts.items():
            if not isinstance(value, wanted):
                return f"gave a request whose {name} is {described(value)}: make it a {wanted.__name__}"
    repeated = [
        key for key, count in Counter((each.task_id, each.setting) for each in result).items() if count > 1
    ]
    if repeated:
        task, setting = repeated[0]
        return (
            f"asks task {task!r} more than once in setting {setting!r}, so that answers can't be told apart: "
            f"give each its own `setting`"
        )
    return None


def _scores(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, Scores):
        return f"gave {described(result)}, and Scores were expected"
    for name, values, wanted in (
        ("metrics", result.metrics, Metric),
        ("per_task", result.per_task, Mapping),
        ("verdicts", result.verdicts, str),
    ):
        if not isinstance(values, Mapping):
            return f"gave Scores whose {name} are {described(values)}: make them a mapping"
        for key, value in values.items():
            if not isinstance(value, wanted):
                return f"gave {described(value)} as {name}[{key!r}]: make it a {wanted.__name__}"
    if not isinstance(result.notes, tuple) or not all(isinstance(note, str) for note in result.notes):
        return f"gave notes {result.notes!r:.60}: make them a tuple of strings"
    return None


def _quick_score(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if result is None:
        return LOOK_AGAIN
    return wrong_type(result, (int, float), "a number or None")


def _task(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_type(result, str, "a task id")


def _problems(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, Sequence) or not all(isinstance(each, Problem) for each in result):
        return f"gave {described(result)}, and a sequence of Problems was expected"
    repeated = [key for key, count in Counter(each.task_id for each in result).items() if count > 1]
    return f"gives problem {repeated[0]!r} more than once: give each its own `task_id`" if repeated else None


def _rewards(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    """Every call's: one number that is none would be in every weight a step later."""
    completions = given[0]
    if not isinstance(result, Sequence) or len(result) != len(completions):
        came = f"a list of {len(result)}" if isinstance(result, Sequence) else described(result)
        return f"gave {came} for {len(completions)} answers: give a list of one number each, in their order"
    low, high = plugin.bounds
    for value, completion in zip(result, completions, strict=True):
        if not isinstance(value, (int, float)):
            issue = f"gave {described(value)}, and a number was expected,"
        elif not math.isfinite(value):
            issue = f"gave {value}, and a finite number was expected,"
        elif not low - _ROUNDING <= value <= high + _ROUNDING:
            issue = f"gave {value:g}, where its `bounds` are {low:g} and {high:g},"
        else:
            continue
        return f"{issue} for answer {completion.sample} to problem {completion.problem.task_id!r}"
    return LOOK_AGAIN


def _issue(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return LOOK_AGAIN if result is None else wrong_type(result, str, "what is wrong in words, or None,")


def _ends(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    numbers = isinstance(result, tuple) and [isinstance(each, (int, float)) for each in result]
    if numbers == [True, True]:
        return None
    return f"gave {result!r:.60}, and two numbers were expected: (alpha(0), alpha(1))"


def _like_time(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_tensor(result, "float", list(given[0].shape), "the shape of t")


def _noise_mass(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, NoiseMass):
        return f"gave {described(result)}, and a NoiseMass was expected"
    shape = list(given[0].shape)
    return wrong_tensor(result.mask, "float", shape, "mask in the shape of t") or wrong_tensor(
        result.other, "float", shape, "other in the shape of t"
    )


def _remaining(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_type(result, Sequence, "a list of whole numbers, one a step,")


def _times(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if result is None:
        return LOOK_AGAIN
    return wrong_tensor(result, "float", list(given[0].shape), "a time for each row")


def _suppressed(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, Mapping):
        return f"gave {described(result)}, and a mapping from token ids was expected"
    for token, where in result.items():
        if not isinstance(token, int):
            return f"gave {token!r} as a token id: make it an int"
        if not isinstance(where, bool):
            issue = wrong_tensor(
                where, "bool", list(given[1].shape), "rows in which it is suppressed, or True"
            )
            if issue is not None:
                return issue
    return None


RESULT_CHECKS: Mapping[tuple[str, str], Check] = {
    **MODEL_CHECKS,
    **OBJECTIVE_CHECKS,
    **POLICY_CHECKS,
    ("Benchmark", "requests"): _requests,
    ("Benchmark", "score"): _scores,
    ("Benchmark", "quick_score"): _quick_score,
    ("Benchmark", "task_of"): _task,
    ("Benchmark", "training_problems"): _problems,
    ("Corpus", "documents"): _documents,
    ("Corpus", "fingerprint"): _fingerprint,
    ("Corpus", "skipped"): _skipped,
    ("NoiseSchedule", "ends"): _ends,
    ("NoiseSchedule", "alpha"): _like_time,
    ("NoiseSchedule", "alpha_prime"): _like_time,
    ("NoiseSchedule", "elbo_weight"): _like_time,
    ("NoiseSchedule", "mask_probability"): _like_time,
    ("NoiseSchedule", "time_of"): _like_time,
    ("NoiseSchedule", "noise_mass"): _noise_mass,
    ("NoiseSchedule", "noise_mass_prime"): _noise_mass,
    ("Reward", "values"): _rewards,
    ("Reward", "issue_with"): _issue,
    ("Sampler", "remaining_masks"): _remaining,
    ("Sampler", "suppressed_tokens"): _suppressed,
    ("Sampler", "times"): _times,
}
"""By contract and method; of the first call of each plugin."""
ITEM_CHECKS: Mapping[tuple[str, str], ItemCheck] = {("Corpus", "documents"): _document}
"""By contract and method; of everything that is yielded."""

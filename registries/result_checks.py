"""What the contracts' methods have to return: looked at when a plugin is first called.

Each check says what is wrong in words that complete "samplers/x of package 0.1: select ...".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opendllm.registries.attribute_checks import wrong_attribute
from opendllm.registries.backbones import CanvasReader, DiffusionLM, DistributionLoss
from opendllm.registries.benchmarks import GenerationRequest, LikelihoodRequest, Metric, Scores
from opendllm.registries.corpora import Document, Message, Skipped
from opendllm.registries.gaps import Gap
from opendllm.registries.noise_schedules import NoiseMass
from opendllm.registries.objectives import Corruption, Masking
from opendllm.registries.plugin_calls import LOOK_AGAIN, Check, ItemCheck
from opendllm.registries.policy_checks import POLICY_CHECKS
from opendllm.registries.problems import Problem
from opendllm.registries.tensor_checks import described, wrong_tensor

_ROUNDING = 1e-9
_LEAVE = "leave positions alone where `rows.maskable` is False"


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
    return _a(Iterator, "an iterator", result)


def _fingerprint(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if isinstance(result, str) and not result:
        return "gave an empty string, and one that tells these documents from others was expected"
    return _a(str, "a string", result)


def _skipped(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return _a(Skipped, "a Skipped", result)


def _a(wanted: type | tuple[type, ...], what: str, result: Any) -> str | None:
    """What is wrong with a result that should be of a class."""
    return None if isinstance(result, wanted) else f"gave {described(result)}, and {what} was expected"


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
    return _a((int, float), "a number or None", result)


def _task(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return _a(str, "a task id", result)


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
    return LOOK_AGAIN if result is None else _a(str, "what is wrong in words, or None,", result)


def _ends(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    numbers = isinstance(result, tuple) and [isinstance(each, (int, float)) for each in result]
    if numbers == [True, True]:
        return None
    return f"gave {result!r:.60}, and two numbers were expected: (alpha(0), alpha(1))"


def _like_time(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_tensor(result, "float", list(given[0].shape), "the shape of t")


def _masking(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, Masking):
        return f"gave {described(result)}, and a Masking was expected"
    rows = result.rows
    shape = list(rows.maskable.shape)
    for name, kind in (("masked", "bool"), ("mask_probability", "float"), ("time", "float")):
        issue = wrong_tensor(getattr(result, name), kind, shape, f"{name} [B, L]")
        if issue is not None:
            return issue
    maskable = rows.maskable
    if list(given[0].maskable.shape) == shape:
        maskable = maskable & given[0].maskable
    wrong = int((result.masked & ~maskable).sum())
    if wrong:
        return f"masked {wrong} tokens of prompts or padding: {_LEAVE}"
    if result.noisy is not None:
        issue = wrong_tensor(result.noisy, "int64", shape, "noisy [B, L]")
        if issue is not None:
            return issue
        wrong = int(((result.noisy != rows.tokens) & ~maskable).sum())
        if wrong:
            return f"replaced {wrong} tokens of prompts or padding: {_LEAVE}"
    return _unless_all(maskable)


def _corruption(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, Corruption):
        return f"gave {described(result)}, and a Corruption was expected"
    read, scored = result.inputs.tokens, result.scored
    shape = list(read.shape)
    issue = (
        wrong_tensor(read, "int64", shape, "tokens to read")
        or wrong_tensor(result.targets, "int64", shape, "targets as large as the inputs")
        or wrong_tensor(scored, "bool", shape, "scored as large as the inputs")
    )
    if issue is None:
        count = [int(scored.sum())]
        issue = wrong_tensor(result.weight, "float", count, "one weight a scored position") or wrong_tensor(
            result.count, "float", [], "a scalar count"
        )
        if issue is None and result.time is not None:
            issue = wrong_tensor(result.time, "float", count, "one time a scored position")
    if issue is None and plugin.reads_distributions and (result.time is None or result.ids is None):
        issue = "gave no `time` or no `ids`, which an objective that reads distributions needs"
    return issue or _prompts_kept(given[0].rows, result)


def _prompts_kept(rows: Any, result: Corruption) -> str | None:
    """Whether prompts and padding are read as they are, and not scored; in each copy and half of a row."""
    read = result.inputs.tokens
    (count, length), (rows_read, columns) = rows.tokens.shape, read.shape
    if rows_read % count or columns % length:
        return None
    copies, halves = rows_read // count, columns // length
    clean, maskable = (
        each.repeat_interleave(copies, 0).repeat(1, halves) for each in (rows.tokens, rows.maskable)
    )
    wrong = int(((read != clean) & ~maskable).sum())
    if wrong:
        return f"changed {wrong} tokens of prompts or padding: {_LEAVE}"
    wrong = int((result.scored & ~maskable).sum())
    if wrong:
        return f"scored {wrong} tokens of prompts or padding: {_LEAVE}"
    return _unless_all(maskable)


def _unless_all(maskable: Any) -> str | None:
    """A batch without prompts and padding shows nothing of what becomes of them."""
    return LOOK_AGAIN if bool(maskable.all()) else None


def _noise_mass(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, NoiseMass):
        return f"gave {described(result)}, and a NoiseMass was expected"
    shape = list(given[0].shape)
    return wrong_tensor(result.mask, "float", shape, "mask in the shape of t") or wrong_tensor(
        result.other, "float", shape, "other in the shape of t"
    )


def _losses(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_tensor(result, "float", [len(given[0])], "one loss a position")


def _sum(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_tensor(result, "float", [], "a sum")


def _answers(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, tuple) or len(result) != 2:
        return f"gave {described(result)}, and a loss and whether it counts were expected"
    losses, counted = result
    return _losses(plugin, given, losses) or wrong_tensor(
        counted, "bool", [len(given[0])], "whether each one counts"
    )


def _loss_part(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if callable(result) or isinstance(result, DistributionLoss):
        return None
    return f"gave {described(result)}, and a LossPart was expected: a function, or a DistributionLoss"


def _answer_count(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return _a(DistributionLoss, "a DistributionLoss", result)


def _model(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, DiffusionLM):
        return (
            f"gave {described(result)}, and a DiffusionLM was expected: derive its class from "
            f"opendllm.registries.backbones.DiffusionLM"
        )
    issue = wrong_attribute(result, DiffusionLM)
    return None if issue is None else f"gave a model whose {issue}"


def _predictors(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_tensor(result, "int64", list(given[0].shape), "a column for each position")


def _reader(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return _a(CanvasReader, "a CanvasReader", result)


def _read(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    count = len(given[1].rows)
    if len(getattr(result, "shape", ())) != 2 or "float" not in str(result.dtype) or len(result) != count:
        return f"gave {described(result)}, and float [{count}, D] was expected: one state a position"
    return None


def _replaced(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return _a(bool, "whether it does", result)


def _fixed(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if result is None or (isinstance(result, int) and not isinstance(result, bool)):
        return None
    return f"gave {described(result)}, and a number of bytes, or None, was expected"


def _network(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return None if hasattr(result, "state_dict") else f"gave {described(result)}, and a module was expected"


def _stops(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if isinstance(result, tuple) and all(isinstance(each, int) for each in result):
        return None
    return f"gave {result!r:.60}, and a tuple of token ids was expected"


def _remaining(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return _a(Sequence, "a list of whole numbers, one a step,", result)


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


def _logits(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    shape = [*given[0].shape[:-1], plugin.vocab_size]
    return wrong_tensor(result, "float", shape, "one logit a token of `vocab_size`")


def _likelihoods(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_tensor(result, "float", [int(given[2].sum())], "one likelihood a scored position")


def _states(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    shape = list(given[0].tokens.shape)
    found = getattr(result, "shape", ())
    if len(found) != len(shape) + 1 or list(found[:-1]) != shape or "float" not in str(result.dtype):
        return f"gave {described(result)}, and float [{', '.join(map(str, shape))}, D] was expected"
    return None


RESULT_CHECKS: Mapping[tuple[str, str], Check] = {
    **POLICY_CHECKS,
    ("Backbone", "build"): _model,
    ("Backbone", "load"): _model,
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
    ("Objective", "position_losses"): _losses,
    ("Objective", "answer_losses"): _answers,
    ("Objective", "loss_sum"): _sum,
    ("Objective", "loss_part"): _loss_part,
    ("Objective", "answer_count"): _answer_count,
    ("Objective", "mask"): _masking,
    ("Objective", "corrupt"): _corruption,
    ("Reward", "values"): _rewards,
    ("Reward", "issue_with"): _issue,
    ("Sampler", "remaining_masks"): _remaining,
    ("Sampler", "suppressed_tokens"): _suppressed,
    ("Sampler", "times"): _times,
    ("DiffusionLM", "project"): _logits,
    ("DiffusionLM", "hidden_states"): _states,
    ("DiffusionLM", "network"): _network,
    ("DiffusionLM", "predictors"): _predictors,
    ("DiffusionLM", "reader"): _reader,
    ("DiffusionLM", "stops"): _stops,
    ("CanvasReader", "states"): _read,
    ("CanvasReader", "replace_rows"): _replaced,
    ("CanvasReader", "fix_memory"): _fixed,
    ("DiffusionLM", "negative_log_likelihood"): _likelihoods,
}
"""By contract and method; of the first call of each plugin."""
ITEM_CHECKS: Mapping[tuple[str, str], ItemCheck] = {("Corpus", "documents"): _document}
"""By contract and method; of everything that is yielded."""

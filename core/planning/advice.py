"""What to do where memory doesn't suffice: only options that there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.core.manifest.train_schema import Train
from opendllm.core.planning.devices import GIB
from opendllm.core.planning.evaluation_plan import EvaluationPlan
from opendllm.core.planning.forward_costs import Loaded
from opendllm.core.planning.hardware import Hardware
from opendllm.core.planning.plan import Plan, plan
from opendllm.registries.errors import UserError

USABLE = 0.9
"""Of a device's memory, what `device_map: auto` fills."""


def advice(variant: Variant, found: Plan, hardware: Hardware) -> list[str]:
    """A line for each part of a variant that a device can't hold."""
    lines = []
    if found.training is not None and found.training.memory > hardware.device.memory:
        needed = _gib(found.training.memory)
        lines.append(f"training needs {needed}, more than {_has(hardware)}: {_training(variant, hardware)}")
    unfit = [each for each in found.evaluations if (each.memory or 0) > hardware.device.memory]
    if unfit:
        worst = max(unfit, key=lambda each: each.memory or 0)
        names = ", ".join(each.label for each in unfit)
        lines.append(
            f"evaluating ({names}) needs {_gib(worst.memory or 0)}, more than {_has(hardware)}: "
            f"{_evaluation(variant, found, worst, hardware)}"
        )
    return lines


def _training(variant: Variant, hardware: Hardware) -> str:
    """Options one after the other, until it fits."""
    taken: list[str] = []
    memory = 0
    for text, changes in _training_options(hardware):
        changed = _with_train(variant, changes)
        if changed is None:
            continue
        try:
            tried = plan(_without_evaluations(changed), hardware).training
        except UserError:
            continue
        before = plan(_without_evaluations(variant), hardware).training
        if tried is None or before is None or tried.memory >= before.memory:
            continue
        variant, memory = changed, tried.memory
        taken.append(text)
        if memory <= hardware.device.memory:
            return f"with {', '.join(taken)} it is {_gib(memory)}"
    if not taken:
        return "no option makes it less: take more devices (--devices) and a ZeRO stage, or a larger one"
    rest = (
        "" if hardware.devices > 1 else "; more devices (--devices) can share weights and optimizer by ZeRO"
    )
    return f"with {', '.join(taken)} it is still {_gib(memory)}{rest}"


def _training_options(hardware: Hardware) -> Iterator[tuple[str, Callable[[dict[str, Any]], None]]]:
    """(as the manifest says it, what it does to a dumped `train`); none of them changes what is learnt."""

    def stage(number: int) -> Callable[[dict[str, Any]], None]:
        def change(train: dict[str, Any]) -> None:
            zero = train["deepspeed"]["zero_optimization"]
            zero["stage"] = max(number, zero["stage"])

        return change

    def offload(train: dict[str, Any]) -> None:
        zero = train["deepspeed"]["zero_optimization"]
        zero.update(stage=max(1, zero["stage"]), offload_optimizer=True)

    yield "micro_batch_size: 1", lambda train: train.update(micro_batch_size=1)
    several = hardware.devices > 1
    if several:
        yield "ZeRO stage 1", stage(1)
        yield "ZeRO stage 2", stage(2)
    yield "activation_checkpointing: true", lambda train: train.update(activation_checkpointing=True)
    if several:
        yield "ZeRO stage 3", stage(3)
    if hardware.device.is_gpu:
        yield "offload_optimizer: true (from ZeRO stage 1 on)", offload


def _with_train(variant: Variant, change: Callable[[dict[str, Any]], None]) -> Variant | None:
    train = variant.manifest.train
    assert train is not None
    content = train.model_dump()
    change(content)
    try:
        changed = Train.model_validate(content)
    except ValidationError:  # it doesn't go with the others
        return None
    return replace(variant, manifest=variant.manifest.model_copy(update={"train": changed}))


def _without_evaluations(variant: Variant) -> Variant:
    return replace(variant, manifest=variant.manifest.model_copy(update={"evaluate": ()}))


def _evaluation(variant: Variant, found: Plan, worst: EvaluationPlan, hardware: Hardware) -> str:
    """A smaller batch where that is enough; else another way of holding the weights."""
    limit, batch = hardware.device.memory, worst.batch
    fits = _batch_that_fits(worst, worst.weights, limit)
    if fits:
        return f"batch_size: {fits} fits" if batch > 1 else "it just fits"
    options = variant.plugins.backbone.options
    ways = []
    if options.pretrained is not None and variant.manifest.train is None and found.architecture is not None:
        number = worst.weights // max(1, found.architecture.parameters)
        if not options.load_in_8bit and options.device_map is None and number > 1:
            in_8bit = replace(worst, weights=Loaded(found.architecture, number, in_8bit=True).weights)
            fits = _batch_that_fits(in_8bit, in_8bit.weights, limit)
            if fits:
                ways.append(f"load_in_8bit: true with batch_size: {fits}")
        if hardware.device.is_gpu:
            ways += _spread(worst, hardware)
    return " or ".join(ways) or "no option makes it less: take a device with more memory"


def _batch_that_fits(evaluation: EvaluationPlan, weights: int, limit: float) -> int:
    """The largest power of two of rows, at most its own batch, whose keys and activations fit; 0 for none.

    Logits come in chunks of which one remains, so that they are taken as they are.
    """
    left = limit - weights - evaluation.logits
    a_row = (evaluation.keys_values + (evaluation.activations or 0)) / evaluation.batch
    rows = min(evaluation.batch, int(left // max(1.0, a_row))) if left > 0 else 0
    return 1 << (rows.bit_length() - 1) if rows else 0


def _spread(evaluation: EvaluationPlan, hardware: Hardware) -> list[str]:
    """Over how many devices weights and keys fit, with its own batch where that can be."""
    already = max(1, hardware.devices if evaluation.spread else 1)
    whole = (evaluation.weights + evaluation.keys_values) * already
    limit = USABLE * hardware.device.memory
    for batch in (evaluation.batch, 1):
        share = batch / evaluation.batch
        keys = evaluation.keys_values * already * (1 - share)
        left = limit - (evaluation.activations or 0) * share - evaluation.logits
        if left <= 0:
            continue
        devices = max(2, math.ceil((whole - keys) / left))
        memory = (whole - keys) / devices + limit - left
        smaller = "" if batch == evaluation.batch else f" with batch_size: {batch}"
        return [f"device_map: auto over {devices} x {hardware.device.name}{smaller} ({_gib(memory)} each)"]
    return []


def _has(hardware: Hardware) -> str:
    one = hardware.device
    return f"the {_gib(one.memory)} of one {one.name}" if one.is_gpu else f"this machine's {_gib(one.memory)}"


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB"

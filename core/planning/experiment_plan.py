"""What a whole experiment will cost: what variants share is counted once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from opendllm.core.foundation.json_objects import digest
from opendllm.core.manifest.checks import generation_of
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.core.planning.hardware import Hardware
from opendllm.core.planning.needs import to_download
from opendllm.core.planning.plan import Plan, plan
from opendllm.registries.options import only_asks_likelihoods

_ASKED = {"benchmark", "problem_seed", "likelihood_estimator", "likelihood_draws"}
"""Keys of an `evaluate` entry that a likelihood hangs on."""


@dataclass(frozen=True)
class Total:
    """Of all variants, as far as it is known.

    Attributes:
        seconds: of training and evaluating them one after the other.
        device_hours: the same, times the devices.
        memory: the most that a device needs, in bytes; None where nothing is known.
        disk: of the checkpoints that are kept, in bytes.
        download: of checkpoints that aren't here, in bytes.
        at_most: whether the data decides, so that it may be less.
        unknown: what isn't counted, as `VARIANT` or `VARIANT: LABEL`.
    """

    seconds: float
    device_hours: float
    memory: int | None
    disk: int
    download: int
    at_most: bool
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class ExperimentPlan:
    """Of a manifest, by variant."""

    variants: dict[str, Plan]
    total: Total


def plan_experiment(variants: Sequence[Variant], hardware: Hardware, ask: bool = False) -> ExperimentPlan:
    """What all variants will cost.

    Args:
        variants: in their order; the first of those that share a training run has it.
        hardware: what they run on, one after the other.
        ask: see `plan`.

    Raises:
        UserError: see `plan`.
    """
    trained: dict[str, str] = {}
    answered: dict[str, str] = {}
    plans = {}
    for variant in variants:
        found = plan(variant, hardware, ask)
        evaluations = []
        for index, each in enumerate(found.evaluations):
            first = answered.setdefault(_likelihoods_of(variant, index), variant.name)
            evaluations.append(replace(each, answered_in="" if first == variant.name else first))
        found = replace(found, evaluations=tuple(evaluations))
        if variant.manifest.train is not None:
            first = trained.setdefault(variant.shared_training, variant.name)
            if first != variant.name:
                found = replace(found, training=None, trained_in=first)
        wanted = to_download(variant)
        if wanted is not None and found.architecture is not None:
            found = replace(found, download=(wanted, 2 * found.architecture.parameters))
        plans[variant.name] = found
    return ExperimentPlan(plans, _total(plans, hardware))


def _likelihoods_of(variant: Variant, index: int) -> str:
    """The same for entries whose likelihoods the evaluator takes over: none of those that write texts."""
    entry = variant.manifest.evaluate[index]
    own = (variant.name, index)
    if only_asks_likelihoods(variant.plugins.evaluations[index].benchmark.options):
        own = (variant.shared_training, -1)
    asked = entry.model_dump(mode="json", include=_ASKED)
    return digest([own, asked, generation_of(variant.manifest, index).chat])


def _total(plans: dict[str, Plan], hardware: Hardware) -> Total:
    trainings = [found.training for found in plans.values() if found.training is not None]
    evaluations = [
        each
        for found in plans.values()
        for each in found.evaluations
        if not each.unknown and not each.answered_in
    ]
    seconds = sum(each.seconds for each in trainings) + sum(each.seconds for each in evaluations)
    memories = [found.memory for found in plans.values() if found.memory is not None]
    unknown = [name for name, found in plans.items() if found.unknown]
    unknown += [
        f"{name}: {each.label}"
        for name, found in plans.items()
        for each in found.evaluations
        if each.unknown and not found.unknown
    ]
    return Total(
        seconds=seconds,
        device_hours=seconds * hardware.devices / 3600,
        memory=max(memories, default=None),
        disk=sum(each.checkpoint * each.checkpoints for each in trainings),
        download=sum(dict(each.download for each in plans.values() if each.download is not None).values()),
        at_most=any(each.at_most for each in evaluations),
        unknown=tuple(unknown),
    )

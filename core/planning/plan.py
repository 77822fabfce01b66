"""What a variant will cost: its model, its training, its benchmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opendllm.core.checkpoints.files import model_folder
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.core.planning.canvas_pattern import Pattern
from opendllm.core.planning.endpoint_plan import requests_to
from opendllm.core.planning.evaluation_plan import Evaluated, EvaluationPlan, plan_evaluation
from opendllm.core.planning.forward_costs import Loaded
from opendllm.core.planning.hardware import Hardware
from opendllm.core.planning.reward_plan import RolloutPlan, longest_prompt, plan_rewards
from opendllm.core.planning.training_plan import TrainingPlan, plan_training
from opendllm.registries.architecture import Architecture, Sizes
from opendllm.registries.backbones import Backbone
from opendllm.registries.errors import UserError
from opendllm.registries.options import BackboneOptions
from opendllm.registries.registry import ChosenPlugin

UNKNOWN_VOCABULARY = 1 << 15
"""Entries of a vocabulary that nobody says the size of."""
_FLOAT32 = ("float32", "torch.float32")


@dataclass(frozen=True)
class Plan:
    """Of one variant.

    Attributes:
        architecture: None where the backbone doesn't tell.
        training: None where the variant is only evaluated, or nobody knows the sizes.
        unknown: why nothing is known of the sizes, and what to do; empty where they are.
        evaluations: one for each entry of `evaluate`.
        trained_in: the variant whose training run this one shares; empty where it has its own, or none.
        rollouts: of a variant that learns from rewards; None of others.
        download: what comes from the hub, and bytes of it; None where it is here, or none is wanted.
    """

    architecture: Sizes | None
    training: TrainingPlan | None
    unknown: str = ""
    evaluations: tuple[EvaluationPlan, ...] = ()
    trained_in: str = ""
    download: tuple[str, int] | None = None
    rollouts: RolloutPlan | None = None

    @property
    def memory(self) -> int | None:
        """The most that a device needs, of what is known; None where nothing is."""
        found = [each.memory for each in self.evaluations if each.memory is not None]
        found += [self.training.memory] if self.training is not None else []
        return max(found, default=None)


def plan(variant: Variant, hardware: Hardware, ask: bool = False) -> Plan:
    """What a variant will cost, alone.

    Args:
        variant: the variant.
        hardware: what it is to run on.
        ask: whether benchmarks may be loaded to be counted, which may download their problems.

    Raises:
        UserError: the batch doesn't divide.
    """
    manifest = variant.manifest
    if manifest.endpoint is not None:
        entries = range(len(manifest.evaluate))
        asked = tuple(requests_to(manifest.endpoint, variant, index, ask) for index in entries)
        return Plan(None, None, f"the sizes of {manifest.endpoint.called}", asked)
    try:
        variant = _with_model_folder(variant)
    except UserError as error:
        return Plan(None, None, str(error), _unknown_evaluations(variant))
    backbone = variant.plugins.backbone
    tokenizer = manifest.data.tokenizer if manifest.data else None
    trained_size = tokenizer.train.vocab_size if tokenizer and tokenizer.train else None
    architecture = backbone.options.architecture(trained_size)
    if architecture is None:
        return Plan(None, None, _unknown(backbone), _unknown_evaluations(variant))
    vocab_size = architecture.vocab_size if isinstance(architecture, Architecture) else trained_size
    config = _local_config(backbone.options)
    evaluated = Evaluated(
        variant,
        _loaded(variant, architecture, hardware, config),
        _pattern(backbone.options, config),
        hardware,
        vocab_size or UNKNOWN_VOCABULARY,
    )
    found = Plan(
        architecture,
        None,
        evaluations=tuple(plan_evaluation(evaluated, index, ask) for index in range(len(manifest.evaluate))),
    )
    training = variant.plugins.training
    if manifest.train is None or training is None:
        return found
    if manifest.train.rl is not None:
        prompt = longest_prompt(manifest.train.rl.problems)
        steps, rollouts = plan_rewards(
            manifest.train, training.objective.options, prompt, architecture, hardware
        )
        return replace(found, training=steps, rollouts=rollouts)
    assert manifest.data is not None
    objective, length = training.objective.options, manifest.data.sequence_length
    return replace(found, training=plan_training(manifest.train, objective, length, architecture, hardware))


def _with_model_folder(variant: Variant) -> Variant:
    """Where it begins with a run's variant or a checkpoint, as `run` takes them, with the model's own folder.

    Raises:
        UserError: there is no model in the folder that it names.
    """
    backbone = variant.plugins.backbone
    pretrained = backbone.options.pretrained
    if pretrained is None or not Path(pretrained).expanduser().exists():
        return variant
    folder = str(model_folder(Path(pretrained).expanduser()))
    own = replace(backbone, options=backbone.options.model_copy(update={"pretrained": folder}))
    return replace(variant, plugins=replace(variant.plugins, own_backbone=own))


def weight_bytes(variant: Variant, config: Mapping[str, Any]) -> int:
    """Bytes of a weight that is evaluated.

    Trained here as it was trained, of a folder as its config.json says, and of the hub 2: bf16 is what most
    are published in.
    """
    train, pretrained = variant.manifest.train, variant.plugins.backbone.options.pretrained
    if train is not None:
        return 2 if train.precision == "bf16" else 4
    if pretrained is None:
        return 4
    return 4 if str(config.get("dtype") or config.get("torch_dtype")) in _FLOAT32 else 2


def _loaded(variant: Variant, sizes: Sizes, hardware: Hardware, config: Mapping[str, Any]) -> Loaded:
    """As `load_replicas` has it: whole on each device, or spread over all."""
    options = variant.plugins.backbone.options
    published = options.pretrained is not None and variant.manifest.train is None
    return Loaded(
        sizes,
        weight_bytes(variant, config),
        in_8bit=published and options.load_in_8bit,
        devices=hardware.devices if published and options.device_map else 1,
    )


def _pattern(options: BackboneOptions, config: Mapping[str, Any]) -> Pattern:
    """The checkpoint's; what the options say goes before its file."""
    own = config.get("open_dllm")
    stored = own if isinstance(own, dict) else {}
    given = options.model_fields_set
    attention = options.attention if "attention" in given else stored.get("attention", options.attention)
    if attention != "block-causal":
        return Pattern(attention)
    length = options.block_length or stored.get("block_length") or options.published_block_length
    return Pattern(attention, length)


def _local_config(options: BackboneOptions) -> dict[str, Any]:
    """The config.json of a checkpoint that lies on this machine; its damage is the architecture's to name."""
    if options.pretrained is None:
        return {}
    path = Path(options.pretrained).expanduser() / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _unknown_evaluations(variant: Variant) -> tuple[EvaluationPlan, ...]:
    labels = [entry.label or entry.benchmark.name for entry in variant.manifest.evaluate]
    return tuple(EvaluationPlan(label, "the model's sizes aren't known") for label in labels)


def _unknown(backbone: ChosenPlugin[Backbone, BackboneOptions]) -> str:
    """Why a backbone's sizes aren't known, and which of its own options would say them."""
    own = type(backbone.options).model_fields
    given = backbone.options.model_dump(exclude_unset=True)
    ways = ["name its `preset`"] if "preset" in own and "preset" not in given else []
    ways += ["give its folder as `pretrained`"] if backbone.options.pretrained is None else []
    told = type(backbone.options).architecture is not BackboneOptions.architecture
    if not told:
        return f"backbone {backbone.name!r} has no `architecture` in its options, which says its sizes"
    todo = " or ".join(ways) or "see its options"
    return f"backbone {backbone.name!r} cannot tell its sizes from {given}: {todo}"

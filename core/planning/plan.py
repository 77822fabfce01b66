"""Parameters, tokens, operations, memory, disk and time of a variant's training."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from opendllm.core.foundation.hub import in_hub_cache
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.core.manifest.train_schema import Train
from opendllm.core.planning.devices import ASSUMED, PEAK_TFLOPS
from opendllm.core.training.settings import batch_shape, zero_stage
from opendllm.registries.architecture import Architecture, Sizes
from opendllm.registries.backbones import Backbone
from opendllm.registries.options import BackboneOptions, ObjectiveOptions
from opendllm.registries.registry import ChosenPlugin

OPTIMIZER_NUMBERS = {"fp32": 2, "bf16": 3}
"""Two moments a parameter and, beside bf16 weights, those that ZeRO steps on."""


@dataclass(frozen=True)
class Hardware:
    """What it is to run on.

    Attributes:
        devices: how many, all training together.
        peak_tflops: of one device, in 10^12 operations a second; None for that of `model`.
        utilisation: share of the peak that is reached.
        model: one of `PEAK_TFLOPS`.
    """

    devices: int
    peak_tflops: float | None
    utilisation: float
    model: str = ASSUMED


@dataclass(frozen=True)
class TrainingPlan:
    """Of one training run; sizes in bytes.

    Attributes:
        tokens: read in all steps.
        flops: of forward and backward passes, in all steps.
        weights: held by a device, as are the following.
        gradients: see weights.
        optimizer: moments and, beside bf16 weights, those that it steps on.
        activations: an estimate, for one micro-batch: a gated block keeps about eight tensors of the
            model's width and four of the feed-forward's; None where its widths aren't known.
        checkpoint: one step's folder on disk.
        seconds: at the hardware's utilisation.
    """

    tokens: int
    flops: float
    weights: int
    gradients: int
    optimizer: int
    activations: int | None
    checkpoint: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """Of one variant.

    Attributes:
        architecture: None where the backbone doesn't tell.
        training: None where the variant is only evaluated, or nobody knows the sizes.
        unknown: why nothing is known of the sizes, and what to do; empty where they are.
    """

    architecture: Sizes | None
    training: TrainingPlan | None
    unknown: str = ""


def plan(variant: Variant, hardware: Hardware) -> Plan:
    """What a variant will cost.

    Raises:
        UserError: the batch doesn't divide.
    """
    manifest, backbone = variant.manifest, variant.plugins.backbone
    tokenizer = manifest.data.tokenizer if manifest.data else None
    trained_size = tokenizer.train.vocab_size if tokenizer and tokenizer.train else None
    architecture = backbone.options.architecture(trained_size)
    if architecture is None:
        return Plan(None, None, _unknown(backbone))
    training = variant.plugins.training
    if manifest.train is None or manifest.data is None or training is None:
        return Plan(architecture, None)
    objective = training.objective.options
    length = manifest.data.sequence_length
    return Plan(architecture, _training(manifest.train, objective, length, architecture, hardware))


def missing(variant: Variant) -> list[str]:
    """What a variant needs that isn't on this machine, each with what to do."""
    found = []
    train, backbone = variant.manifest.train, variant.plugins.backbone.options
    packages: list[str] = list(train.trackers) if train else []
    packages += ["peft"] if train and train.lora else []
    packages += ["torchao", "accelerate"] if getattr(backbone, "load_in_8bit", False) else []
    packages += ["accelerate"] if getattr(backbone, "device_map", None) else []
    for package in dict.fromkeys(packages):
        if importlib.util.find_spec(package) is None:
            found.append(f"the package {package}: pip install {package}")
    pretrained = backbone.pretrained
    if pretrained and not Path(pretrained).expanduser().exists() and not in_hub_cache(pretrained):
        found.append(f"{pretrained}: is downloaded from the hub when the run begins")
    return found


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


def _training(
    train: Train,
    objective: ObjectiveOptions,
    sequence_length: int,
    architecture: Sizes,
    hardware: Hardware,
) -> TrainingPlan:
    micro_batch, _ = batch_shape(train, hardware.devices)
    parameters = architecture.parameters
    number = 2 if train.precision == "bf16" else 4
    kept = OPTIMIZER_NUMBERS[train.precision] * (4 if train.master_weights else 2)
    zero, stage = train.deepspeed.zero_optimization, zero_stage(train)
    tokens = train.steps * train.global_batch_size * sequence_length
    length = sequence_length * objective.positions_per_token
    read = objective.positions_per_token * objective.copies_per_row
    flops = architecture.training_flops(
        tokens * read, length, objective.scored_share / objective.positions_per_token
    )
    peak = (hardware.peak_tflops or PEAK_TFLOPS[hardware.model][train.precision]) * 1e12
    return TrainingPlan(
        tokens=tokens,
        flops=flops,
        weights=0 if zero.offload_parameters else _share(parameters * number, stage >= 3, hardware),
        gradients=_share(parameters * number, stage >= 2, hardware),
        optimizer=0 if zero.offload_optimizer else _share(parameters * kept, stage >= 1, hardware),
        activations=(
            _activations(train, objective, architecture, micro_batch * sequence_length)
            if isinstance(architecture, Architecture)
            else None
        ),
        checkpoint=parameters * (2 * number + kept),
        seconds=flops / (hardware.devices * peak * hardware.utilisation),
    )


def _activations(
    train: Train, objective: ObjectiveOptions, architecture: Architecture, micro_tokens: int
) -> int:
    number = 2 if train.precision == "bf16" else 4
    read = objective.positions_per_token * objective.copies_per_row
    block = 8 * architecture.hidden_size + 4 * architecture.intermediate_size
    layers = micro_tokens * read * architecture.layers * block * number
    if train.activation_checkpointing:  # each layer's input, and one layer in full
        layers = layers // architecture.layers + (
            micro_tokens * read * architecture.layers * architecture.hidden_size * number
        )
    logits = (
        int(micro_tokens * objective.copies_per_row * objective.scored_share)
        * architecture.vocab_size
        * (number + 4)
    )
    return layers + logits


def _share(size: int, partitioned: bool, hardware: Hardware) -> int:
    return -(-size // hardware.devices) if partitioned else size

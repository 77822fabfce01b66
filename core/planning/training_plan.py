"""Tokens, operations, memory, disk and time of a variant's training."""

from __future__ import annotations

from dataclasses import dataclass

from opendllm.core.manifest.train_schema import Checkpointing, Train
from opendllm.core.networks.logit_chunks import rows_at_once
from opendllm.core.planning.hardware import Hardware
from opendllm.core.training.settings import batch_shape, zero_stage
from opendllm.registries.architecture import Architecture, Sizes
from opendllm.registries.options import ObjectiveOptions

OPTIMIZER_NUMBERS = {"fp32": 2, "bf16": 3}
"""Two moments a parameter and, beside bf16 weights, those that ZeRO steps on."""

FROZEN_SHARE = 2 / 3
"""Of the operations with weights that want no gradient: one of the three products with each."""
RECOMPUTED_SHARE = 4 / 3
"""Of a training's operations where activations are computed again: one more forward pass."""
UNCOMPILED_TIMES = 1.36
"""A GPU's time where layers aren't compiled: 0.5B at 4096 on an H100, 79,100 tokens a second for 107,600."""


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
            model's width and four of the feed-forward's, compiled three; uncompiled, both norms' inputs in
            float32 too. None where its widths aren't known.
        offloaded: held by the CPU's memory instead.
        checkpoint: one step's folder on disk; where adapters are trained, their base's weights too.
        checkpoints: how many of them are kept.
        seconds: at the hardware's utilisation; longer where activations are computed again, or nothing is
            compiled for a GPU.
    """

    tokens: int
    flops: float
    weights: int
    gradients: int
    optimizer: int
    activations: int | None
    offloaded: int
    checkpoint: int
    checkpoints: int
    seconds: float

    @property
    def memory(self) -> int:
        """Of a device, as far as it is known."""
        return self.weights + self.gradients + self.optimizer + (self.activations or 0)


def plan_training(
    train: Train,
    objective: ObjectiveOptions,
    sequence_length: int,
    architecture: Sizes,
    hardware: Hardware,
) -> TrainingPlan:
    """What the training costs.

    Raises:
        UserError: the batch doesn't divide.
    """
    micro_batch, _ = batch_shape(train, hardware.devices)
    parameters = trained = architecture.parameters
    if train.lora is not None and isinstance(architecture, Architecture):
        trained = architecture.adapter_parameters(train.lora.rank)
    number = 2 if train.precision == "bf16" else 4
    kept = OPTIMIZER_NUMBERS[train.precision] * (4 if train.master_weights else 2)
    zero, stage = train.deepspeed.zero_optimization, zero_stage(train)
    tokens = train.steps * train.global_batch_size * sequence_length
    length = sequence_length * objective.positions_per_token
    read = objective.positions_per_token * objective.copies_per_row
    flops = training_flops(
        architecture,
        (tokens * read, length, objective.scored_share / objective.positions_per_token),
        adapters=train.lora is not None,
    )
    longer = RECOMPUTED_SHARE if train.activation_checkpointing else 1.0
    if hardware.device.is_gpu and not train.compile:
        longer *= UNCOMPILED_TIMES
    weights = _share(parameters * number, stage >= 3, hardware)
    optimizer = _share(trained * kept, stage >= 1, hardware)
    return TrainingPlan(
        tokens=tokens,
        flops=flops,
        weights=0 if zero.offload_parameters else weights,
        gradients=_share(trained * number, stage >= 2, hardware),
        optimizer=0 if zero.offload_optimizer else optimizer,
        activations=(
            _activations(train, objective, architecture, (micro_batch * sequence_length, hardware))
            if isinstance(architecture, Architecture)
            else None
        ),
        offloaded=(weights if zero.offload_parameters else 0) + (optimizer if zero.offload_optimizer else 0),
        checkpoint=2 * parameters * number + trained * kept,
        checkpoints=_kept(train.checkpoint, train.steps),
        seconds=longer * hardware.seconds(flops, train.precision) / hardware.devices,
    )


def training_flops(architecture: Sizes, read: tuple[int, int, float], adapters: bool) -> float:
    """Operations of forward and backward passes.

    Args:
        architecture: of the model.
        read: tokens, how long their rows or documents are, the share of them that is scored.
        adapters: whether they alone are trained, and weights want no gradient; attention's products do.
    """
    tokens, length, scored = read
    whole = architecture.training_flops(tokens, length, scored)
    of_weights = architecture.training_flops(tokens, 0, scored)
    return whole - (1 - FROZEN_SHARE) * of_weights if adapters else whole


def _kept(checkpoint: Checkpointing, steps: int) -> int:
    """How many checkpoints lie on the disk in the end."""
    if checkpoint.every is None:
        return 1
    written = -(-steps // checkpoint.every)
    for_good = 0 if checkpoint.keep_every is None else steps // checkpoint.keep_every
    return min(written, checkpoint.keep + for_good + checkpoint.keep_best)


def _activations(
    train: Train, objective: ObjectiveOptions, architecture: Architecture, batch: tuple[int, Hardware]
) -> int:
    """Of a micro-batch of so many tokens, on such hardware."""
    micro_tokens, hardware = batch
    number = 2 if train.precision == "bf16" else 4
    read = objective.positions_per_token * objective.copies_per_row
    # Compiled, the product of gate and input is kept without the activated gate.
    inner = 3 if train.compile else 4
    in_float32 = 4 if train.precision == "bf16" and not train.compile else 0
    block = (8 + in_float32) * architecture.hidden_size + inner * architecture.intermediate_size
    layers = micro_tokens * read * architecture.layers * block * number
    if train.activation_checkpointing:  # each layer's input, and one layer in full
        layers = layers // architecture.layers + (
            micro_tokens * read * architecture.layers * architecture.hidden_size * number
        )
    # The loss takes a chunk of the logits at a time, and keeps the gradient of a trained head in float32
    # meanwhile. On a GPU the slopes overwrite the logits; elsewhere they are float32 copies.
    scored = int(micro_tokens * objective.copies_per_row * objective.scored_share)
    on_gpu = hardware.device.is_gpu
    chunk = min(scored, rows_at_once(architecture.vocab_size, hardware.device.kind, fused=on_gpu))
    head = 0 if train.lora is not None else architecture.vocab_size * architecture.hidden_size * 4
    return layers + chunk * architecture.vocab_size * (number if on_gpu else number + 4) + head


def _share(size: int, partitioned: bool, hardware: Hardware) -> int:
    return -(-size // hardware.devices) if partitioned else size

"""A manifest's `train` section as DeepSpeed's configuration and a learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

from opendllm.core.manifest.train_schema import Train
from opendllm.registries.errors import UserError


def batch_shape(train: Train, ranks: int) -> tuple[int, int]:
    """(micro-batch rows of one rank, micro-batches a step).

    Raises:
        UserError: the global batch does not divide.
    """
    per_rank, rest = divmod(train.global_batch_size, ranks)
    if rest:
        raise UserError(
            f"train.global_batch_size {train.global_batch_size} does not divide by {ranks} processes"
        )
    micro = train.micro_batch_size or per_rank
    accumulation, rest = divmod(per_rank, micro)
    if rest or not accumulation:
        raise UserError(
            f"train.global_batch_size {train.global_batch_size} over {ranks} processes leaves {per_rank} "
            f"rows each, which train.micro_batch_size {micro} does not divide"
        )
    return micro, accumulation


def due(step: int, every: int | None) -> bool:
    """Whether something that is done every so manieth step is done at this one."""
    return every is not None and step % every == 0


def peak_step(train: Train) -> int:
    """The first step that is taken at the highest rate."""
    return max(1, round(train.warmup_ratio * train.steps))


def learning_rate(train: Train, step: int) -> float:
    """The rate of optimizer step `step`, counting from 1: a linear rise, then the decay.

    As transformers' schedules do, the decay begins with the first step after the rise and would end one
    step after the last: no step is taken at a final rate of 0, which would change nothing.
    """
    warmup = round(train.warmup_ratio * train.steps)
    if step <= warmup:
        return train.learning_rate * step / warmup
    progress = (step - 1 - warmup) / (train.steps - warmup)
    if train.decay == "constant":
        return train.learning_rate
    share = (1 + math.cos(math.pi * progress)) / 2 if train.decay == "cosine" else 1 - progress
    return train.final_learning_rate + (train.learning_rate - train.final_learning_rate) * share


def zero_stage(train: Train) -> int:
    """The stage that DeepSpeed runs.

    Without ZeRO its bf16 optimizer computes other steps than with it; stage 1 on one rank is the same
    arithmetic as on many.
    """
    stage = train.deepspeed.zero_optimization.stage
    return max(stage, 1) if train.precision == "bf16" else stage


def deepspeed_config(
    train: Train, micro_batch: int, accumulation: int, on_gpu: bool = False, load_universal: bool = False
) -> dict[str, Any]:
    """What `deepspeed.initialize` is given. The loss is divided by the global count beforehand.

    Args:
        train: the manifest's section.
        micro_batch: rows of one rank.
        accumulation: micro-batches a step.
        on_gpu: whether CPU memory can be pinned for transfers.
        load_universal: whether a converted checkpoint will be read (see `elastic`).
    """
    zero = train.deepspeed.zero_optimization
    partition: dict[str, Any] = {"stage": zero_stage(train)}
    if zero.offload_optimizer:
        partition["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    if zero.offload_parameters:
        partition["offload_param"] = {"device": "cpu", "pin_memory": on_gpu}
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": train.gradient_clipping,
        "bf16": {
            "enabled": train.precision == "bf16",
            # It would skip a step with gradients that are not finite, without a word; ours ends the run.
            "check_grad_overflow": False,
            "bf16_master_weights_and_grads": not train.master_weights,
            "bf16_optimizer_states": not train.master_weights,
        },
        "zero_optimization": partition,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "checkpoint": {"load_universal": load_universal},
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }

"""A manifest's `train` section as DeepSpeed's configuration and a learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

from opendllm.core.manifest.schema import Train
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


def learning_rate(train: Train, step: int) -> float:
    """The rate of optimizer step `step`, counting from 1: a linear rise, then the decay."""
    warmup = round(train.warmup_ratio * train.steps)
    if step <= warmup:
        return train.learning_rate * step / warmup
    progress = (step - warmup) / max(1, train.steps - warmup)
    if train.decay == "constant":
        return train.learning_rate
    share = (1 + math.cos(math.pi * progress)) / 2 if train.decay == "cosine" else 1 - progress
    return train.final_learning_rate + (train.learning_rate - train.final_learning_rate) * share


def deepspeed_config(train: Train, micro_batch: int, accumulation: int) -> dict[str, Any]:
    """What `deepspeed.initialize` is given. The loss is divided by the global count beforehand."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": train.gradient_clipping,
        "bf16": {"enabled": train.precision == "bf16"},
        "zero_optimization": train.deepspeed.zero_optimization.model_dump(),
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }

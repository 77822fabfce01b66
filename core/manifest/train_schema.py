"""The manifest's `train` section."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from opendllm.core.manifest.reward_schema import Reference, RewardLearning
from opendllm.core.manifest.section import PluginChoice, Section

Beta = Annotated[float, Field(ge=0, lt=1)]


class ZeroOptimization(Section):
    """DeepSpeed's ZeRO."""

    stage: Literal[0, 1, 2, 3] = Field(
        0, description="What is partitioned over the ranks: nothing, optimizer, + gradients, + weights."
    )
    offload_optimizer: bool = Field(
        False, description="Keep the optimizer's state in the CPU's memory; from stage 1 on."
    )
    offload_parameters: bool = Field(False, description="Keep the weights there too; stage 3 only.")

    @model_validator(mode="after")
    def _something_to_offload(self) -> ZeroOptimization:
        if self.offload_optimizer and self.stage < 1:
            raise ValueError("offload_optimizer needs stage 1, 2 or 3")
        if self.offload_parameters and self.stage < 3:
            raise ValueError("offload_parameters needs stage 3")
        return self


class DeepSpeed(Section):
    """Settings handed to DeepSpeed."""

    zero_optimization: ZeroOptimization = ZeroOptimization()


class Checkpointing(Section):
    """When training is saved, and what is kept."""

    every: int | None = Field(
        None, ge=1, description="Steps between checkpoints; the last step always is one."
    )
    keep: int = Field(2, ge=1, description="How many of the newest are kept.")
    keep_every: int | None = Field(
        None, ge=1, description="Those whose step is a multiple of this are kept for good."
    )
    keep_best: int = Field(
        0, ge=0, description="How many of the lowest held-out loss are kept besides; it is measured for each."
    )

    @model_validator(mode="after")
    def _kept_ones_are_written(self) -> Checkpointing:
        if self.keep_every is not None and self.keep_every % (self.every or self.keep_every + 1):
            raise ValueError(f"keep_every {self.keep_every} is not a multiple of every ({self.every})")
        return self


class Lora(Section):
    """Low-rank adapters instead of whole matrices (peft's LoRA); the other weights stay as they are."""

    rank: int = Field(8, ge=1, description="Of each adapter.")
    alpha: int = Field(16, ge=1, description="The adapters' product is scaled by alpha / rank.")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="On the adapters' input. Its draws, unlike the noise, are others for another number of "
        "processes or another micro-batch.",
    )
    targets: str | tuple[str, ...] = Field(
        "all-linear",
        description="Which layers: `all-linear` (but the LM head), a regular expression on whole module "
        "names, or a list of name endings such as `q_proj`.",
    )


class WeightAverage(Section):
    """An exponential moving average of the weights, kept in float32."""

    decay: float = Field(0.9999, gt=0, lt=1, description="Of the average, at most (1 + step) / (10 + step).")
    evaluated: bool = Field(
        True,
        description="Whether the average is what is evaluated, exported and measured on held-out rows; "
        "else the weights themselves are, and the average only lies in the checkpoint.",
    )


class HeldOut(Section):
    """The held-out loss, measured while training."""

    every: int | None = Field(
        None, ge=1, description="Steps between measurements; first and last always are."
    )
    rows: int = Field(32, ge=1, description="Packed held-out rows that are scored.")
    draws: int = Field(16, ge=1, description="Monte-Carlo draws a row.")


class Train(Section):
    """How the model is trained."""

    objective: PluginChoice
    rl: RewardLearning | None = Field(
        None, description="Learn from rewards of the model's own answers, with a policy objective."
    )
    noise_schedule: PluginChoice = PluginChoice(name="linear")
    steps: int = Field(ge=1, description="Optimizer steps.")
    global_batch_size: int = Field(
        16,
        ge=1,
        description="Rows in a step, over all ranks and micro-batches; with `rl`, a phase's answers.",
    )
    micro_batch_size: int | None = Field(
        None, ge=1, description="Rows in one forward pass of one rank; by default as many as the step has."
    )
    learning_rate: float = Field(3e-4, gt=0, description="At its peak.")
    final_learning_rate: float = Field(
        0.0, ge=0, description="What it falls to: a step after the last one would have it."
    )
    decay: Literal["cosine", "linear", "constant"] = Field("cosine", description="From peak to final.")
    warmup_ratio: float = Field(0.0, ge=0, le=1, description="Share of the steps in which it rises linearly.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, on matrices; biases and norms have none.")
    adam_betas: tuple[Beta, Beta] = (0.9, 0.95)
    adam_epsilon: float = Field(1e-8, gt=0)
    gradient_clipping: float = Field(1.0, ge=0, description="Largest gradient norm; 0 clips nothing.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Of forward and backward passes.")
    master_weights: bool = Field(
        True,
        description="Beside bf16 weights keep float32 ones, gradients and moments; "
        "false keeps all of them in bf16.",
    )
    compile: bool = Field(False, description="Compile the model with torch.compile; needs a C++ compiler.")
    activation_checkpointing: bool = Field(
        False, description="Compute each layer's activations again in the backward pass, to save memory."
    )
    freeze: tuple[str, ...] = Field(
        (), description="Regular expressions; parameters whose name holds a match are not trained."
    )
    load_balancing: float | None = Field(
        None, gt=0, description="Weight of a loss that spreads tokens over a mixture's experts."
    )
    lora: Lora | None = Field(None, description="Train adapters only.")
    ema: WeightAverage | None = Field(None, description="Average the weights over the steps.")
    deepspeed: DeepSpeed = DeepSpeed()
    checkpoint: Checkpointing = Checkpointing()
    held_out: HeldOut = HeldOut()
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        (), description="Where each line of train.jsonl goes besides; each must be installed."
    )

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> Train:
        if not self.master_weights and self.precision == "fp32":
            raise ValueError("master_weights: false has an effect with precision bf16 only")
        if self.freeze and self.lora is not None:
            raise ValueError("freeze has no effect beside lora, which trains nothing but its adapters")
        if self.ema is not None and self.deepspeed.zero_optimization.stage == 3:
            raise ValueError("ema needs whole weights on every rank: use a ZeRO stage below 3")
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError("trackers: name each once")
        for pattern in self.freeze:
            _check_expression("freeze", pattern)
        if self.lora is not None and isinstance(self.lora.targets, str):
            _check_expression("lora.targets", self.lora.targets)
        return self

    @model_validator(mode="after")
    def _rewards_have_an_effect(self) -> Train:
        rl = self.rl
        if rl is None:
            return self
        if self.global_batch_size % rl.group_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of rl.group_size "
                f"{rl.group_size}"
            )
        if rl.reference.every is not None and rl.reference.every % rl.iterations:
            raise ValueError(
                f"rl.reference.every {rl.reference.every} is not a multiple of rl.iterations "
                f"{rl.iterations}: the reference stays the same within a phase"
            )
        if self.lora is not None and rl.reference != Reference():
            raise ValueError(
                "rl.reference has no effect with lora: the model without adapters is the reference"
            )
        if self.held_out != HeldOut() or self.checkpoint.keep_best:
            raise ValueError(
                "held_out and checkpoint.keep_best are about a loss of documents, and rl learns from "
                "answers: leave them out; rl.held_out measures how many held-out problems pass"
            )
        if self.noise_schedule != PluginChoice(name="linear"):
            raise ValueError("noise_schedule has no effect with rl: leave it out")
        if self.load_balancing is not None:
            raise ValueError("load_balancing goes with documents, not with rl: leave it out")
        return self

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Train:
        if self.micro_batch_size is not None and self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of "
                f"micro_batch_size {self.micro_batch_size}"
            )
        return self


def _check_expression(key: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{key}: {pattern!r} is no regular expression: {error}") from error

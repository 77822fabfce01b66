"""What learning from rewards costs beside its steps: answers are written, and read under other weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from opendllm.core.manifest.reward_schema import Problems
from opendllm.core.manifest.train_schema import Train
from opendllm.core.planning.hardware import Hardware
from opendllm.core.planning.training_plan import TrainingPlan, plan_training
from opendllm.core.rewards.problem_sources import read_problem_file
from opendllm.registries.architecture import Sizes
from opendllm.registries.options import ObjectiveOptions, PolicyObjectiveOptions

FORWARD_SHARE = 1 / 3
"""Of the operations of a forward and a backward pass."""
CHARACTERS_A_TOKEN = 3
ASSUMED_PROMPT = 3
"""How many times an answer's length a prompt's is, where nobody knows it."""


@dataclass(frozen=True)
class RolloutPlan:
    """Of all phases.

    Attributes:
        phases: how many there are.
        answers: that are written in all.
        row_length: tokens of a prompt and its answer.
        forward_passes: of a row, at most.
        flops: of writing the answers.
    """

    phases: int
    answers: int
    row_length: int
    forward_passes: int
    flops: float


def longest_prompt(problems: Problems) -> int | None:
    """Tokens of a file's longest prompt, at `CHARACTERS_A_TOKEN`; None where there is no file to look at."""
    if problems.path is None or not Path(problems.path).is_file():
        return None
    found = read_problem_file(Path(problems.path))[problems.skip :][: problems.limit]
    texts = [each.gap.prefix + (each.gap.suffix or "") for each in found]
    texts += ["".join(turn.content for turn in each.messages) for each in found]
    return max(map(len, texts), default=0) // CHARACTERS_A_TOKEN + 1


def plan_rewards(
    train: Train, objective: ObjectiveOptions, prompt: int | None, architecture: Sizes, hardware: Hardware
) -> tuple[TrainingPlan, RolloutPlan]:
    """The steps' plan, with all that the rest costs in its operations, time and memory.

    Args:
        train: with an `rl` section.
        objective: its options.
        prompt: tokens of the longest prompt; None where nobody knows.
        architecture: of the model.
        hardware: what it runs on.

    Raises:
        UserError: the batch doesn't divide.
    """
    rl = train.rl
    assert rl is not None
    new = rl.rollout.max_new_tokens
    length = new + (ASSUMED_PROMPT * new if prompt is None else prompt)
    steps = plan_training(train, objective, length, architecture, hardware)
    phases = -(-train.steps // rl.iterations)
    passes = phases * train.global_batch_size * min(rl.rollout.steps or new, new)
    rollout = FORWARD_SHARE * architecture.training_flops(passes * length, length, new / length)
    # The phase's first step finds the old likelihoods itself; the reference is asked for each.
    reference = isinstance(objective, PolicyObjectiveOptions) and objective.needs_reference
    others = (rl.iterations - 1) / rl.iterations + reference
    flops = steps.flops * (1 + FORWARD_SHARE * others) + rollout
    copy = 0
    if reference and train.lora is None:
        copy = architecture.parameters * (2 if train.precision == "bf16" else 4)
    offloaded = rl.reference.offload or train.deepspeed.zero_optimization.stage >= 3
    plan = replace(
        steps,
        flops=flops,
        seconds=hardware.seconds(flops, train.precision) / hardware.devices,
        weights=steps.weights + (0 if offloaded else copy),
        offloaded=steps.offloaded + (copy if offloaded else 0),
    )
    answers = phases * train.global_batch_size
    return plan, RolloutPlan(phases, answers, length, passes, rollout)

"""The manifest's `train.rl` section: what a model is asked, what its answers are worth, how it learns."""

from __future__ import annotations

from pydantic import Field, model_validator

from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.manifest.section import NAME_PATTERN, PluginChoice, Section
from opendllm.registries.options import ManifestPath


class Problems(Section):
    """What the model is asked."""

    path: ManifestPath | None = Field(
        None, description="JSON lines, a problem each; see the page on reinforcement learning for its keys."
    )
    benchmark: PluginChoice | None = Field(
        None, description="A benchmark in its place: its training problems, as far as it has some."
    )
    skip: int = Field(0, ge=0, description="So many of them are left out, the first ones.")
    limit: int | None = Field(None, ge=1, description="Only so many of those that follow.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Problems:
        if (self.path is None) == (self.benchmark is None):
            raise ValueError("give either `path` or `benchmark`")
        return self


class ChosenReward(Section):
    """One of the rewards whose weighted sum an answer is worth."""

    reward: PluginChoice
    label: str | None = Field(
        None,
        pattern=NAME_PATTERN,
        description="What it is called in train.jsonl and in `held_out`; by default the reward's name. Of "
        "rewards with one name all but one need it.",
    )
    weight: float = Field(1.0, description="What its values are multiplied by; below 0, a penalty.")

    @property
    def called(self) -> str:
        """Its label, given or not."""
        return self.label or self.reward.name


class Rollout(DecoderOptions):
    """How answers are written: the sampler, and the decoder's options."""

    sampler: PluginChoice | None = Field(None, description="By default the backbone's own.")
    temperature: float = Field(
        1.0, ge=0, description="Of the token draw; 0 would make a prompt's answers the same."
    )
    chat: bool = Field(False, description="Put each prompt into the checkpoint's chat template.")
    batch_size: int = Field(32, ge=1, description="Answers that a process writes side by side.")


class Reference(Section):
    """The model that the policy is held near; where adapters are trained it is the model without them."""

    every: int | None = Field(
        None, ge=1, description="Steps after which it follows the policy; by default it stays as it began."
    )
    mix: float = Field(
        1.0, gt=0, le=1, description="How far it follows: mix * policy + (1 - mix) * reference."
    )
    offload: bool = Field(False, description="Keep it in the CPU's memory while nobody asks it.")

    @model_validator(mode="after")
    def _mixes_something(self) -> Reference:
        if self.every is None and self.mix != 1:
            raise ValueError("mix has no effect without `every`")
        return self


class HeldOutProblems(Section):
    """Problems that are never trained on, to see how far the model is."""

    problems: Problems
    every: int | None = Field(
        None, ge=1, description="Steps between measurements; first and last always are."
    )
    samples: int = Field(1, ge=1, description="Answers to each problem.")
    temperature: float = Field(0.0, ge=0, description="Of their token draw; the rest is as in `rollout`.")
    reward: str | None = Field(
        None,
        description="An answer passes that this one (its label) gives its full mark; by default the first.",
    )

    @model_validator(mode="after")
    def _answers_differ(self) -> HeldOutProblems:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples: several answers are the same at temperature 0: set temperature")
        return self


class RewardLearning(Section):
    """Learning from rewards: a phase writes answers, gives each a reward, and takes some steps on them.

    A phase has `train.global_batch_size` answers, `group_size` to each of its prompts; each of its steps
    reads all of them.
    """

    problems: Problems
    rewards: tuple[ChosenReward, ...] = Field(min_length=1)
    group_size: int = Field(
        8, ge=2, description="Answers to each prompt of a phase, which are held against each other."
    )
    iterations: int = Field(1, ge=1, description="Steps of a phase: each takes its answers once.")
    rollout: Rollout = Rollout()
    reference: Reference = Reference()
    held_out: HeldOutProblems | None = None
    reward_seconds: float = Field(
        600.0, gt=0, description="That one reward may take for a batch of answers; then it counts as hung."
    )

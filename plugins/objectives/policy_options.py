"""Policy objectives: names, options and where each is implemented. They learn from answers' rewards."""

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from opendllm.core.toolkit.policy_choices import AdvantageKind, KlEstimator, KlTo, Normalisation
from opendllm.registries import AttentionKind, PolicyObjectiveOptions, Register

HERE = "opendllm.plugins.objectives"

ADVANTAGES = (
    "`leave-one-out`: the reward minus the others' mean; `leave-one-out-scaled`: that over "
    "the deviation; `group-mean`: the reward minus the group's mean; `z-score`: that over the sample's "
    "deviation; `z-score-population`: over the population's."
)
NORMALISATIONS = (
    "`bnpo`: mean over all tokens; `grpo`: over each sequence's, then over sequences; `dr_grpo`: sum over "
    "sequences times the longest completion that there could be"
)


class ClippedOptions(PolicyObjectiveOptions):
    """Options of every policy objective with a clipped ratio."""

    epsilon_low: float = Field(
        0.5, gt=0, le=1, description="How far below 1 a ratio may go before its gradient is held back."
    )
    epsilon_high: float = Field(0.5, gt=0, description="How far above 1.")
    beta: float = Field(0.01, ge=0, description="Strength of the KL penalty; 0 is none.")
    kl_estimator: KlEstimator = Field(
        "k3",
        description="With x the log-probability of the other minus the policy's: `k3` is exp(x) - 1 - x, "
        "`k1` is -x.",
    )
    kl_to: KlTo = Field(
        "reference",
        description="What the policy stays near: a `reference` model, or the `old` policy that wrote the "
        "answers.",
    )
    advantages: AdvantageKind = Field(
        "leave-one-out",
        description=ADVANTAGES,
    )

    @model_validator(mode="after")
    def _penalty_has_effect(self) -> "ClippedOptions":
        for name in ("kl_estimator", "kl_to"):
            if self.beta == 0 and name in self.model_fields_set:
                raise ValueError(f"{name} has no effect with beta 0")
        return self

    @property
    def needs_reference(self) -> bool:
        """See `PolicyObjectiveOptions.needs_reference`."""
        return self.beta > 0 and self.kl_to == "reference"


DLLM_RL: JsonDict = {
    "masks": "pairs",
    "ratio_range": [0.1, 0.9],
    "normalisation": "dllm_rl",
    "epsilon_low": 0.2,
    "epsilon_high": 0.2,
    "kl_to": "old",
    "advantages": "z-score-population",
}
"""dLLM-RL's form of coupled-GRPO."""


class CoupledGrpoOptions(ClippedOptions):
    """Options of coupled-GRPO and its kin; by default DiffuCoder's recipe."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                DLLM_RL,
                {**DLLM_RL, "masks": "random", "draws": 2, "post_num": 1, "kl_estimator": "k1"},
                {"masks": "random", "post_num": None, "beta": 0, "normalisation": "grpo"},
            ]
        }
    )

    masks: Literal["coupled", "pairs", "random"] = Field(
        "coupled",
        description="`coupled`: the whole completion masked, then a random part of it, then the rest: a "
        "token's log-probability is half the first's and half 1/p times the one that masks it of the others; "
        "`pairs`: a part and the rest, each a sequence of its own (dLLM-RL's `coupled`); `random`: a part "
        "(its `random_masking`).",
    )
    ratio_range: tuple[float, float] = Field(
        (0.2, 0.8), description="Least and most share of a completion that is masked, drawn for each answer."
    )
    draws: int = Field(
        1, ge=1, description="How often masks are drawn; read with `masks: pairs` and `masks: random`."
    )
    post_num: int | None = Field(
        0,
        ge=0,
        description="How many tokens after an answer's end are learnt; the others are masked and never "
        "scored. null takes them as ordinary tokens. Read with `masks: pairs` and `masks: random`.",
    )
    normalisation: Normalisation = Field(
        "bnpo",
        description=f"{NORMALISATIONS}; `dllm_rl`: as `grpo`, but KL estimates are summed over a sequence.",
    )

    @model_validator(mode="after")
    def _has_effect(self) -> "CoupledGrpoOptions":
        low, high = self.ratio_range
        if not 0 < low <= high < 1:
            raise ValueError("ratio_range is two shares between 0 and 1, the lower one first")
        for name in ("draws", "post_num"):
            if self.masks == "coupled" and name in self.model_fields_set:
                raise ValueError(f"{name} has no effect with masks coupled")
        return self

    @property
    def copies_per_row(self) -> int:
        """How often an answer is read."""
        return {"coupled": 3, "pairs": 2 * self.draws, "random": self.draws}[self.masks]


class DiffuGrpoOptions(ClippedOptions):
    """Options of d1's diffu-GRPO, and of dllm's form of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"guidance_scale": 1.5},
                {"normalisation": "grpo", "hide_after_end": True, "advantages": "z-score"},
                {"normalisation": "dr_grpo", "hide_after_end": True, "beta": 0},
            ]
        }
    )

    beta: float = Field(0.04, ge=0, description="Strength of the KL penalty; 0 is none.")
    advantages: AdvantageKind = Field("group-mean", description=ADVANTAGES)
    prompt_mask_probability: float = Field(
        0.15, ge=0, le=1, description="Share of the prompt's tokens that are masked, anew in each iteration."
    )
    guidance_scale: float = Field(
        0.0, ge=0, description="Classifier-free guidance away from the masked prompt; 0 is none."
    )
    hide_after_end: bool = Field(
        False, description="Whether nothing sees what a completion has after its end (dllm)."
    )
    normalisation: Literal["bnpo", "grpo", "dr_grpo"] = Field("bnpo", description=f"{NORMALISATIONS}.")

    @property
    def copies_per_row(self) -> int:
        """With and without the prompt."""
        return 2 if self.guidance_scale else 1


class TraceRlOptions(ClippedOptions):
    """Options of TraceRL."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"shrink": 2, "post_num": 1, "kl_estimator": "k1"},
                {"block_length": 4, "post_num": None, "beta": 0},
            ]
        }
    )

    trains: ClassVar[AttentionKind] = "block-causal"

    epsilon_low: float = Field(
        0.2, gt=0, le=1, description="How far below 1 a ratio may go before its gradient is held back."
    )
    epsilon_high: float = Field(0.2, gt=0, description="How far above 1.")
    kl_to: KlTo = Field(
        "old",
        description="What the policy stays near: the `old` policy that wrote the answers, or a `reference`.",
    )
    advantages: AdvantageKind = Field("z-score-population", description=ADVANTAGES)
    shrink: int = Field(1, ge=1, description="How many neighbouring steps of a block are learnt together.")
    post_num: int | None = Field(
        0,
        ge=0,
        description="How many tokens after an answer's end are learnt in each slice; null for all of them.",
    )
    block_length: int | None = Field(
        None,
        ge=1,
        description="Blocks of this length, counted from a completion's begin, as published; by default the "
        "model's own, as they were decoded.",
    )
    largest_log_ratio: float = Field(10.0, gt=0, description="Log-ratios are cut to this, either way.")
    kept_rewards: tuple[float, float] | None = Field(
        None,
        description="Prompts are learnt from whose mean reward is in this range; published with [0.2, 0.8] "
        "of correct answers.",
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> "TraceRlOptions":
        if self.kept_rewards is not None and self.kept_rewards[0] > self.kept_rewards[1]:
            raise ValueError("kept_rewards is two rewards, the lower one first")
        return self

    @property
    def positions_per_token(self) -> int:
        """A noisy and a clean one."""
        return 2


def register_policies(register: Register) -> None:
    """Register every built-in policy objective."""
    register(
        "coupled-grpo",
        options=CoupledGrpoOptions,
        target=f"{HERE}.coupled_grpo:CoupledGrpo",
        summary="coupled-GRPO: clipped ratios of answers behind a mask and its complement",
    )
    register(
        "diffu-grpo",
        options=DiffuGrpoOptions,
        target=f"{HERE}.diffu_grpo:DiffuGrpo",
        summary="diffu-GRPO: clipped ratios of answers all masked, after a prompt partly masked",
    )
    register(
        "trace-rl",
        options=TraceRlOptions,
        target=f"{HERE}.trace_rl:TraceRl",
        summary="TraceRL: clipped ratios of each token behind the masks that it was committed behind",
    )

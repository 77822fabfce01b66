"""Samplers: names, options and where each is implemented."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from opendllm.registries import Register, SamplerOptions
from opendllm.registries.noise_schedules import Destination

HERE = "opendllm.plugins.samplers"


Grid = Literal["uniform", "cosine"]
GRID = "Times of the steps: evenly spaced, or MD4's cosine grid, which commits less at first."


class AncestralOptions(SamplerOptions):
    """Options of the reverse process."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"grid": "cosine"}]})

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp"})
    reads_filtered: ClassVar[bool] = False

    grid: Grid = Field("uniform", description=GRID)


class EntropyOptions(SamplerOptions):
    """None: the decoder's options say it all."""


class P2Options(SamplerOptions):
    """None: the decoder's options say it all."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp", "early_stop"})


class LowConfidenceOptions(SamplerOptions):
    """Options of LLaDA's sampler."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"remasking": "random", "logits_eos_inf": True},
                {"confidence_eos_eot_inf": True},
            ]
        }
    )

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp"})
    reads_filtered: ClassVar[bool] = False

    remasking: Literal["low_confidence", "random"] = Field(
        "low_confidence", description="Whether the surest proposals are committed, or random ones."
    )
    logits_eos_inf: bool = Field(False, description="Never write EOS.")
    confidence_eos_eot_inf: bool = Field(
        False, description="Commit EOS and end of turn last, however sure the model is of them."
    )


class MaskgitPlusOptions(SamplerOptions):
    """None: the decoder's options say it all."""


class TopkMarginOptions(SamplerOptions):
    """None: the decoder's options say it all."""


class ConfidenceThresholdOptions(SamplerOptions):
    """Options of Fast-dLLM's threshold."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp", "steps"})
    reads_filtered: ClassVar[bool] = False

    threshold: float = Field(0.9, ge=0, le=1, description="Least probability to commit at once.")


class ConfidenceFactorOptions(SamplerOptions):
    """Options of Fast-dLLM's factor."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp", "steps"})
    reads_filtered: ClassVar[bool] = False

    factor: float = Field(1.0, gt=0, description="f of 1 - f / (r + 1): larger commits more at once.")


class EntropyBoundedOptions(SamplerOptions):
    """Options of the entropy-bounded sampler."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp", "steps"})

    gamma: float = Field(
        0.35, ge=0, description="Bound in nats; SDAR's code takes 0.35. 0 commits one by one."
    )


class BlockStepsOptions(SamplerOptions):
    """Options of block diffusion's samplers."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"rule": "static", "confidence": "filtered"},
                {"rule": "sequential", "block_steps": 2},
                {"rule": "near-best"},
                {"rule": "entropy-bound"},
            ]
        }
    )

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp", "steps"})

    rule: Literal["dynamic", "static", "sequential", "near-best", "entropy-bound"] = Field(
        "dynamic", description="What is committed at a step; see the sampler."
    )
    threshold: float = Field(0.85, ge=0, le=1, description="Of the confidence, for dynamic and near-best.")
    block_steps: int | None = Field(
        None, ge=1, description="Denoising steps of a block; by default one a position."
    )
    entropy_bound: float = Field(0.35, gt=0, description="Of the sum of entropies, in nats.")
    confidence: Literal["tempered", "filtered"] = Field(
        "tempered",
        description="Whether it is read before top-p and top-k, as SDAR's evaluation does, or after them.",
    )

    @model_validator(mode="after")
    def _has_effect(self) -> BlockStepsOptions:
        read = {
            "threshold": ("dynamic", "near-best"),
            "block_steps": ("dynamic", "static", "sequential"),
            "entropy_bound": ("entropy-bound",),
            "confidence": ("dynamic", "static", "near-best"),
        }
        for name in sorted(self.model_fields_set & read.keys()):
            if self.rule not in read[name]:
                raise ValueError(f"{name} has no effect with rule {self.rule}")
        return self


class RemdmOptions(SamplerOptions):
    """Options of the remasking sampler."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{}, {"strategy": "rescale", "eta": 0.5}, {"strategy": "conf", "grid": "cosine"}]
        }
    )

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp", "early_stop"})

    strategy: Literal["cap", "rescale", "conf"] = Field(
        "cap",
        description="How likely a committed token is masked again, of the most that the process allows: "
        "at most eta (cap), eta times that (rescale), or more for tokens of low confidence (conf).",
    )
    eta: float = Field(0.02, ge=0, le=1, description="For cap and rescale; 0 never masks a token again.")
    grid: Grid = Field("uniform", description=GRID)

    @model_validator(mode="after")
    def _eta_has_an_effect(self) -> RemdmOptions:
        if self.strategy == "conf" and "eta" in self.model_fields_set:
            raise ValueError("eta has no effect with strategy 'conf': leave it out")
        return self


class DreamonOptions(SamplerOptions):
    """Options of DreamOn's variable-length sampler."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"expand_token_id": 3, "expand_budget": 8}]})
    without_effect: ClassVar[frozenset[str]] = frozenset(
        {"block_length", "cache", "cache_delay", "cache_refresh", "early_stop", "compile"}
    )

    expand_token_id: int = Field(
        151667, ge=0, description="The token that turns a mask into two; the default is DreamOn-v0-7B's."
    )
    expand_budget: int = Field(64, ge=0, description="By how many tokens a row may grow.")


Tail = Literal["ancestral", "greedy", "none"]
TAIL = (
    "What follows the last step: one more draw, to the clean text (ancestral), the model's best tokens, "
    "whatever top-p (greedy), or nothing (none). The first two take a forward pass more than `steps`."
)


class UniformAncestralOptions(SamplerOptions):
    """Options of the reverse process of uniform noise."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"tail": "greedy"}, {"tail": "none"}]})

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp"})
    reads_filtered: ClassVar[bool] = False
    destinations: ClassVar[frozenset[Destination]] = frozenset({"uniform"})

    tail: Tail = Field("ancestral", description=TAIL)


class PredictorCorrectorOptions(SamplerOptions):
    """Options of the psi-sampler."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"kappa": 0.0, "tail": "greedy"}]})

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp"})
    reads_filtered: ClassVar[bool] = False
    destinations: ClassVar[frozenset[Destination]] = frozenset({"uniform"})

    kappa: float = Field(
        0.5, ge=0, le=1, description="Share of the ancestral step; the rest goes to the clean text and back."
    )
    first_time: float = Field(1.0, ge=0, le=1, description="At later times the step is ancestral.")
    last_time: float = Field(0.0, ge=0, le=1, description="At earlier times the step is ancestral.")
    tail: Tail = Field("ancestral", description=TAIL)

    @model_validator(mode="after")
    def _in_order(self) -> PredictorCorrectorOptions:
        if self.last_time >= self.first_time:
            raise ValueError("last_time must be below first_time: time runs from 1 to 0")
        return self


class GiddOptions(SamplerOptions):
    """None: the checkpoint's schedule says how much of the noise is uniform."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp"})
    reads_filtered: ClassVar[bool] = False
    destinations: ClassVar[frozenset[Destination]] = frozenset({"mixture"})


class AdaptiveGreedyOptions(SamplerOptions):
    """Options of GIDD's self-correction."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"tokens_per_step": 2, "noise_of": "start"}]}
    )

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp", "temperature", "top_p", "top_k"})
    destinations: ClassVar[frozenset[Destination]] = frozenset({"mixture", "uniform"})

    tokens_per_step: int = Field(1, ge=1, description="How many tokens are replaced at a step.")
    noise_of: Literal["step", "start"] = Field(
        "step",
        description="Where noise puts tokens at the step's own time, as in GIDD's Hugging Face code, or at "
        "the first one's, as in its JAX code; a difference with a mixture only.",
    )


class TokenEditingOptions(SamplerOptions):
    """Options of LLaDA2.1's sampler."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"max_post_steps": 0, "num_to_transfer": 2}]}
    )

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp", "steps"})
    reads_filtered: ClassVar[bool] = False

    threshold: float = Field(0.95, ge=0, le=1, description="A mask commits above it.")
    editing_threshold: float = Field(0.9, ge=0, le=1, description="A written token is replaced above it.")
    max_post_steps: int = Field(
        16, ge=0, description="The most passes over a block without a mask; 0 never looks at it again."
    )
    num_to_transfer: int = Field(1, ge=1, description="The least number of masks to commit at a pass.")


class MultiBlockOptions(SamplerOptions):
    """Options of d3LLM's sampler; its blocks are the decoder's `block_length`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"threshold": None, "end_at_eos": True}]})

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp", "steps"})

    threshold: float | None = Field(
        0.5, ge=0, description="A mask commits where the entropy in nats is at most this; null: everywhere."
    )
    block_add_threshold: float = Field(
        0.5, ge=0, le=1, description="So much of the last open block is written before the next one opens."
    )
    decoded_token_threshold: float = Field(
        0.5,
        ge=0,
        le=1,
        description="So much of a block is written before the next one commits a token at every pass.",
    )
    end_at_eos: bool = Field(
        False, description="Once an EOS is written, all behind it is EOS, whatever is masked before it."
    )


class EntropyAcceptOptions(SamplerOptions):
    """Options of the sampler that renoises what it isn't sure of."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp", "temperature", "top_p", "top_k"})
    destinations: ClassVar[frozenset[Destination]] = frozenset({"uniform"})

    gamma: float = Field(0.1, ge=0, description="Bound in nats; 0 accepts one by one.")
    first_temperature: float = Field(0.8, gt=0, description="Of the draws at the first step.")
    last_temperature: float = Field(0.4, gt=0, description="What the temperature falls to.")
    certainty: float = Field(
        0.005, ge=0, description="Mean entropy in nats below which stable best tokens end a block."
    )

    @model_validator(mode="after")
    def _falling(self) -> EntropyAcceptOptions:
        if self.last_temperature > self.first_temperature:
            raise ValueError("last_temperature must not be above first_temperature")
        return self


def register_all(register: Register) -> None:
    """Register every built-in sampler."""
    register(
        "ancestral",
        options=AncestralOptions,
        target=f"{HERE}.ancestral:Ancestral",
        summary="each mask commits with the posterior's probability (MDLM, Dream's `origin`)",
    )
    register(
        "entropy",
        options=EntropyOptions,
        target=f"{HERE}.entropy:Entropy",
        summary="commit where the proposal's distribution has the lowest entropy (Dream)",
    )
    register(
        "p2",
        options=P2Options,
        target=f"{HERE}.p2:P2",
        summary="path planning: the least sure positions are masked again (Open-dLLM)",
    )
    register(
        "low-confidence",
        options=LowConfidenceOptions,
        target=f"{HERE}.low_confidence:LowConfidence",
        summary="an even number of the surest proposals a step (LLaDA)",
    )
    register(
        "maskgit-plus",
        options=MaskgitPlusOptions,
        target=f"{HERE}.maskgit_plus:MaskgitPlus",
        summary="commit the proposals of highest probability (Dream, Open-dLLM)",
    )
    register(
        "topk-margin",
        options=TopkMarginOptions,
        target=f"{HERE}.topk_margin:TopkMargin",
        summary="commit where the best token leads the second best by most (Dream)",
    )
    register(
        "confidence-threshold",
        options=ConfidenceThresholdOptions,
        target=f"{HERE}.confidence_threshold:ConfidenceThreshold",
        summary="commit everything above a probability, in parallel (Fast-dLLM)",
    )
    register(
        "confidence-factor",
        options=ConfidenceFactorOptions,
        target=f"{HERE}.confidence_factor:ConfidenceFactor",
        summary="commit down the ranks while confidence is at least 1 - f/(r + 1) (Fast-dLLM)",
    )
    register(
        "entropy-bounded",
        options=EntropyBoundedOptions,
        target=f"{HERE}.entropy_bounded:EntropyBounded",
        summary="commit from the lowest entropy on, within a bound (EB-Sampler)",
    )
    register(
        "remdm",
        options=RemdmOptions,
        target=f"{HERE}.remdm:Remdm",
        summary="ancestral, and committed tokens may be masked again (ReMDM)",
    )
    register(
        "dreamon",
        options=DreamonOptions,
        target=f"{HERE}.dreamon:Dreamon",
        summary="one token a step; masks may expand into two or be deleted (DreamOn)",
    )
    register(
        "block-steps",
        options=BlockStepsOptions,
        target=f"{HERE}.block_steps:BlockSteps",
        summary="static, dynamic or sequential commits in a block (SDAR, LLaDA2.0, dInfer, Fast-dLLM v2)",
    )
    register(
        "uniform-ancestral",
        options=UniformAncestralOptions,
        target=f"{HERE}.uniform_ancestral:UniformAncestral",
        summary="uniform noise walked back, every position at every step (Duo, UDLM)",
    )
    register(
        "predictor-corrector",
        options=PredictorCorrectorOptions,
        target=f"{HERE}.predictor_corrector:PredictorCorrector",
        summary="uniform-ancestral, with steps to the clean text and back (Duo's psi)",
    )
    register(
        "gidd",
        options=GiddOptions,
        target=f"{HERE}.gidd:Gidd",
        summary="masks and uniform noise walked back together (GIDD)",
    )
    register(
        "adaptive-greedy",
        options=AdaptiveGreedyOptions,
        target=f"{HERE}.adaptive_greedy:AdaptiveGreedy",
        summary="the likeliest noise gives way to the model's best tokens (GIDD)",
    )
    register(
        "token-editing",
        options=TokenEditingOptions,
        target=f"{HERE}.token_editing:TokenEditing",
        summary="parallel commits, and written tokens of the block are replaced (LLaDA2.1)",
    )
    register(
        "multi-block",
        options=MultiBlockOptions,
        target=f"{HERE}.multi_block:MultiBlock",
        summary="the next block opens before the one before it is done (d3LLM)",
    )
    register(
        "entropy-accept",
        options=EntropyAcceptOptions,
        target=f"{HERE}.entropy_accept:EntropyAccept",
        summary="accept within an entropy bound, renoise the rest (DiffusionGemma)",
    )

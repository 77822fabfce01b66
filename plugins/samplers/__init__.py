"""Samplers: names, options and where each is implemented."""

from typing import ClassVar, Literal

from pydantic import Field

from opendllm.registries import Register, SamplerOptions

HERE = "opendllm.plugins.samplers"


class AncestralOptions(SamplerOptions):
    """None."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp"})


class EntropyOptions(SamplerOptions):
    """None: the decoder's options say it all."""


class P2Options(SamplerOptions):
    """None: the decoder's options say it all."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp"})


class LowConfidenceOptions(SamplerOptions):
    """Options of LLaDA's sampler."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp"})

    remasking: Literal["low_confidence", "random"] = Field(
        "low_confidence", description="Whether the surest proposals are committed, or random ones."
    )


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

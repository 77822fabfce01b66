"""Objectives: names, options and where each is implemented."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from opendllm.registries import AttentionKind, ObjectiveOptions, Register

HERE = "opendllm.plugins.objectives"


class OpenDcoderOptions(ObjectiveOptions):
    """Options of Open-dLLM's objective."""

    form: Literal["release", "head"] = Field(
        "release",
        description="`release` weighs the whole loss with 1/r, as the published 0.5B was trained; "
        "`head` only its path term, as the repository does today.",
    )


class MdlmOptions(ObjectiveOptions):
    """Options of the MDLM / MD4 objective."""

    noise_schedules: ClassVar[frozenset[str] | None] = None

    times: Literal["antithetic", "independent"] = Field(
        "antithetic", description="Whether times are spread evenly over the global batch."
    )


class LladaOptions(ObjectiveOptions):
    """Options of LLaDA's objective."""

    form: Literal["pretraining", "sft"] = Field(
        "pretraining",
        description="`pretraining` averages over all tokens, `sft` over each answer and then over answers.",
    )
    random_length_probability: float = Field(
        0.01, ge=0, le=1, description="Share of rows that are cut to a random length, in pretraining."
    )

    @model_validator(mode="after")
    def _has_effect(self) -> "LladaOptions":
        if self.form == "sft" and "random_length_probability" in self.model_fields_set:
            raise ValueError("random_length_probability has no effect with form sft")
        return self

    def needs_prompts(self) -> bool:
        """See `ObjectiveOptions.needs_prompts`."""
        return self.form == "sft"


class DreamOptions(ObjectiveOptions):
    """Options of Dream's objective."""

    weighting: Literal["1/t", "1-t", "cart"] = Field(
        "1/t", description="Weight of a masked token; `cart` grows with the clean tokens near it."
    )
    cart_p: float = Field(
        0.1, gt=0, lt=1, description="Of CART's geometric distribution; read with `weighting: cart` only."
    )

    @model_validator(mode="after")
    def _has_effect(self) -> "DreamOptions":
        if self.weighting != "cart" and "cart_p" in self.model_fields_set:
            raise ValueError(f"cart_p has no effect with weighting {self.weighting}")
        return self


class Bd3lmOptions(ObjectiveOptions):
    """Options of block diffusion."""

    trains: ClassVar[AttentionKind] = "block-causal"
    noise_schedules: ClassVar[frozenset[str] | None] = None

    @property
    def positions_per_token(self) -> int:
        """A noisy and a clean one."""
        return 2


class ArOptions(ObjectiveOptions):
    """None: next-token prediction."""

    trains: ClassVar[AttentionKind] = "causal"

    @property
    def scored_share(self) -> float:
        """All of them."""
        return 1.0


def register_all(register: Register) -> None:
    """Register every built-in objective."""
    register(
        "open-dcoder",
        options=OpenDcoderOptions,
        target=f"{HERE}.open_dcoder:OpenDcoder",
        summary="Open-dLLM: mask ratio per document, cross-entropy with a path-planning term",
    )
    register("mdlm", options=MdlmOptions, target=f"{HERE}.mdlm:Mdlm", summary="the NELBO of MDLM and MD4")
    register(
        "llada",
        options=LladaOptions,
        target=f"{HERE}.llada:Llada",
        summary="LLaDA: ce / p, in pretraining or SFT",
    )
    register(
        "dream",
        options=DreamOptions,
        target=f"{HERE}.dream:Dream",
        summary="Dream: weighted cross-entropy over masked tokens, optionally CART",
    )
    register(
        "bd3lm",
        options=Bd3lmOptions,
        target=f"{HERE}.bd3lm:Bd3lm",
        summary="block diffusion: each block's NELBO given the clean blocks before it",
    )
    register(
        "ar",
        options=ArOptions,
        target=f"{HERE}.ar:Autoregressive",
        summary="next-token prediction, the baseline",
    )

"""Objectives: names, options and where each is implemented."""

from typing import ClassVar, Literal

from pydantic import Field

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
    """Options of LLaDA's pretraining objective."""

    random_length_probability: float = Field(
        0.01, ge=0, le=1, description="Share of rows that are cut to a random length."
    )


class DreamOptions(ObjectiveOptions):
    """Options of Dream's objective."""

    weighting: Literal["1/t", "1-t", "cart"] = Field(
        "1/t", description="Weight of a masked token; `cart` grows with the clean tokens near it."
    )
    cart_p: float = Field(
        0.1, gt=0, lt=1, description="Of CART's geometric distribution; read with `weighting: cart` only."
    )


class ArOptions(ObjectiveOptions):
    """None: next-token prediction."""

    trains: ClassVar[AttentionKind] = "causal"


def register_all(register: Register) -> None:
    """Register every built-in objective."""
    register(
        "open-dcoder",
        options=OpenDcoderOptions,
        target=f"{HERE}.open_dcoder:OpenDcoder",
        summary="Open-dLLM: mask ratio per document, cross-entropy with a path-planning term",
    )
    register("mdlm", options=MdlmOptions, target=f"{HERE}.mdlm:Mdlm", summary="the NELBO of MDLM and MD4")
    register("llada", options=LladaOptions, target=f"{HERE}.llada:Llada", summary="LLaDA pretraining: ce / p")
    register(
        "dream",
        options=DreamOptions,
        target=f"{HERE}.dream:Dream",
        summary="Dream: weighted cross-entropy over masked tokens, optionally CART",
    )
    register(
        "ar",
        options=ArOptions,
        target=f"{HERE}.ar:Autoregressive",
        summary="next-token prediction, the baseline",
    )

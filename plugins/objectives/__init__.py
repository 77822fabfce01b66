"""Objectives: names, options and where each is implemented."""

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from opendllm.plugins.objectives.policy_options import register_policies
from opendllm.registries import AttentionKind, ObjectiveOptions, Register
from opendllm.registries.noise_schedules import Destination
from opendllm.registries.options import Bound

HERE = "opendllm.plugins.objectives"
LINEAR = frozenset({"linear"})


class MaskedOptions(ObjectiveOptions):
    """Options of every objective of masked tokens; the published ones are of linear noise."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"complementary_masks": True}]})

    noise_schedules: ClassVar[frozenset[str] | None] = LINEAR

    complementary_masks: bool = Field(
        False,
        description="Read each row twice, the second time with just the other tokens masked, so that every "
        "token is learnt.",
    )

    @property
    def copies_per_row(self) -> int:
        """See `ObjectiveOptions.copies_per_row`."""
        return 2 if self.complementary_masks else 1

    @property
    def loss_is_bound(self) -> bool:
        """Each row counts twice where it is read twice."""
        return not self.complementary_masks


class OpenDcoderOptions(MaskedOptions):
    """Options of Open-dLLM's objective."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"form": "head"}, {"complementary_masks": True}]}
    )

    form: Literal["release", "head"] = Field(
        "release",
        description="`release` weighs the whole loss with 1/r, as the published 0.5B was trained; "
        "`head` only its path term, as the repository does today.",
    )

    @property
    def loss_is_bound(self) -> bool:
        """The path term comes on top."""
        return False


class MdlmOptions(MaskedOptions):
    """Options of the MDLM / MD4 objective."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"times": "independent"}, {"complementary_masks": True}]}
    )

    noise_schedules: ClassVar[frozenset[str] | None] = None

    times: Literal["antithetic", "independent"] = Field(
        "antithetic", description="Whether times are spread evenly over the global batch."
    )


class LladaOptions(MaskedOptions):
    """Options of LLaDA's objective."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"form": "sft"}, {"complementary_masks": True}]}
    )

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

    @property
    def loss_is_bound(self) -> bool:
        """An answer's tokens are divided by its length in SFT."""
        return self.form == "pretraining" and not self.complementary_masks

    def needs_prompts(self) -> bool:
        """See `ObjectiveOptions.needs_prompts`."""
        return self.form == "sft"


class DreamOptions(MaskedOptions):
    """Options of Dream's objective."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{}, {"weighting": "1-t"}, {"weighting": "cart"}, {"complementary_masks": True}]
        }
    )

    weighting: Literal["1/t", "1-t", "cart"] = Field(
        "1/t", description="Weight of a masked token; `cart` grows with the clean tokens near it."
    )
    cart_p: float = Field(
        0.1, gt=0, lt=1, description="Of CART's geometric distribution; read with `weighting: cart` only."
    )

    @property
    def loss_is_bound(self) -> bool:
        """With `1/t` only."""
        return self.weighting == "1/t" and not self.complementary_masks

    @model_validator(mode="after")
    def _has_effect(self) -> "DreamOptions":
        if self.weighting != "cart" and "cart_p" in self.model_fields_set:
            raise ValueError(f"cart_p has no effect with weighting {self.weighting}")
        return self


class Bd3lmOptions(MaskedOptions):
    """Options of block diffusion."""

    trains: ClassVar[AttentionKind] = "block-causal"
    noise_schedules: ClassVar[frozenset[str] | None] = None

    @property
    def positions_per_token(self) -> int:
        """A noisy and a clean one."""
        return 2


class BlockOptions(MaskedOptions):
    """Options of objectives that train a noisy half beside a clean one."""

    trains: ClassVar[AttentionKind] = "block-causal"

    @property
    def positions_per_token(self) -> int:
        """A noisy and a clean one."""
        return 2


class SdarOptions(BlockOptions):
    """Options of SDAR's objective."""

    @property
    def loss_is_bound(self) -> bool:
        """A row in which nothing was masked is drawn anew, so that short ones weigh more."""
        return False


class Llada2Options(BlockOptions):
    """Options of LLaDA2's objective."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"confidence_beta": 0.5}, {"complementary_masks": True}]}
    )

    noise_range: tuple[float, float] = Field(
        (0.3, 0.8), description="Least and most share of a document's tokens that are masked."
    )
    confidence_beta: float = Field(
        0.0,
        ge=0,
        description="Weight of the entropy where the likeliest token is right (CAP); 0 is none.",
    )

    @property
    def loss_is_bound(self) -> bool:
        """It is the mean surprise of masks from a range of noise."""
        return False

    @model_validator(mode="after")
    def _is_a_range(self) -> "Llada2Options":
        low, high = self.noise_range
        if not 0 < low <= high <= 1:
            raise ValueError("noise_range is two probabilities above 0, the lower one first")
        return self


class FastDllmV2Options(BlockOptions):
    """Options of Fast-dLLM v2's objective."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"complementary_masks": False}]})

    complementary_masks: bool = Field(
        True, description="Read each row twice, the second time with just the other tokens masked."
    )

    @property
    def loss_is_bound(self) -> bool:
        """It is the mean surprise of masks."""
        return False


class ArOptions(ObjectiveOptions):
    """None: next-token prediction."""

    noise_schedules: ClassVar[frozenset[str] | None] = LINEAR
    trains: ClassVar[AttentionKind] = "causal"

    @property
    def scored_share(self) -> float:
        """All of them."""
        return 1.0


class DistributionOptions(ObjectiveOptions):
    """Options of an objective whose loss hangs on whole distributions: every token is scored."""

    time_conditioning: bool = Field(
        False, description="Whether the model is told the time; only a backbone that reads it can be trained."
    )

    @property
    def tells_time(self) -> bool:
        """See `ObjectiveOptions.tells_time`."""
        return self.time_conditioning

    @property
    def bound(self) -> Bound:
        """Of the noise schedule."""
        return "noise"

    @property
    def scored_share(self) -> float:
        """All of them."""
        return 1.0


class DuoOptions(DistributionOptions):
    """Options of uniform noise's NELBO."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"times": "independent"}, {"time_conditioning": True}]}
    )

    noise_schedules: ClassVar[frozenset[str] | None] = None
    destinations: ClassVar[frozenset[Destination]] = frozenset({"uniform"})

    times: Literal["antithetic", "independent"] = Field(
        "antithetic", description="Whether times are spread evenly over the global batch."
    )


class UdlmOptions(DistributionOptions):
    """Options of UDLM's objective."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"zero_recon_loss": True}, {"time_conditioning": True}]}
    )

    noise_schedules: ClassVar[frozenset[str] | None] = LINEAR
    destinations: ClassVar[frozenset[Destination]] = frozenset({"uniform"})

    zero_recon_loss: bool = Field(
        False,
        description="Leave out the cross-entropy of the clean row, which the model otherwise reads too.",
    )

    @property
    def bound(self) -> Bound:
        """Its own has the cross-entropy of the clean row in it."""
        return "noise" if self.zero_recon_loss else "noise-and-reconstruction"

    @property
    def copies_per_row(self) -> int:
        """The noisy and the clean one."""
        return 1 if self.zero_recon_loss else 2


class GiddOptions(DistributionOptions):
    """Options of GIDD's objective."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"weighting": "elbo"},
                {"weighting": "clip"},
                {"weighting": "log-snr"},
                {"weighting": "elbo", "times": "independent", "time_conditioning": True},
            ]
        }
    )

    noise_schedules: ClassVar[frozenset[str] | None] = None
    destinations: ClassVar[frozenset[Destination]] = frozenset({"mixture"})

    weighting: Literal["dynamic", "clip", "elbo", "log-snr"] = Field(
        "dynamic",
        description="`elbo` is the bound; `clip` limits its weight; `dynamic` has a weight for each kind of "
        "token; `log-snr` is the bound's by log-SNR, limited.",
    )
    min_weight: float = Field(0.0, ge=0, description="Smallest weight.")
    max_weight: float | None = Field(
        None, gt=0, description="Largest weight; by default 2, and 1000 with `weighting: log-snr`."
    )
    times: Literal["antithetic", "independent"] = Field(
        "antithetic", description="Whether times are spread evenly over the global batch."
    )

    @model_validator(mode="after")
    def _has_effect(self) -> "GiddOptions":
        if self.weighting == "elbo" and self.model_fields_set & {"min_weight", "max_weight"}:
            raise ValueError("min_weight and max_weight have no effect with weighting elbo")
        if self.min_weight > self.largest_weight:
            raise ValueError("min_weight must not be above max_weight")
        return self

    @property
    def loss_is_bound(self) -> bool:
        """With `elbo` only."""
        return self.weighting == "elbo"

    @property
    def largest_weight(self) -> float:
        """`max_weight`, or the published one."""
        if self.max_weight is not None:
            return self.max_weight
        return 1000.0 if self.weighting == "log-snr" else 2.0


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
    register(
        "duo",
        options=DuoOptions,
        target=f"{HERE}.duo:Duo",
        summary="the NELBO of uniform noise, as in Duo",
    )
    register(
        "udlm",
        options=UdlmOptions,
        target=f"{HERE}.udlm:Udlm",
        summary="uniform noise's NELBO and the clean row's cross-entropy, as in UDLM",
    )
    register(
        "gidd",
        options=GiddOptions,
        target=f"{HERE}.gidd:Gidd",
        summary="GIDD: masks mixed with uniform noise, weighed as published or as the NELBO",
    )
    register(
        "sdar",
        options=SdarOptions,
        target=f"{HERE}.sdar:Sdar",
        summary="SDAR: block diffusion with one time a document, ce / p",
    )
    register(
        "llada2",
        options=Llada2Options,
        target=f"{HERE}.llada2:Llada2",
        summary="LLaDA2: block diffusion, mean ce of masks from a noise range, optionally CAP",
    )
    register(
        "fast-dllm-v2",
        options=FastDllmV2Options,
        target=f"{HERE}.fast_dllm_v2:FastDllmV2",
        summary="Fast-dLLM v2: block diffusion over complementary views, mean ce",
    )
    register_policies(register)

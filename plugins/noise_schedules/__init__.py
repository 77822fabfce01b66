"""Noise schedules: names, options and where each is implemented."""

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from opendllm.registries import NoiseScheduleOptions, Register
from opendllm.registries.noise_schedules import Destination

HERE = "opendllm.plugins.noise_schedules"


class OneDestinationOptions(NoiseScheduleOptions):
    """Options of a schedule that says how much survives, whatever becomes of the rest."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"destination": "uniform"}]})

    destination: Literal["mask", "uniform"] = Field(
        "mask", description="What tokens become that don't survive: the mask token, or any token alike."
    )

    @property
    def noise_destination(self) -> Destination:
        """See `NoiseScheduleOptions.noise_destination`."""
        return self.destination


class MappableOptions(OneDestinationOptions):
    """Options of a schedule that runs from 1 to 0."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"destination": "uniform"}, {"eps": 1e-4}]})

    eps: float = Field(
        0.0, ge=0, lt=0.5, description="Maps alpha into [eps, 1 - eps]; MD4 trains with 1e-4. 0 leaves it."
    )


class LinearOptions(MappableOptions):
    """Options of the linear schedule."""


class CosineOptions(MappableOptions):
    """Options of the cosine schedule."""


class PolynomialOptions(MappableOptions):
    """Options of the polynomial schedule."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"destination": "uniform"},
                {"eps": 1e-4},
                {"exponent": 5},
                {"exponent": 8},
                {"exponent": 8, "eps": 1e-4},
            ]
        }
    )

    exponent: float = Field(2.0, gt=0, description="k of alpha = 1 - t^k; 1 is the linear schedule.")


class LoglinearOptions(OneDestinationOptions):
    """Options of MDLM's log-linear schedule."""

    eps: float = Field(1e-3, gt=0, lt=1, description="alpha(1), the share of tokens that are never masked.")


class GeometricOptions(OneDestinationOptions):
    """Options of the geometric schedule."""

    sigma_min: float = Field(1e-3, gt=0, description="-log alpha at time 0.")
    sigma_max: float = Field(
        20.0, gt=0, description="-log alpha at time 1; MDLM's own default of 1 leaves 37 % unmasked."
    )

    @model_validator(mode="after")
    def _in_order(self) -> "GeometricOptions":
        if self.sigma_min >= self.sigma_max:
            raise ValueError("sigma_min must be below sigma_max")
        return self


class ClippedOptions(OneDestinationOptions):
    """Options of BD3LM's clipped schedule."""

    low: float = Field(0.3, ge=0, lt=1, description="Smallest mask probability that is trained on.")
    high: float = Field(0.8, gt=0, le=1, description="Largest mask probability that is trained on.")

    @model_validator(mode="after")
    def _in_order(self) -> "ClippedOptions":
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class MixtureOptions(NoiseScheduleOptions):
    """Options of a schedule that couples masks and uniform noise."""

    @property
    def noise_destination(self) -> Destination:
        """See `NoiseScheduleOptions.noise_destination`."""
        return "mixture"


class GiddOptions(MixtureOptions):
    """Options of GIDD's mixture."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"p_uniform": 0.5}]})

    p_uniform: float = Field(
        0.1,
        ge=0,
        le=1,
        description="p_u, the largest share of uniform noise; the rest of the noise is masks.",
    )
    eps: float = Field(
        1e-4, gt=0, lt=0.5, description="Training times lie in [eps, 1 - eps]; GIDD trains with 1e-4."
    )

    @model_validator(mode="after")
    def _has_masks(self) -> "GiddOptions":
        if self.p_uniform == 1:
            raise ValueError(
                "p_uniform: 1 leaves no mixture, and GIDD's bound has no value there: for uniform noise use "
                "objective duo with a noise schedule of `destination: uniform`"
            )
        return self


class GiddLogSnrOptions(MixtureOptions):
    """Options of the mixture by log-SNR."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"shift": -2.0}]})

    shift: float = Field(
        0.0, description="At log-SNR l, sigmoid(l + shift) of the noise is uniform; -1000 is all masks."
    )
    largest_log_snr: float = Field(
        9.0, gt=0, le=30, description="Training times lie where |log-SNR| is at most this; published with 9."
    )


def register_all(register: Register) -> None:
    """Register every built-in noise schedule."""
    register(
        "linear", options=LinearOptions, target=f"{HERE}.linear:linear", summary="alpha = 1 - t, weight 1/t"
    )
    register(
        "cosine",
        options=CosineOptions,
        target=f"{HERE}.cosine:cosine",
        summary="alpha = 1 - cos(pi/2 (1 - t)), as in MD4",
    )
    register(
        "polynomial",
        options=PolynomialOptions,
        target=f"{HERE}.polynomial:polynomial",
        summary="alpha = 1 - t^k, weight k/t, as in MD4",
    )
    register(
        "loglinear",
        options=LoglinearOptions,
        target=f"{HERE}.loglinear:Loglinear",
        summary="alpha = 1 - (1 - eps) t, weight 1/t, as in MDLM",
    )
    register(
        "geometric",
        options=GeometricOptions,
        target=f"{HERE}.geometric:Geometric",
        summary="-log alpha grows geometrically, as in SEDD",
    )
    register(
        "clipped",
        options=ClippedOptions,
        target=f"{HERE}.clipped:Clipped",
        summary="linear on an interval of mask probabilities, as in BD3LM; for training only",
    )
    register(
        "gidd",
        options=GiddOptions,
        target=f"{HERE}.gidd:Gidd",
        summary="masks with uniform noise in between, as in GIDD",
    )
    register(
        "gidd-log-snr",
        options=GiddLogSnrOptions,
        target=f"{HERE}.gidd_log_snr:GiddLogSnr",
        summary="masks and uniform noise in shares that the log-SNR decides, as in GIDD's successor",
    )

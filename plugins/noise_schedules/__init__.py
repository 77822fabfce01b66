"""Noise schedules: names, options and where each is implemented."""

from opendllm.registries import PluginOptions, Register

HERE = "opendllm.plugins.noise_schedules"


class LinearOptions(PluginOptions):
    """None: alpha(t) = 1 - t."""


class CosineOptions(PluginOptions):
    """None: alpha(t) = 1 - cos(pi/2 (1 - t))."""


def register_all(register: Register) -> None:
    """Register every built-in noise schedule."""
    register(
        "linear", options=LinearOptions, target=f"{HERE}.linear:Linear", summary="alpha = 1 - t, weight 1/t"
    )
    register(
        "cosine",
        options=CosineOptions,
        target=f"{HERE}.cosine:Cosine",
        summary="alpha = 1 - cos(pi/2 (1 - t)), as in MD4",
    )

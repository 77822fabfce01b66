"""The contracts between the platform and its plugins. This package knows neither."""

from opendllm.registries.errors import PluginError, UserError
from opendllm.registries.hookspecs import Register, hookimpl
from opendllm.registries.options import (
    AttentionKind,
    BackboneOptions,
    BenchmarkOptions,
    HubIdOrPath,
    ManifestPath,
    NoiseScheduleOptions,
    ObjectiveOptions,
    PluginOptions,
    ProblemFileOptions,
    SamplerOptions,
)

__all__ = [
    "AttentionKind",
    "BackboneOptions",
    "BenchmarkOptions",
    "HubIdOrPath",
    "ManifestPath",
    "NoiseScheduleOptions",
    "ObjectiveOptions",
    "PluginError",
    "PluginOptions",
    "ProblemFileOptions",
    "Register",
    "SamplerOptions",
    "UserError",
    "hookimpl",
]

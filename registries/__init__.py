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
    PolicyObjectiveOptions,
    ProblemFileOptions,
    RewardOptions,
    SamplerOptions,
)
from opendllm.registries.planned_requests import PlannedLikelihoods, PlannedRequests, PlannedTexts

__all__ = [
    "AttentionKind",
    "BackboneOptions",
    "BenchmarkOptions",
    "HubIdOrPath",
    "ManifestPath",
    "NoiseScheduleOptions",
    "ObjectiveOptions",
    "PlannedLikelihoods",
    "PlannedRequests",
    "PlannedTexts",
    "PluginError",
    "PluginOptions",
    "PolicyObjectiveOptions",
    "ProblemFileOptions",
    "Register",
    "RewardOptions",
    "SamplerOptions",
    "UserError",
    "hookimpl",
]

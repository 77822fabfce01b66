"""The extension points: what each one's plugins derive from, and how people write its name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

from opendllm.registries.options import (
    BackboneOptions,
    ObjectiveOptions,
    PluginOptions,
    PolicyObjectiveOptions,
    RewardOptions,
    SamplerOptions,
)


@dataclass(frozen=True)
class _Point:
    module: str
    contract: str
    options: type[PluginOptions] = PluginOptions


_POINTS: Mapping[str, _Point] = {
    "noise_schedules": _Point("noise_schedules", "NoiseSchedule"),
    "objectives": _Point("objectives", "Objective", ObjectiveOptions),
    "samplers": _Point("samplers", "Sampler", SamplerOptions),
    "backbones": _Point("backbones", "Backbone", BackboneOptions),
    "corpora": _Point("corpora", "Corpus"),
    "benchmarks": _Point("benchmarks", "Benchmark"),
    "rewards": _Point("rewards", "Reward", RewardOptions),
}
_POLICIES = _Point("policies", "PolicyObjective", PolicyObjectiveOptions)
"""Objectives, too: those whose options say that they learn from rewards."""
EXTENSION_POINTS = tuple(_POINTS)
"""The names of all of them: those of the hooks, without `register_`."""


def contract_class(kind: str, options: type[PluginOptions] = PluginOptions) -> type:
    """What the plugins of an extension point are instances of.

    The contracts are imported here, since some of them speak of registrations themselves.

    Args:
        kind: the extension point.
        options: the plugin's options model: of an objective it says whether it is a policy objective.
    """
    point = _POLICIES if issubclass(options, _POLICIES.options) else _POINTS[kind]
    found: type = getattr(importlib.import_module(f"opendllm.registries.{point.module}"), point.contract)
    return found


def options_base(kind: str) -> type[PluginOptions]:
    """What the options models of an extension point derive from."""
    return _POINTS[kind].options


def spelt_alike(given: str) -> str | None:
    """The extension point that `sampler`, `noise-schedules` or `noise_schedule` means; None of others."""
    meant = given.lower().replace("-", "_")
    for kind, point in _POINTS.items():
        if meant in (kind, kind.removesuffix("s"), point.contract.lower()):
            return kind
    return None

"""What a checkpoint and a result were made with. Imports no torch."""

from __future__ import annotations

from typing import Any

from opendllm.core.manifest.checks import default_sampler
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.registries.discovery import Plugins


def provenance(variant: Variant, plugins: Plugins) -> dict[str, Any]:
    """What travels with a checkpoint and with each result."""
    return {
        "manifest": variant.manifest.model_dump(mode="json"),
        "training_digest": variant.training_digest,
        "seed": variant.manifest.seed,
        "plugins": plugin_versions(variant, plugins),
    }


def plugin_versions(variant: Variant, plugins: Plugins) -> dict[str, str]:
    """Every plugin that a variant uses, with its package and version."""
    manifest = variant.manifest
    used = [("backbones", manifest.model.backbone.name)]
    if manifest.data is not None:
        used.extend(("corpora", choice.name) for choice in manifest.data.corpora())
    if manifest.train is not None:
        used.append(("objectives", manifest.train.objective.name))
        used.append(("noise_schedules", manifest.train.noise_schedule.name))
    sampler = manifest.generate.sampler or default_sampler(manifest, plugins)
    if sampler is not None:
        used.append(("samplers", sampler.name))
    used.extend(("benchmarks", entry.benchmark.name) for entry in manifest.evaluate)
    return {f"{kind}/{name}": str(plugins.of_kind(kind).get(name).provenance) for kind, name in used}

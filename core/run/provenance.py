"""What a checkpoint and a result were made with. Imports no torch."""

from __future__ import annotations

from typing import Any

from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.registries.sources import source_digests


def provenance(variant: Variant) -> dict[str, Any]:
    """What travels with a checkpoint and with each result."""
    return {
        "manifest": variant.manifest.model_dump(mode="json"),
        "training_digest": variant.training_digest,
        "seed": variant.manifest.seed,
        "plugins": plugin_versions(variant),
        "sources": source_digests(variant.plugins),
    }


def plugin_versions(variant: Variant) -> dict[str, str]:
    """Every plugin that a variant uses, with its package and version."""
    used = (plugin.registration for plugin in variant.plugins)
    return {f"{found.kind}/{found.name}": str(found.provenance) for found in used}

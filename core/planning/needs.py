"""What a variant needs that isn't on this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from opendllm.core.foundation.hub import in_hub_cache
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.core.planning.endpoint_plan import missing_for


def missing(variant: Variant) -> list[str]:
    """What a variant needs that isn't here, each with what to do."""
    if variant.manifest.endpoint is not None:
        return missing_for(variant.manifest.endpoint)
    found = []
    train, backbone = variant.manifest.train, variant.plugins.backbone.options
    packages: list[str] = list(train.trackers) if train else []
    packages += ["peft"] if train and train.lora else []
    packages += ["torchao", "accelerate"] if getattr(backbone, "load_in_8bit", False) else []
    packages += ["accelerate"] if getattr(backbone, "device_map", None) else []
    for package in dict.fromkeys(packages):
        if importlib.util.find_spec(package) is None:
            found.append(f"the package {package}: pip install {package}")
    wanted = to_download(variant)
    if wanted is not None:
        found.append(f"{wanted}: is downloaded from the hub when the run begins")
    return found


def to_download(variant: Variant) -> str | None:
    """The hub id of the checkpoint that a variant begins with, if it isn't on this machine."""
    backbone = variant.plugins.own_backbone
    pretrained = None if backbone is None else backbone.options.pretrained
    if pretrained and not Path(pretrained).expanduser().exists() and not in_hub_cache(pretrained):
        return pretrained
    return None

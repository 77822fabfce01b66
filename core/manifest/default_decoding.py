"""What a manifest leaves to the backbone's authors, spelled out: sampler, its options, the decoder's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from opendllm.core.checkpoints.families import stored_block_length
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.settings import default_options
from opendllm.core.manifest.checks import generation_of
from opendllm.core.manifest.reward_schema import Rollout
from opendllm.core.manifest.schema import Generate, Manifest
from opendllm.core.manifest.section import PluginChoice
from opendllm.registries.discovery import Plugins
from opendllm.registries.errors import PluginError, UserError
from opendllm.registries.options import BackboneOptions


def with_default_decoding(manifest: Manifest, plugins: Plugins) -> Manifest:
    """The manifest with `generate`, here and in `evaluate`, as the backbone's authors have it.

    A section that names a sampler stays as it is: the sampler begins with its own defaults. So does a
    manifest whose backbone is unknown or can't have its options, which is told elsewhere, and one that asks a
    server.
    """
    if manifest.endpoint is not None:
        return manifest
    family = _family(manifest.local_model.backbone, plugins)
    if family is None or not family.default_options:
        return manifest
    defaults = default_options(family, _stored_block_length(family))
    evaluate = []
    for index, entry in enumerate(manifest.evaluate):
        own = entry.generate
        if own is not None:  # every setting: what the other section is given doesn't hold for another sampler
            whole = _filled(generation_of(manifest, index), family.default_sampler, defaults)
            own = whole.model_copy(update={name: getattr(whole, name) for name in Generate.model_fields})
        evaluate.append(entry.model_copy(update={"generate": own}))
    generate = _filled(manifest.generate, family.default_sampler, defaults)
    train = manifest.train
    if train is not None and train.rl is not None:
        # Whatever temperature the authors decode with: answers to one prompt are to differ.
        others = {name: value for name, value in defaults.items() if name != "temperature"}
        rollout = _filled(train.rl.rollout, family.default_sampler, others)
        rl = train.rl.model_copy(update={"rollout": rollout})
        train = train.model_copy(update={"rl": rl})
    return manifest.model_copy(update={"generate": generate, "evaluate": tuple(evaluate), "train": train})


SectionT = TypeVar("SectionT", Generate, Rollout)


def _filled(generate: SectionT, sampler: str, defaults: dict[str, Any]) -> SectionT:
    if generate.sampler is not None:
        return generate
    decoder = {name: value for name, value in defaults.items() if name in DecoderOptions.model_fields}
    own = {name: value for name, value in defaults.items() if name not in decoder}
    unsaid = {name: value for name, value in decoder.items() if name not in generate.model_fields_set}
    return generate.model_copy(update={**unsaid, "sampler": PluginChoice(name=sampler, options=own)})


def _family(choice: PluginChoice, plugins: Plugins) -> BackboneOptions | None:
    try:
        options = plugins.backbones.get(choice.name).options.model_validate(choice.options)
    except (PluginError, ValidationError):
        return None
    return options if isinstance(options, BackboneOptions) else None


def _stored_block_length(family: BackboneOptions) -> int | None:
    """Of a folder that is there; a hub id's files aren't fetched for it."""
    pretrained = family.pretrained
    if pretrained is None or not Path(pretrained).is_dir():
        return None
    try:
        return stored_block_length(Path(pretrained), family)
    except UserError:
        return None  # told where the model is loaded

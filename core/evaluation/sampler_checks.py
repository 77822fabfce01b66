"""Whether a variant's samplers go with its checkpoint: by its config.json, before its weights are read."""

from __future__ import annotations

from pathlib import Path

from opendllm.core.checkpoints.families import attention_of, noise_of
from opendllm.core.checkpoints.pretrained import fetch_config
from opendllm.core.decoding.settings import check_destination, check_reach, check_sampler
from opendllm.core.manifest.checks import decoder_options, generation_of
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.registries.options import only_asks_likelihoods


def check_samplers(variant: Variant, folder: Path) -> None:
    """Refuse what `decode` would refuse later, of every benchmark that has texts written.

    Args:
        variant: what is to be evaluated.
        folder: the variant's, where it is trained.

    Raises:
        UserError: a sampler or an option doesn't go with the checkpoint; or there is none.
    """
    manifest, backbone = variant.manifest, variant.plugins.backbone
    pretrained = backbone.options.pretrained if manifest.train is None else None
    source = folder if pretrained is None else fetch_config(pretrained)
    noise, attention = noise_of(source), attention_of(backbone, source)
    for index, own in enumerate(variant.plugins.evaluations):
        if only_asks_likelihoods(own.benchmark.options):
            continue
        check_destination(own.sampler.registration, noise.destination)
        decoder = decoder_options(generation_of(manifest, index))
        check_reach(decoder, attention, noise.time_conditioning)
        check_sampler(own.sampler.build(), decoder, attention, noise.time_conditioning)

"""A variant's last checkpoint, ready to be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opendllm.core.checkpoints.files import model_folder, provenance_of
from opendllm.core.checkpoints.pretrained import PRETRAINED_KEY, commit_of, fetch
from opendllm.core.evaluation.answering import Asked
from opendllm.core.evaluation.replicas import LoadedModel, load_replicas
from opendllm.core.evaluation.sampler_checks import check_samplers
from opendllm.core.manifest.checks import decoder_options, generation_of
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.registries.errors import UserError


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint, once on each device."""

    models: Sequence[LoadedModel]
    trained: Mapping[str, Any]

    @property
    def step(self) -> int:
        """0 of one that is published."""
        return int(self.trained["step"])

    @property
    def longest(self) -> int:
        """Its context."""
        return self.models[0].lm.context_length

    def provenance(self, about: Path) -> dict[str, Any]:
        """Its step, and how it was extended to it; or the hub's commit of it."""
        return dict(self.trained)

    def respondent(self, variant: Variant, index: int) -> Asked:
        """All its replicas."""
        manifest = variant.manifest
        entry, generate = manifest.evaluate[index], generation_of(manifest, index)
        sampler = variant.plugins.evaluations[index].sampler
        return Asked(
            replicas=[model.with_sampler(sampler) for model in self.models],
            options=decoder_options(generate),
            chat=generate.chat,
            samples_per_task=entry.samples_per_task,
            batch_size=entry.batch_size,
            sizes=variant.plugins.backbone.options.architecture(self.models[0].lm.vocab_size),
            likelihood_estimator=entry.likelihood_estimator,
            likelihood_draws=entry.likelihood_draws,
            seed=manifest.seed,
        )


def open_checkpoint(variant: Variant, folder: Path) -> LoadedCheckpoint:
    """The last checkpoint on each device, if the variant's samplers go with it.

    Raises:
        UserError: see `check_samplers` and `load_replicas`; or the training isn't finished.
    """
    check_samplers(variant, folder)
    manifest, backbone = variant.manifest, variant.plugins.backbone
    pretrained = backbone.options.pretrained if manifest.train is None else None
    source = folder if pretrained is None else fetch(pretrained, said_as=PRETRAINED_KEY)
    models = load_replicas(
        source,
        backbone,
        manifest.device,
        manifest.local_model.add_bos_token,
    )
    commit = None if pretrained is None else commit_of(source)
    published: dict[str, Any] = {"step": 0} if commit is None else {"step": 0, "commit": commit}
    found = LoadedCheckpoint(models, _trained(folder) if pretrained is None else published)
    wanted = manifest.train.steps if manifest.train else 0
    if found.step < wanted:
        raise UserError(
            f"{variant.name} is trained to step {found.step} of {wanted}: run the manifest without --only to "
            f"finish"
        )
    return found


def _trained(folder: Path) -> dict[str, Any]:
    """The step of the checkpoint that is evaluated, and how it was extended to it."""
    provenance = provenance_of(model_folder(folder).parent)
    extended = {"extended": provenance["extended"]} if "extended" in provenance else {}
    return {"step": int(provenance["step"]), **extended}

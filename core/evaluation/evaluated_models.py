"""What a variant's benchmarks are put to: its last checkpoint, or the server that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from opendllm.core.checkpoints.files import model_folder, provenance_of
from opendllm.core.checkpoints.pretrained import fetch
from opendllm.core.endpoints.asking import Known
from opendllm.core.evaluation.answering import Asked
from opendllm.core.evaluation.endpoint_respondent import EndpointRespondent
from opendllm.core.evaluation.replicas import LoadedModel, load_replicas
from opendllm.core.evaluation.respondent import Respondent
from opendllm.core.evaluation.sampler_checks import check_samplers
from opendllm.core.foundation.json_objects import read_json_object
from opendllm.core.manifest.checks import decoder_options, generation_of
from opendllm.core.manifest.endpoint_schema import Endpoint
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.registries.errors import UserError

UNBOUNDED = 1 << 20
"""Tokens that a text for a server may have: where its context ends, it says itself."""


class EvaluatedModel(Protocol):
    """A model that can be asked."""

    @property
    def step(self) -> int:
        """That it is trained to; 0 of one that isn't trained here."""

    @property
    def longest(self) -> int:
        """Tokens of the longest text that it reads."""

    def provenance(self, about: Path) -> dict[str, Any]:
        """What a result says of it; `about` is the file that says it of the samples on file."""

    def respondent(self, variant: Variant, index: int) -> Respondent:
        """It, as an entry of `evaluate` asks it."""


def open_model(variant: Variant, folder: Path) -> EvaluatedModel:
    """The variant's, ready to be asked; of a server nothing is asked yet.

    Raises:
        UserError: see `open_checkpoint`.
    """
    endpoint = variant.manifest.endpoint
    return open_checkpoint(variant, folder) if endpoint is None else ServedModel(endpoint)


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
        """Its step, and how it was extended to it."""
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
            likelihood_estimator=entry.likelihood_estimator,
            likelihood_draws=entry.likelihood_draws,
            seed=manifest.seed,
        )


@dataclass(frozen=True)
class ServedModel:
    """A model that a server runs."""

    endpoint: Endpoint
    known: Known = field(default_factory=Known)
    step = 0
    longest = UNBOUNDED

    def provenance(self, about: Path) -> dict[str, Any]:
        """Where it is and what it is called there; and what is served, as it said when it was asked last."""
        served = list(self.known.models or ()) or None
        if not self.known.asked:
            with suppress(UserError, KeyError, TypeError):
                served = read_json_object(about, optional=True)["provenance"]["endpoint"]["served_models"]
        place = {"url": self.endpoint.base_url, "model": self.endpoint.model}
        return {"step": self.step, "endpoint": {**place, "served_models": served, "weights": "unknown"}}

    def respondent(self, variant: Variant, index: int) -> EndpointRespondent:
        """Its server."""
        manifest = variant.manifest
        return EndpointRespondent(
            self.endpoint,
            generation_of(manifest, index),
            manifest.evaluate[index].samples_per_task,
            manifest.seed,
            self.known,
        )


def open_checkpoint(variant: Variant, folder: Path) -> LoadedCheckpoint:
    """The last checkpoint on each device, if the variant's samplers go with it.

    Raises:
        UserError: see `check_samplers` and `load_replicas`; or the training isn't finished.
    """
    check_samplers(variant, folder)
    manifest, backbone = variant.manifest, variant.plugins.backbone
    pretrained = backbone.options.pretrained if manifest.train is None else None
    models = load_replicas(
        folder if pretrained is None else fetch(pretrained),
        backbone,
        manifest.device,
        manifest.local_model.add_bos_token,
    )
    found = LoadedCheckpoint(models, _trained(folder) if pretrained is None else {"step": 0})
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

"""What a variant's benchmarks are put to: its last checkpoint, or the server that it names."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from opendllm.core.endpoints.asking import Known
from opendllm.core.evaluation.endpoint_respondent import EndpointRespondent
from opendllm.core.evaluation.respondent import Respondent
from opendllm.core.foundation.json_objects import read_json_object
from opendllm.core.manifest.checks import generation_of
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
    if variant.manifest.endpoint is not None:
        return ServedModel(variant.manifest.endpoint)
    from opendllm.core.evaluation.loaded_checkpoint import open_checkpoint  # transformers

    return open_checkpoint(variant, folder)


@dataclass(frozen=True)
class ServedModel:
    """A model that a server runs."""

    endpoint: Endpoint
    known: Known = field(default_factory=Known)
    step = 0
    longest = UNBOUNDED

    def provenance(self, about: Path) -> dict[str, Any]:
        """Where it is and what it is called there; what is served, as it said when it was asked last; and
        whether it may have ignored suffixes.
        """
        served = list(self.known.models or ()) or None
        if not self.known.asked:
            with suppress(UserError, KeyError, TypeError):
                served = read_json_object(about, optional=True)["provenance"]["endpoint"]["served_models"]
        if not self.known.reads_suffixes:
            with suppress(UserError, KeyError, TypeError, AttributeError):
                before = read_json_object(about, optional=True)["provenance"]["endpoint"]
                self.known.suffixes_unclear |= before.get("suffixes") == "unclear"
        unclear = {"suffixes": "unclear"} if self.known.suffixes_unclear else {}
        place = {"url": self.endpoint.base_url, "model": self.endpoint.model}
        return {
            "step": self.step,
            "endpoint": {**place, "served_models": served, "weights": "unknown", **unclear},
        }

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

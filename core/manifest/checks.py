"""Checks a manifest against the models and the installed plugins, and words what is wrong."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.settings import check_effect
from opendllm.core.manifest.schema import Generate, Manifest, PluginChoice
from opendllm.core.manifest.sources import KeyPath, Place, Source
from opendllm.registries.discovery import Plugins
from opendllm.registries.errors import PluginError, UserError
from opendllm.registries.options import BackboneOptions, ObjectiveOptions, PluginOptions
from opendllm.registries.registry import did_you_mean

_KINDS = {"model_type": "mapping", "dict_type": "mapping", "list_type": "list", "tuple_type": "list"}


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong with a manifest."""

    place: Place
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.key}: {self.message}" if self.key else f"{self.place}: {self.message}"


class ManifestError(UserError):
    """A manifest that can't be run; the message has one line for each complaint."""

    def __init__(self, complaints: list[Complaint]) -> None:
        super().__init__("\n".join(dict.fromkeys(map(str, complaints))))
        self.complaints = complaints


def validate(source: Source, model: type[Manifest], file: type[Manifest]) -> Manifest:
    """The manifest as a model.

    Args:
        source: one variant's keys.
        model: what they must fit.
        file: what the file's keys are, for suggestions.

    Raises:
        ManifestError: it doesn't fit.
    """
    try:
        return model.model_validate(source.data)
    except ValidationError as error:
        raise ManifestError(list(complaints_of(error, source, file))) from error


def check_plugins(manifest: Manifest, source: Source, plugins: Plugins) -> None:
    """Every plugin is there, takes its options, and goes with the others.

    Raises:
        ManifestError: one isn't, doesn't, or won't.
    """
    complaints: list[Complaint] = []

    def options_of(kind: str, choice: PluginChoice, path: KeyPath) -> PluginOptions | None:
        try:
            registration = plugins.of_kind(kind).get(choice.name)
        except PluginError as error:
            at = (*path, "name")
            complaints.append(Complaint(source.place(at), _dotted(at), str(error)))
            return None
        try:
            return registration.options.model_validate(choice.options)
        except ValidationError as error:
            complaints.extend(complaints_of(error, source, registration.options, (*path, "options")))
            return None

    backbone = options_of("backbones", manifest.model.backbone, ("model", "backbone"))
    if manifest.data is not None:
        if manifest.data.corpus is not None:
            options_of("corpora", manifest.data.corpus, ("data", "corpus"))
        for index, part in enumerate(manifest.data.mixture):
            options_of("corpora", part.corpus, ("data", "mixture", index, "corpus"))
    objective = None
    if manifest.train is not None:
        objective = options_of("objectives", manifest.train.objective, ("train", "objective"))
        options_of("noise_schedules", manifest.train.noise_schedule, ("train", "noise_schedule"))
    for index, entry in enumerate(manifest.evaluate):
        options_of("benchmarks", entry.benchmark, ("evaluate", index, "benchmark"))
    for path, generate in _generations(manifest):
        choice = generate.sampler or default_sampler(manifest, plugins)
        if choice is not None and options_of("samplers", choice, (*path, "sampler")) is not None:
            _collect(
                complaints,
                source,
                path,
                lambda choice=choice, generate=generate: check_effect(  # type: ignore[misc]
                    decoder_options(generate), plugins.samplers.get(choice.name)
                ),
            )
    if isinstance(backbone, BackboneOptions):
        complaints.extend(_data_complaints(manifest, source, backbone))
        complaints.extend(_loading_complaints(manifest, source, backbone))
        complaints.extend(_attention_complaints(manifest, source, backbone, objective))
    if complaints:
        raise ManifestError(complaints)


def default_sampler(manifest: Manifest, plugins: Plugins) -> PluginChoice | None:
    """The sampler of the backbone's authors; None where the backbone is unknown."""
    name = manifest.model.backbone.name
    if name not in plugins.backbones.names():
        return None
    options = plugins.backbones.get(name).options
    return PluginChoice(name=options.default_sampler) if issubclass(options, BackboneOptions) else None


def decoder_options(generate: Generate) -> DecoderOptions:
    """The decoder's part of a `generate` section."""
    return DecoderOptions.model_validate(generate.model_dump(exclude={"sampler", "chat"}))


def generation_of(manifest: Manifest, index: int) -> Generate:
    """The `generate` section that holds for one entry of `evaluate`."""
    own = manifest.evaluate[index].generate
    if own is None:
        return manifest.generate
    return manifest.generate.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})


def _generations(manifest: Manifest) -> Iterator[tuple[KeyPath, Generate]]:
    yield ("generate",), manifest.generate
    for index, entry in enumerate(manifest.evaluate):
        if entry.generate is not None:
            yield ("evaluate", index, "generate"), generation_of(manifest, index)


def _data_complaints(manifest: Manifest, source: Source, backbone: BackboneOptions) -> Iterator[Complaint]:
    """A model that is trained or built needs data; only a pretrained one brings a tokenizer."""
    if manifest.data is None:
        if manifest.train is not None or backbone.pretrained is None:
            yield Complaint(source.place(("data",)), "data", "is missing")
    elif manifest.data.tokenizer is None and backbone.pretrained is None:
        yield Complaint(source.place(("data", "tokenizer")), "data.tokenizer", "is missing")


def _loading_complaints(manifest: Manifest, source: Source, backbone: BackboneOptions) -> Iterator[Complaint]:
    """Spread and 8-bit models are loaded to be evaluated."""
    for name in ("device_map", "load_in_8bit"):
        at: KeyPath = ("model", "backbone", "options", name)
        if getattr(backbone, name) and backbone.pretrained is None:
            yield Complaint(source.place(at), _dotted(at), "has no effect without `pretrained`")
        elif getattr(backbone, name) and manifest.train is not None:
            yield Complaint(source.place(at), _dotted(at), "is for evaluation; training cannot use it")


def _attention_complaints(
    manifest: Manifest, source: Source, backbone: BackboneOptions, objective: PluginOptions | None
) -> Iterator[Complaint]:
    at: KeyPath = ("model", "backbone", "options", "attention")
    if (backbone.attention == "block-causal") != (backbone.block_length is not None):
        yield Complaint(
            source.place(at), _dotted(at), "`attention: block-causal` and `block_length` go together"
        )
    if manifest.train is None or not isinstance(objective, ObjectiveOptions):
        return
    if objective.trains != backbone.attention:
        yield Complaint(
            source.place(("train", "objective", "name")),
            "train.objective",
            f"{manifest.train.objective.name!r} trains {objective.trains} models, and the backbone's "
            f"attention is {backbone.attention}: set model.backbone.options.attention",
        )
    allowed = objective.noise_schedules
    schedule = manifest.train.noise_schedule
    if allowed is not None and schedule.name in allowed and schedule.options:
        yield Complaint(
            source.place(("train", "noise_schedule", "options")),
            "train.noise_schedule.options",
            f"have no effect: objective {manifest.train.objective.name!r} brings its own schedule",
        )
    if allowed is not None and manifest.train.noise_schedule.name not in allowed:
        yield Complaint(
            source.place(("train", "noise_schedule", "name")),
            "train.noise_schedule",
            f"objective {manifest.train.objective.name!r} brings its own schedule; only "
            f"{', '.join(sorted(allowed))} goes with it",
        )


def _collect(complaints: list[Complaint], source: Source, path: KeyPath, check: Callable[[], None]) -> None:
    try:
        check()
    except UserError as error:
        complaints.append(Complaint(source.place(path), _dotted(path), str(error)))


def complaints_of(
    error: ValidationError, source: Source, model: type[BaseModel], prefix: KeyPath = ()
) -> Iterator[Complaint]:
    """What pydantic found, each with the place that it was said at."""
    for detail in error.errors():
        path: KeyPath = (*prefix, *detail["loc"])
        if detail["type"] == "extra_forbidden":
            known = _known_keys(model, detail["loc"][:-1])
            message = f"unknown key; {did_you_mean(str(path[-1]), known)}"
        elif detail["type"] == "missing":
            message = "is missing"
        elif detail["type"] in _KINDS:
            message = f"should be a {_KINDS[detail['type']]} (given: {detail['input']!r})"
        else:
            message = detail["msg"].removeprefix("Value error, ")
            if not isinstance(detail["input"], dict | list):
                message += f" (given: {detail['input']!r})"
        yield Complaint(source.place(path), _dotted(path), message)


def _known_keys(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The keys that the mapping at `path` may have."""
    current: Any = model
    for part in path:
        if isinstance(part, int):
            current = next((a for a in typing.get_args(current) if a is not Ellipsis), None)
        elif isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = current.model_fields[part].annotation
        if typing.get_origin(current) in (types.UnionType, typing.Union):
            current = next(option for option in typing.get_args(current) if option is not type(None))
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))

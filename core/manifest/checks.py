"""Checks a manifest against the models and the installed plugins, and words what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.settings import check_effect
from opendllm.core.foundation.option_errors import option_errors
from opendllm.core.manifest.schema import Generate, Manifest, PluginChoice
from opendllm.core.manifest.sources import KeyPath, Location, Source
from opendllm.registries.discovery import Plugins
from opendllm.registries.errors import PluginError, UserError
from opendllm.registries.options import BackboneOptions, ObjectiveOptions, PluginOptions


@dataclass(frozen=True)
class Issue:
    """One thing that is wrong with a manifest."""

    location: Location
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (str(self.location), self.key, self.message)))


class ManifestError(UserError):
    """A manifest that can't be run; the message has one line for each issue."""

    def __init__(self, issues: list[Issue]) -> None:
        super().__init__("\n".join(dict.fromkeys(map(str, issues))))
        self.issues = issues


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
        raise ManifestError(list(issues_of(error, source, file))) from error


def check_plugins(manifest: Manifest, source: Source, plugins: Plugins) -> None:
    """Every plugin is there, takes its options, and goes with the others.

    Raises:
        ManifestError: one isn't, doesn't, or won't.
    """
    issues: list[Issue] = []

    def options_of(kind: str, choice: PluginChoice, path: KeyPath) -> PluginOptions | None:
        try:
            registration = plugins.of_kind(kind).get(choice.name)
        except PluginError as error:
            at = (*path, "name")
            issues.append(Issue(source.location(at), _dotted(at), str(error)))
            return None
        try:
            return registration.options.model_validate(choice.options)
        except ValidationError as error:
            issues.extend(issues_of(error, source, registration.options, (*path, "options")))
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
                issues,
                source,
                path,
                lambda choice=choice, generate=generate: check_effect(  # type: ignore[misc]
                    decoder_options(generate), plugins.samplers.get(choice.name)
                ),
            )
    if isinstance(backbone, BackboneOptions):
        issues.extend(_data_issues(manifest, source, backbone))
        issues.extend(_loading_issues(manifest, source, backbone))
        issues.extend(_attention_issues(manifest, source, backbone, objective))
    if issues:
        raise ManifestError(issues)


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


def _data_issues(manifest: Manifest, source: Source, backbone: BackboneOptions) -> Iterator[Issue]:
    """A model that is trained or built needs data; only a pretrained one brings a tokenizer."""
    if manifest.data is None:
        if manifest.train is not None or backbone.pretrained is None:
            yield Issue(source.location(("data",)), "data", "is missing")
    elif manifest.data.tokenizer is None and backbone.pretrained is None:
        yield Issue(source.location(("data", "tokenizer")), "data.tokenizer", "is missing")


def _loading_issues(manifest: Manifest, source: Source, backbone: BackboneOptions) -> Iterator[Issue]:
    """Spread and 8-bit models are loaded to be evaluated."""
    for name in ("device_map", "load_in_8bit"):
        at: KeyPath = ("model", "backbone", "options", name)
        if getattr(backbone, name) and backbone.pretrained is None:
            yield Issue(source.location(at), _dotted(at), "has no effect without `pretrained`")
        elif getattr(backbone, name) and manifest.train is not None:
            yield Issue(source.location(at), _dotted(at), "is for evaluation; training cannot use it")


def _attention_issues(
    manifest: Manifest, source: Source, backbone: BackboneOptions, objective: PluginOptions | None
) -> Iterator[Issue]:
    at: KeyPath = ("model", "backbone", "options", "attention")
    if (backbone.attention == "block-causal") != (backbone.block_length is not None):
        yield Issue(
            source.location(at), _dotted(at), "`attention: block-causal` and `block_length` go together"
        )
    if manifest.train is None or not isinstance(objective, ObjectiveOptions):
        return
    if objective.trains != backbone.attention:
        yield Issue(
            source.location(("train", "objective", "name")),
            "train.objective",
            f"{manifest.train.objective.name!r} trains {objective.trains} models, and the backbone's "
            f"attention is {backbone.attention}: set model.backbone.options.attention",
        )
    allowed = objective.noise_schedules
    schedule = manifest.train.noise_schedule
    if allowed is not None and schedule.name in allowed and schedule.options:
        yield Issue(
            source.location(("train", "noise_schedule", "options")),
            "train.noise_schedule.options",
            f"have no effect: objective {manifest.train.objective.name!r} brings its own schedule",
        )
    if allowed is not None and manifest.train.noise_schedule.name not in allowed:
        yield Issue(
            source.location(("train", "noise_schedule", "name")),
            "train.noise_schedule",
            f"objective {manifest.train.objective.name!r} brings its own schedule; only "
            f"{', '.join(sorted(allowed))} goes with it",
        )


def _collect(issues: list[Issue], source: Source, path: KeyPath, check: Callable[[], None]) -> None:
    try:
        check()
    except UserError as error:
        issues.append(Issue(source.location(path), _dotted(path), str(error)))


def issues_of(
    error: ValidationError, source: Source, model: type[BaseModel], prefix: KeyPath = ()
) -> Iterator[Issue]:
    """What pydantic found, each with the location that it was said at."""
    for found in option_errors(error, model):
        path: KeyPath = (*prefix, *found.path)
        yield Issue(source.location(path), _dotted(path), found.message)


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))

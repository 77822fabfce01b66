"""From a manifest file to its variants, resolved and checked."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from opendllm.core.foundation.json_objects import digest
from opendllm.core.manifest.checks import Issue, ManifestError, validate
from opendllm.core.manifest.default_decoding import with_default_decoding
from opendllm.core.manifest.endpoint_checks import resolve_endpoint_plugins
from opendllm.core.manifest.grids import without_grids
from opendllm.core.manifest.lengths import unwritable
from opendllm.core.manifest.paths import with_absolute_paths, without_paths
from opendllm.core.manifest.plugin_checks import resolve_plugins, unknown_plugins
from opendllm.core.manifest.published import read_published
from opendllm.core.manifest.requirements import requirement_issues
from opendllm.core.manifest.schema import ExperimentManifest, Launch, Manifest, PublishedFigures
from opendllm.core.manifest.section import NAME_PATTERN
from opendllm.core.manifest.sources import KeyPath, Location, Source, merge, override, parse_value, read_yaml
from opendllm.core.manifest.trained_from import trained_from
from opendllm.core.manifest.variant_plugins import VariantPlugins
from opendllm.registries.discovery import Plugins
from opendllm.registries.errors import UserError
from opendllm.registries.suggestions import did_you_mean

DATA_FOLDER = "data"
"""Where a run keeps its prepared data, beside its variants' folders."""
_OWN_KEYS = ("extends", "require", "variants", "seeds", "published")
WHOLE_EXPERIMENT_KEYS = (*_OWN_KEYS, "name", "description", "output", "launch")
"""What no variant can change."""


@dataclass(frozen=True)
class Variant:
    """One row of the comparison.

    Attributes:
        name: its own.
        manifest: with everything resolved.
        plugins: that the manifest names, with their options checked.
    """

    name: str
    manifest: Manifest
    plugins: VariantPlugins

    @cached_property
    def training_digest(self) -> str:
        """Of what decides the trained weights, wherever its files lie: the same for a run that was moved."""
        return digest(without_paths(trained_from(self.manifest.model_dump(mode="json")), self.plugins))

    def with_steps(self, steps: int) -> Variant:
        """The same variant, trained for another number of steps."""
        train = self.manifest.train
        assert train is not None
        changed = self.manifest.model_copy(update={"train": train.model_copy(update={"steps": steps})})
        return Variant(self.name, changed, self.plugins)

    @property
    def shared_training(self) -> str:
        """The same for those variants of an experiment that can share a training run."""
        return digest(trained_from(self.manifest.model_dump(mode="json")))


@dataclass(frozen=True)
class Experiment:
    """A manifest with everything resolved."""

    name: str
    description: str
    output: Path
    variants: tuple[Variant, ...]
    published: tuple[PublishedFigures, ...] = ()
    launch: Launch | None = None
    require: Mapping[str, str] = field(default_factory=dict)

    def resolved(self) -> dict[str, Any]:
        """The experiment as one self-contained manifest, every variant spelled out."""
        variants = {
            variant.name: variant.manifest.model_dump(
                mode="json", exclude={"name", "description", "output", "launch"}
            )
            for variant in self.variants
        }
        published = [figures.model_dump(mode="json") for figures in self.published]
        return {
            "name": self.name,
            "description": self.description,
            "output": str(self.output),
            **({"require": dict(self.require)} if self.require else {}),
            **({"published": published} if published else {}),
            "launch": None if self.launch is None else self.launch.model_dump(mode="json"),
            "variants": variants,
        }


def read_experiment(path: Path, settings: Sequence[str], plugins: Plugins) -> Experiment:
    """Read, merge, and check a manifest.

    The order of precedence: `extends`, the manifest, the variant, `--set`.

    Args:
        path: the YAML file.
        settings: `key=value` of each `--set`.
        plugins: what is installed.

    Raises:
        UserError: with one line for each thing that is wrong.
    """
    return _experiment(_with_extended(path, ()), settings, plugins)


def experiment_of(manifest: Mapping[str, Any], said_by: str, variant: str, plugins: Plugins) -> Experiment:
    """An experiment of one variant, from what a command was told instead of a file.

    Args:
        manifest: what a file would say; its paths are relative to the working folder.
        said_by: the command, for messages.
        variant: its name.
        plugins: what is installed.

    Raises:
        UserError: with one line for each thing that is wrong.
    """
    content = {**manifest, "variants": {variant: {}}}
    return _experiment(Source(content, {(): Location(said_by, is_setting=True)}), (), plugins)


def _experiment(source: Source, settings: Sequence[str], plugins: Plugins) -> Experiment:
    overrides = [_parse_setting(setting) for setting in settings]
    patches = _variant_patches(source)
    seeds = _seeds(source, overrides)
    variants = []
    issues = list(requirement_issues(source, plugins))
    for name, patch in patches.items():
        merged = merge(source, patch)
        for key, value in overrides:
            merged = override(merged, key, value)
        try:
            points = list(without_grids(name, merged, by_itself=not source.data.get("variants")))
        except ManifestError as error:
            issues.extend(error.issues)
            continue
        for (point, keys), seed in itertools.product(points, seeds):
            try:
                variants.append(_variant(point, keys, seed, plugins))
            except ManifestError as error:
                issues.extend(error.issues)
    issues.extend(_same_names(variants, source))
    if issues:
        raise ManifestError(issues)
    first = variants[0].manifest
    return Experiment(
        first.name,
        first.description,
        _output(first),
        tuple(variants),
        read_published(source),
        first.launch,
        source.data.get("require") or {},
    )


def _same_names(variants: Sequence[Variant], source: Source) -> Iterator[Issue]:
    """A grid may make a variant of a name that is there already."""
    for name, count in Counter(variant.name for variant in variants).items():
        if count > 1:
            why = f"there are {count} of this name, with what grids and seeds make: rename one"
            yield Issue(source.location(("variants", name)), f"variants.{name}", why)


def _variant(name: str, merged: Source, seed: int | None, plugins: Plugins) -> Variant:
    data = {key: value for key, value in merged.data.items() if key not in _OWN_KEYS}
    if seed is not None:
        data["seed"] = seed
        name = f"{name}-seed-{seed}"
    source = with_absolute_paths(replace(merged, data=data), plugins)
    try:
        manifest = validate(source, Manifest, ExperimentManifest)
    except ManifestError as error:
        raise ManifestError([*error.issues, *unknown_plugins(source, plugins)]) from error
    manifest = with_default_decoding(manifest, plugins)
    resolve = resolve_plugins if manifest.endpoint is None else resolve_endpoint_plugins
    chosen = resolve(manifest, source, plugins)
    labels = [entry.label or entry.benchmark.name for entry in manifest.evaluate]
    for index, label in enumerate(labels):
        if label in labels[:index]:
            location = source.location(("evaluate", index))
            raise ManifestError(
                [Issue(location, f"evaluate.{index}", f"{label!r} is there twice: give each a `label`")]
            )
    too_long = list(unwritable(_output(manifest), name, labels))
    if too_long:
        issues = [Issue(source.location(_key_path(key)), key, why) for key, why in too_long]
        raise ManifestError(issues)
    return Variant(name, manifest, chosen)


def _output(manifest: Manifest) -> Path:
    written = Path(manifest.output or f"runs/{manifest.name}")
    try:
        return written.expanduser()
    except RuntimeError as error:  # of a user that isn't there
        raise UserError(f"output: {written} names no folder: {error}") from error


def _key_path(key: str) -> KeyPath:
    return tuple(int(part) if part.isdigit() else part for part in key.split("."))


def _with_extended(path: Path, through: tuple[Path, ...]) -> Source:
    if path.resolve() in through:
        raise UserError(f"{path} extends itself")
    source = read_yaml(path)
    base = source.data.get("extends")
    if base is None:
        return source
    location = source.location(("extends",))
    if not isinstance(base, str):
        raise ManifestError([Issue(location, "extends", "give the path of another manifest")])
    try:
        extended = _with_extended(path.parent / base, (*through, path.resolve()))
    except UserError as error:
        raise UserError(f"{error} (extended at {location})") from error
    merged = merge(extended, source)
    # What `extends` removed, `--set` may bring back: it is the variants' removals that hold.
    return replace(merged, locations={**merged.locations, (): source.location(())}, removed=set())


def _seeds(source: Source, overrides: Sequence[tuple[str, Any]]) -> tuple[int | None, ...]:
    """The seeds that every variant is repeated with; (None,) to take the manifest's one `seed`."""
    for key, value in overrides:
        if key.split(".")[0] == "seeds":
            source = override(source, key, value)
    given = source.data.get("seeds")
    if given is None:
        return (None,)
    whole = isinstance(given, list) and all(type(seed) is int and seed >= 0 for seed in given)
    if not whole or not given or len(set(given)) < len(given):
        message = f"list different whole numbers from 0 on, as in `[0, 1, 2]` (given: {given!r})"
        raise ManifestError([Issue(source.location(("seeds",)), "seeds", message)])
    return tuple(given)


def _variant_patches(source: Source) -> dict[str, Source]:
    variants = source.data.get("variants")
    if variants is None:
        return {"default": Source({}, {(): source.location(())})}
    if not isinstance(variants, dict) or not variants:
        location = source.location(("variants",))
        raise ManifestError([Issue(location, "variants", "name at least one variant, as in `llada: {...}`")])
    patches = {}
    for name, patch in variants.items():
        location = source.location(("variants", name))
        if not re.fullmatch(NAME_PATTERN, name):
            raise ManifestError(
                [Issue(location, f"variants.{name}", "use letters, digits, '.', '_' and '-'")]
            )
        if name == DATA_FOLDER:
            raise ManifestError(
                [Issue(location, f"variants.{name}", "the run keeps its tokens in a folder of that name")]
            )
        if patch is not None and not isinstance(patch, dict):
            raise ManifestError(
                [Issue(location, f"variants.{name}", "a variant is a mapping; `{}` changes nothing")]
            )
        patches[name] = source.part("variants", name)
        _check_variant_keys(name, patches[name], location)
    return patches


def _check_variant_keys(name: str, patch: Source, location: Location) -> None:
    for key in patch.data:
        if key in WHOLE_EXPERIMENT_KEYS:
            raise ManifestError(
                [Issue(patch.location((key,)), f"variants.{name}.{key}", "belongs to the whole experiment")]
            )
        if key not in Manifest.model_fields:
            hint = did_you_mean(key, list(Manifest.model_fields))
            raise ManifestError(
                [Issue(patch.location((key,)), f"variants.{name}.{key}", f"unknown key; {hint}")]
            )


def _parse_setting(setting: str) -> tuple[str, Any]:
    key, equals, value = setting.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"--set {setting!r}: write it as a.b=value")
    top = key.split(".")[0]
    fixed = ("extends", "require", "variants", "published")
    settable = [name for name in ExperimentManifest.model_fields if name not in fixed]
    if top not in settable:
        hint = did_you_mean(top, settable)
        raise UserError(f"--set {key}: a manifest has no key {top!r} that can be set; {hint}")
    try:
        return key, parse_value(value)
    except UserError as error:
        raise UserError(f"--set {key}: {error}") from error

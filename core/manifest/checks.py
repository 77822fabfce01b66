"""Checks a manifest against its models, and words what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.foundation.option_errors import option_errors
from opendllm.core.manifest.reward_schema import Rollout
from opendllm.core.manifest.schema import Generate, Manifest
from opendllm.core.manifest.sources import KeyPath, Location, Source
from opendllm.registries.errors import UserError

GRID = "grid"
"""The key that makes a variant of each of several values: see `grids`."""


@dataclass(frozen=True)
class Issue:
    """One thing that is wrong with a manifest."""

    location: Location
    key: str
    message: str

    def __str__(self) -> str:
        key = "" if str(self.location) == f"--set {self.key}" else self.key
        return ": ".join(filter(None, (str(self.location), key, self.message)))


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
        raise ManifestError(list(_causes(error, source, model, file))) from error


def _causes(
    error: ValidationError, source: Source, model: type[Manifest], file: type[Manifest]
) -> Iterator[Issue]:
    """What pydantic found, but for what only follows from something else.

    A patch that changes one key of a section needs the section: where a mapping was laid over what should
    have been one and isn't, the keys that are missing there are nobody's mistake, and that thing is.
    """
    for found in option_errors(error, file):
        cause = None
        for path in source.covered:
            unsaid = found.path == path or found.path not in source.locations
            if unsaid and found.path[: len(path)] == path:
                cause = cause or _issue_of_covered(path, source, model, file)
        yield cause or _issue(found.path, found.message, source)


def _issue_of_covered(
    path: KeyPath, source: Source, model: type[Manifest], file: type[Manifest]
) -> Issue | None:
    """What is wrong with what stood at `path` before a mapping was laid over it."""
    value, location = source.covered[path]
    try:
        model.model_validate(_with(source.data, path, value))
    except ValidationError as error:
        for found in option_errors(error, file):
            if found.path == path:
                return Issue(location, dotted(path), found.message)
    return None


def _with(data: Any, path: KeyPath, value: Any) -> Any:
    first, *rest = path
    return {**data, first: _with(data[first], tuple(rest), value) if rest else value}


def decoder_options(generate: Generate | Rollout) -> DecoderOptions:
    """The decoder's part of a `generate` section, or of a `rollout`."""
    return DecoderOptions.model_validate(generate.model_dump(include=set(DecoderOptions.model_fields)))


def generation_of(manifest: Manifest, index: int) -> Generate:
    """The `generate` section that holds for one entry of `evaluate`."""
    own = manifest.evaluate[index].generate
    if own is None:
        return manifest.generate
    return manifest.generate.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})


def issues_of(
    error: ValidationError, source: Source, model: type[BaseModel], prefix: KeyPath = ()
) -> Iterator[Issue]:
    """What pydantic found, each with the location that it was said at."""
    for found in option_errors(error, model):
        yield _issue((*prefix, *found.path), found.message, source)


def _issue(path: KeyPath, message: str, source: Source) -> Issue:
    if path[-1:] == (GRID,) or is_grid(said_at(source.data, path)):
        message = "a grid is of `generate` or its sampler's options: compare other values as variants"
    return Issue(source.location(path), dotted(path), message)


def is_grid(value: Any) -> bool:
    """Whether it is `{grid: [...]}`, perhaps with more."""
    return isinstance(value, Mapping) and GRID in value


def said_at(node: Any, path: KeyPath) -> Any:
    """What a manifest's data say at `path`; None where they say nothing."""
    for key in path:
        try:
            node = node[key]
        except (KeyError, IndexError, TypeError):
            return None
    return node


def dotted(path: KeyPath) -> str:
    """A key path as a manifest's reader writes it."""
    return ".".join(map(str, path))

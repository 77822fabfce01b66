"""Where a manifest's files lie: relative to the manifest that names them, and in no digest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from opendllm.core.checkpoints.files import model_folder
from opendllm.core.foundation.fingerprints import content_digest
from opendllm.core.foundation.globs import MatchedFile, files_below, matches_anything
from opendllm.core.manifest.checks import Issue, ManifestError, dotted
from opendllm.core.manifest.reward_schema import Problems
from opendllm.core.manifest.schema import PLUGIN_KEYS, TokenizerChoice
from opendllm.core.manifest.sources import KeyPath, Location, Source
from opendllm.core.manifest.variant_plugins import VariantPlugins
from opendllm.registries.discovery import Plugins
from opendllm.registries.errors import PluginError, UserError
from opendllm.registries.options import path_fields

_SECTIONS_WITH_PATHS: Mapping[KeyPath, type[BaseModel]] = {
    ("data", "tokenizer"): TokenizerChoice,
    ("train", "rl", "problems"): Problems,
    ("train", "rl", "held_out", "problems"): Problems,
}
_SAMPLED_BYTES = 64 << 20
"""Of a checkpoint so much is hashed: it takes no time, and weights that differ differ everywhere."""


def with_absolute_paths(source: Source, plugins: Plugins) -> Source:
    """The same manifest with every path absolute: relative to the file that says it, else, where nothing is
    there or `--set` says it, to the working folder. What may be a hub id is one where neither has it.

    Raises:
        ManifestError: a path can't be written into a manifest, since it holds what is no Unicode.
    """
    return replace(source, data=_resolved(source.data, (), source, plugins))


def without_paths(content: dict[str, Any], plugins: VariantPlugins) -> dict[str, Any]:
    """What decides the trained weights (see `trained_from`), wherever its files lie.

    Corpora are known by their fingerprints, which a checkpoint keeps; a folder to start from, or with a
    tokenizer, is known by what it holds.
    """
    if plugins.own_backbone is None:  # a server's model has no files here
        return content
    backbone = content["model"]["backbone"]
    content = {**content, "model": {"backbone": _by_content(backbone, type(plugins.backbone.options))}}
    if content.get("train") and content["train"].get("rl") is not None:
        content = {
            **content,
            "train": {**content["train"], "rl": _problems_known(content["train"]["rl"], plugins)},
        }
    data = content.get("data")
    if data is None:
        return content
    models = iter([type(corpus.options) for corpus in plugins.corpora])
    if data["corpus"] is not None:
        data = {**data, "corpus": _pathless(data["corpus"], next(models))}
    mixture = [{**part, "corpus": _pathless(part["corpus"], next(models))} for part in data["mixture"]]
    tokenizer = data["tokenizer"] and _known_by_content(data["tokenizer"], TokenizerChoice)
    return {**content, "data": {**data, "mixture": mixture, "tokenizer": tokenizer}}


def _resolved(node: Any, path: KeyPath, source: Source, plugins: Plugins) -> Any:
    if isinstance(node, list):
        return [_resolved(item, (*path, index), source, plugins) for index, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    resolved = {key: _resolved(value, (*path, key), source, plugins) for key, value in node.items()}
    for at, key, or_hub_id in _paths(node, path, plugins):
        section = resolved if at == path else resolved[at[-1]]
        if isinstance(section.get(key), str):
            here = (*at, key)
            section[key] = _absolute(section[key], source.location(here), here, or_hub_id)
    return resolved


def _paths(node: dict[str, Any], path: KeyPath, plugins: Plugins) -> Iterator[tuple[KeyPath, str, bool]]:
    """(the section, its key, whether it may be a hub id) of the paths that a choice of a plugin, or of a
    tokenizer, has; whatever is malformed is found elsewhere.
    """
    kind = PLUGIN_KEYS.get(str(path[-1])) if path else None
    if kind is not None and isinstance(node.get("options"), dict):
        try:
            model = plugins.of_kind(kind).get(str(node.get("name"))).options
        except PluginError:
            return
        for key, or_hub_id in path_fields(model):
            yield (*path, "options"), key, or_hub_id
    elif path in _SECTIONS_WITH_PATHS:
        for key, or_hub_id in path_fields(_SECTIONS_WITH_PATHS[path]):
            yield path, key, or_hub_id


def _absolute(given: str, location: Location, at: KeyPath, or_hub_id: bool) -> str:
    written = Path(given).expanduser()
    here = Path.cwd() / written
    beside = here if location.is_setting else Path(location.source).parent.absolute() / written
    if matches_anything(str(beside)):
        found = beside
    elif matches_anything(str(here)):
        found = here
    elif or_hub_id and not written.is_absolute():
        return given
    else:
        found = beside
    try:
        str(found).encode()
    except UnicodeEncodeError:
        if matches_anything(given):
            return given  # from the working folder, whose own name need not be written
        why = "lies in a folder whose name is not UTF-8: run from within that folder"
        raise ManifestError([Issue(location, dotted(at), why)]) from None
    return str(found)


def _by_content(choice: dict[str, Any], model: type[Any]) -> dict[str, Any]:
    return {**choice, "options": _known_by_content(choice["options"], model)}


def _problems_known(rl: dict[str, Any], plugins: VariantPlugins) -> dict[str, Any]:
    """Problems by what their file holds."""
    problems = dict(rl["problems"])
    if problems["path"] is not None and Path(problems["path"]).is_file():
        problems["path"] = content_digest([MatchedFile("problems", Path(problems["path"]))], None)
    if problems["benchmark"] is not None and plugins.rewards is not None and plugins.rewards.problems:
        problems["benchmark"] = _pathless(problems["benchmark"], type(plugins.rewards.problems.options))
    return {**rl, "problems": problems}


def _known_by_content(options: dict[str, Any], model: type[Any]) -> dict[str, Any]:
    known = dict(options)
    for key, _ in path_fields(model):
        if isinstance(known.get(key), str):
            known[key] = _content_of(known[key])
    return known


def _content_of(path: str) -> str:
    """Of a folder's own files, not of what a run adds below; a hub id is what it is."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return path
    with suppress(UserError):  # a folder with a tokenizer alone, or one that will be complained about
        folder = model_folder(folder)
    files = [file for file in files_below(folder) if "/" not in file.name]
    return content_digest(files, None, _SAMPLED_BYTES)


def _pathless(choice: dict[str, Any], model: type[Any]) -> dict[str, Any]:
    options = dict(choice["options"])
    for key, or_hub_id in path_fields(model):
        if isinstance(options.get(key), str) and (not or_hub_id or Path(options[key]).is_absolute()):
            options[key] = "local"
    return {**choice, "options": options}

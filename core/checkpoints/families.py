"""Which family a checkpoint is of: what its config.json says. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from opendllm.core.checkpoints.family_names import named_alike
from opendllm.core.checkpoints.files import model_folder
from opendllm.core.foundation.json_objects import read_json_object
from opendllm.core.foundation.option_errors import option_errors
from opendllm.core.networks.noise_section import CONFIG_FILE, OWN_SECTION, read_noise
from opendllm.registries.backbones import Backbone
from opendllm.registries.discovery import Plugins
from opendllm.registries.errors import UserError
from opendllm.registries.options import AttentionKind, BackboneOptions
from opendllm.registries.registry import ChosenPlugin, Registration
from opendllm.registries.trained_noise import TrainedNoise


class _Config(dict[str, Any]):
    """A config.json; asking for a key that it lacks is the user's error, not ours."""

    def __init__(self, content: dict[str, Any], path: Path) -> None:
        super().__init__(content)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self._path} lacks {key!r}")


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder; looking up a key that it lacks raises UserError.

    Raises:
        UserError: it is missing, or isn't a JSON object.
    """
    path = folder / CONFIG_FILE
    return _Config(read_json_object(path), path)


def backbone_of(
    plugins: Plugins, path: Path, name: str | None = None
) -> ChosenPlugin[Backbone, BackboneOptions]:
    """The backbone that a checkpoint belongs to, with no options given.

    Args:
        plugins: what is installed.
        path: see `model_folder`.
        name: the backbone's, where config.json doesn't settle it.

    Raises:
        UserError: config.json can't be read; or none, or several, lay claim to it.
    """
    if name is not None:
        registration = plugins.backbones.get(name)
    else:
        folder = model_folder(path)
        registration = _family(plugins, folder, read_config(folder))
    options = registration.options.model_construct()  # checked once config.json's own are among them
    assert isinstance(options, BackboneOptions)
    return ChosenPlugin(registration, options)


def with_block_length(
    backbone: ChosenPlugin[Backbone, BackboneOptions], block_length: int
) -> ChosenPlugin[Backbone, BackboneOptions]:
    """The same with blocks of another length.

    Raises:
        UserError: it is no length.
    """
    if block_length < 1:
        raise UserError(f"block_length is {block_length}: a block has at least one position")
    options = backbone.options.model_copy(update={"block_length": block_length})
    return ChosenPlugin(backbone.registration, options)


def _family(plugins: Plugins, folder: Path, config: dict[str, Any]) -> Registration[Backbone]:
    """The backbone that a config.json belongs to."""
    own = own_section(folder, config)
    if "backbone" in own:
        return plugins.backbones.get(own["backbone"])
    model_type = config.get("model_type")
    matching = [
        registration
        for registration in plugins.backbones
        if issubclass(registration.options, BackboneOptions) and registration.options.claims(config)
    ]
    if len(matching) == 1:
        return matching[0]
    if "auto_map" in config:
        near = named_alike(plugins, config)
        hint = f"`backbone: {near}` has a similar name; " if near else ""
        raise UserError(
            f"{folder / CONFIG_FILE} asks for code from its own repository (auto_map), which is never run; "
            f"{hint}if a built-in family computes the same, name it: {', '.join(plugins.backbones.names())}"
        )
    names = ", ".join(registration.name for registration in matching) or ", ".join(plugins.backbones.names())
    raise UserError(
        f"{folder / CONFIG_FILE}: model_type {model_type!r} does not settle the family; name one of {names} "
        f"as a manifest's model.backbone.name, or as `backbone` in Python or for lm-eval"
    )


def with_stored_options(
    backbone: ChosenPlugin[Backbone, BackboneOptions], folder: Path, config: dict[str, Any]
) -> ChosenPlugin[Backbone, BackboneOptions]:
    """With what config.json of a model folder says of the options that weren't given.

    Raises:
        UserError: it says what is none.
    """
    options = backbone.options
    own = own_section(folder, config)
    known = type(options).model_fields
    stored = {key: value for key, value in own.items() if key in known and value is not None}
    given = {key: getattr(options, key) for key in options.model_fields_set}
    try:
        merged = type(options).model_validate({**stored, **given})
    except ValidationError as error:
        first = next(option_errors(error, type(options)))
        at = ".".join(map(str, (OWN_SECTION, *first.path)))
        raise UserError(f"{folder / CONFIG_FILE}: {at}: {first.message}") from error
    return ChosenPlugin(backbone.registration, merged)


def attention_of(backbone: ChosenPlugin[Backbone, BackboneOptions], path: Path) -> AttentionKind:
    """Which positions of a checkpoint see each other.

    Args:
        backbone: its family, with options that go before what config.json says.
        path: see `model_folder`.

    Raises:
        UserError: config.json can't be read.
    """
    folder = model_folder(path)
    return with_stored_options(backbone, folder, read_config(folder)).options.attention


def noise_of(path: Path) -> TrainedNoise:
    """The noise that a checkpoint undoes.

    Raises:
        UserError: config.json can't be read, or what it says of the noise can't be understood.
    """
    folder = model_folder(path)
    return read_noise(own_section(folder, read_config(folder)), folder / CONFIG_FILE)


def stored_block_length(path: Path, family: BackboneOptions) -> int | None:
    """That of a checkpoint's own blocks, in our words or its family's; None where config.json has none.

    Raises:
        UserError: config.json can't be read.
    """
    folder = model_folder(path)
    config = read_config(folder)
    found = own_section(folder, config).get("block_length")
    if found is None and family.block_length_key is not None:
        found = config.get(family.block_length_key)
    return found if type(found) is int and found > 0 else None


def own_section(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What config.json says beyond the family's own format."""
    own = config.get(OWN_SECTION, {})
    if not isinstance(own, dict):
        raise UserError(f"{folder / CONFIG_FILE}: {OWN_SECTION} must be a JSON object")
    return own

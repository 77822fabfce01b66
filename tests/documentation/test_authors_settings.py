"""The table of what checkpoints' authors decode with: each row works, and the defaults are the families'."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from opendllm.core.cli.generate_command import parse_options
from opendllm.core.decoding.settings import sort_options
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.options import BackboneOptions

PAGE = Path(__file__).parents[2] / "docs" / "decoding.md"
ROW = re.compile(
    r"^\| (?P<backbones>`[^|]+`) \| (?P<who>[^|]+) \| `(?P<settings>--sampler [^|`]+)` \|", re.MULTILINE
)


def rows() -> Iterator[tuple[str, bool, str]]:
    """(backbone, whether it is the default, settings) of each."""
    for found in ROW.finditer(PAGE.read_text(encoding="utf-8")):
        for name in re.findall(r"`([^`]+)`", found["backbones"]):
            yield name, found["who"].endswith("(default)"), found["settings"]


@pytest.mark.parametrize(("backbone", "default", "settings"), list(rows()))
def test_a_rows_settings_are_the_samplers(backbone: str, default: bool, settings: str) -> None:
    plugins = installed_plugins()
    family = plugins.backbones.get(backbone).options
    assert issubclass(family, BackboneOptions)
    _, sampler, *rest = shlex.split(settings)
    options = parse_options([word for word in rest if word != "-o"])
    sort_options(options, plugins.samplers.get(sampler))
    if default:
        assert (sampler, options) == (family.default_sampler, dict(family.default_options))


def test_every_family_with_settings_of_its_own_has_a_row() -> None:
    own = {
        registration.name
        for registration in installed_plugins().backbones
        if issubclass(registration.options, BackboneOptions)
        and registration.options.default_options
        and registration.provenance.package == "open-dllm"
    }
    assert own <= {backbone for backbone, default, _ in rows() if default}

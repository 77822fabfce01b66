"""Nothing that a user may write is missing from the built pages."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from opendllm.core.cli.main import app
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.manifest.schema import ExperimentManifest
from opendllm.registries import hookspecs
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.extension_points import EXTENSION_POINTS
from opendllm.registries.options import BackboneOptions
from opendllm.registries.registry import OWN_PACKAGE


def sections_of(site: Path, page: str) -> dict[str, set[str]]:
    """A page's heading -> the code spans below it, up to the next heading."""
    text = (site / page / "index.html").read_text(encoding="utf-8")
    parts = re.split(r"<h[23][^>]*>", text)[1:]
    found: dict[str, set[str]] = {}
    for part in parts:
        title, _, body = part.partition("</h")
        name = html.unescape(re.sub(r"<a .*|<[^>]+>", "", title, flags=re.DOTALL)).strip()
        found[name] = {html.unescape(code) for code in re.findall(r"<code>([^<]*)</code>", body)}
    return found


@pytest.mark.parametrize("kind", EXTENSION_POINTS)
def test_every_option_of_a_built_in_plugin_is_documented(kind: str, site: Path) -> None:
    documented = sections_of(site, f"extension-points/{kind.replace('_', '-')}")
    common = set(BackboneOptions.model_fields) if kind == "backbones" else set()  # in a section of their own
    for registration in installed_plugins().of_kind(kind):
        if registration.provenance.package == OWN_PACKAGE:
            missing = set(registration.options.model_fields) - documented[registration.name] - common
            assert not missing, f"{kind}/{registration.name}"


def test_every_hook_is_documented(site: Path) -> None:
    listed = set().union(*sections_of(site, "extension-points").values())
    hooks = {name for name in vars(hookspecs) if name.startswith("register_")}
    text = (site / "extension-points" / "index.html").read_text()
    assert len(hooks) == len(EXTENSION_POINTS)
    assert all(f"<code>{hook}</code>" in text for hook in hooks), hooks - listed


def test_every_decoder_option_is_documented(site: Path) -> None:
    text = (site / "reference" / "decoder" / "index.html").read_text()
    assert all(f"<code>{name}</code>" in text for name in DecoderOptions.model_fields)


def test_every_command_and_its_options_are_documented(site: Path) -> None:
    documented = sections_of(site, "reference/commands")
    for name, command in _commands("platform", typer.main.get_command(app)):
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert set(parameter.opts) <= documented[name], name


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for sub, each in getattr(command, "commands", {}).items():
        yield from _commands(f"{name} {sub}", each)


def test_every_key_of_a_manifest_is_documented(site: Path) -> None:
    schema = ExperimentManifest.model_json_schema()
    documented = set().union(*sections_of(site, "reference/manifest").values())
    sections = [schema, *schema["$defs"].values()]
    keys = {key for section in sections for key in section.get("properties", {})}
    assert keys - documented <= {"name", "options"}  # a plugin choice's, said in words


@pytest.mark.parametrize("kind", EXTENSION_POINTS)
def test_every_built_in_plugin_has_its_formula_or_rule(kind: str, repository: Path) -> None:
    """A line of the table on top of its page, which sets them side by side."""
    page = repository / "docs" / "extension-points" / f"{kind.replace('_', '-')}.md"
    table = page.read_text().partition("## Formulas")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    built_in = {
        each.name for each in installed_plugins().of_kind(kind) if each.provenance.package == OWN_PACKAGE
    }
    assert built_in <= named, f"{page}: the table below Formulas lacks {built_in - named}"
    assert named <= built_in, (
        f"{page}: the table below Formulas has {named - built_in}, and nothing is called so"
    )

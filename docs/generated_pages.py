"""What the documentation takes from the code: mkdocs calls the hooks at the end.

`reference/*.md` are made whole. In other pages a line of its own is a marker:

    <!-- plugins: samplers -->                          the built-in plugins of that kind and their options
    <!-- contract: opendllm.registries.samplers:Step -->    what a class, function or alias says of itself
    <!-- others: opendllm.registries.samplers -->       the same of all in a module that have no marker
    <!-- tests: CONTRACT DECLARATIONS -->               a contract's tests
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import contract_sections  # beside this file
import typer.main
from contract_sections import cell

from opendllm.core.cli.described_options import DescribedOption, described_options, type_text
from opendllm.core.cli.main import app
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.manifest.experiment_manifest import WHOLE_EXPERIMENT_KEYS
from opendllm.core.manifest.json_schema import merge_models
from opendllm.core.manifest.schema import PLUGIN_KEYS, ExperimentManifest
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.options import BackboneOptions, PolicyObjectiveOptions
from opendllm.registries.registry import OWN_PACKAGE

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

MARKER = re.compile(r"^<!-- (plugins|contract|others|tests): (\S+)(?: (\S+))? -->$", re.MULTILINE)
DOCS = Path(__file__).parent


def manifest_page() -> str:
    """Every key of a manifest, a section a table."""
    schema = ExperimentManifest.model_json_schema()
    merge_models(schema)
    definitions = schema["$defs"]
    lines = [
        "# Manifest reference",
        "",
        "Made from the models that check manifests. `platform schema` prints the same as JSON Schema, with",
        "the options of all installed plugins; an editor completes manifests by it.",
        "",
        "A plugin choice is `{name: ..., options: {...}}`. A variant patches any key but",
        f"{', '.join(f'`{key}`' for key in sorted(WHOLE_EXPERIMENT_KEYS))}; null removes what it names.",
    ]
    waiting: list[tuple[str, Mapping[str, Any]]] = [("", schema)]
    while waiting:
        path, section = waiting.pop(0)
        title = f"## `{path}`" if path else "## Top level"
        lines += ["", title, "", " ".join(section.get("description", "").split()), "", *_KEY_TABLE]
        for key, content in section["properties"].items():
            whole = f"{path}.{key}" if path else key
            nested = _section_of(content, definitions)
            lines.append(_key_row(whole, content, definitions, key in section.get("required", ())))
            if nested is not None and _reference(content) != "PluginChoice":
                waiting.append((f"{whole}[]" if _is_list(content) else whole, nested))
    return "\n".join(lines) + "\n"


_KEY_TABLE = ("| key | type | default | |", "|---|---|---|---|")


def _key_row(key: str, content: Mapping[str, Any], definitions: Mapping[str, Any], required: bool) -> str:
    reference = _reference(content)
    name = key.rsplit(".", 1)[-1]
    if reference == "PluginChoice" and name in PLUGIN_KEYS:
        page = PLUGIN_KEYS[name].replace("_", "-")
        kind = f"[a plugin](../extension-points/{page}.md)"
    elif _section_of(content, definitions) is not None:
        anchor = key.replace(".", "").replace("[]", "").lower()
        kind = f"[{'list of sections' if _is_list(content) else 'section'}](#{anchor})"
    else:
        kind = cell(type_text(content, definitions))
    default = "required" if required else _defaultcell(content)
    return f"| `{name}` | {kind} | {default} | {cell(content.get('description', ''))} |"


def _defaultcell(content: Mapping[str, Any]) -> str:
    default = content.get("default")
    return "" if default in (None, "", [], {}) or isinstance(default, dict) else f"`{default}`".lower()


def _alternatives(content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield content
    yield from content.get("anyOf", ())
    yield from content.get("allOf", ())


def _reference(content: Mapping[str, Any]) -> str | None:
    for each in _alternatives(content):
        found = each.get("$ref") or each.get("items", {}).get("$ref")
        if found:
            return str(found).rsplit("/", 1)[-1]
    return None


def _section_of(content: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    reference = _reference(content)
    found = definitions.get(reference, {}) if reference else {}
    return found if "properties" in found else None


def _is_list(content: Mapping[str, Any]) -> bool:
    return any(each.get("type") == "array" for each in _alternatives(content))


def commands_page() -> str:
    """Every command, its arguments and options."""
    lines = [
        "# Command line reference",
        "",
        "Made from the commands themselves; `platform COMMAND --help` says the same.",
        "",
        "Exit codes: 0 done, 2 a mistake in what was given, 143 or 130 stopped by SIGTERM or Ctrl-C, 1 all",
        "else. `opendllm` is another name of `platform`.",
    ]
    for name, command in _commands("platform", typer.main.get_command(app)):
        lines += ["", f"## `{name}`", "", command.help or ""]
        rows = [_parameter_row(each) for each in command.params if getattr(each, "hidden", False) is False]
        if rows:
            lines += ["", "| option | takes | default | |", "|---|---|---|---|", *rows]
        if command.epilog:
            lines += ["", "Its `-o` takes the [decoder's options](decoder.md), and the sampler's."]
    return "\n".join(lines) + "\n"


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for sub, each in sorted(getattr(command, "commands", {}).items()):
        yield from _commands(f"{name} {sub}", each)


def _type_name(parameter: Any) -> str:
    annotation = parameter.type_descriptor.annotation
    choices = getattr(annotation, "__args__", ())
    if choices and all(isinstance(each, str) for each in choices):
        return "|".join(choices)
    return {"Path": "PATH", "int": "INTEGER", "str": "TEXT"}.get(getattr(annotation, "__name__", ""), "VALUE")


def _parameter_row(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = [parameter.metavar or parameter.name.upper()] if is_argument else parameter.opts
    spelling = ", ".join(f"`{each}`" for each in [*names, *parameter.secondary_opts])
    switch = getattr(parameter, "is_flag", False)
    takes = "" if switch or is_argument else f"`{parameter.metavar or _type_name(parameter)}`"
    default = "required" if parameter.required else ""
    if not switch and not parameter.required and parameter.default not in (None, (), []):
        default = f"`{parameter.default}`"
    return f"| {spelling} | {cell(takes)} | {default} | {cell(getattr(parameter, 'help', None) or '')} |"


def decoder_page() -> str:
    """The decoder's options."""
    lines = [
        "# Decoder options",
        "",
        "They stand under `generate` in a manifest, behind `-o` of `platform generate`, and as keywords of",
        "`lm.generate`, and hold for every sampler; `platform plugins show decoder` lists them. A sampler",
        "that never reads one refuses it. What only one sampler has is on the page of the",
        "[samplers](../extension-points/samplers.md).",
        "",
        *_option_table(described_options(DecoderOptions)),
    ]
    return "\n".join(lines) + "\n"


def plugins_section(kind: str) -> str:
    """The built-in plugins of a kind, their options, and the options that all of them have."""
    lines: list[str] = []
    common: set[str] = set()
    if kind == "backbones":
        common = set(BackboneOptions.model_fields)
        lines += ["Each has the options of [BackboneOptions](#backboneoptions), too.", ""]
    for registration in installed_plugins().of_kind(kind):
        if registration.provenance.package != OWN_PACKAGE:
            continue
        options = [each for each in described_options(registration.options) if each.name not in common]
        lines += [
            f"### `{registration.name}`",
            "",
            f"{registration.summary[:1].upper()}{registration.summary[1:]}.",
        ]
        lines += ["", *contract_sections.about(registration.target)]
        lines += ["", *_traits(kind, registration.options)]
        lines += ["", *(_option_table(options) if options else ["No options of its own."]), ""]
    return "\n".join(lines)


def _traits(kind: str, options: Any) -> list[str]:
    if kind == "samplers":
        refused = ", ".join(f"`{name}`" for name in sorted(options.without_effect)) or "none"
        return [
            f"Noise: {', '.join(sorted(options.destinations))}. Refuses of the decoder's options: {refused}."
        ]
    if kind == "objectives" and issubclass(options, PolicyObjectiveOptions):
        return [f"Trains {options.trains} models, by answers' rewards (`train.rl`)."]
    if kind == "objectives":
        schedules = options.noise_schedules
        named = "any" if schedules is None else ", ".join(f"`{name}`" for name in sorted(schedules))
        noise = ", ".join(sorted(options.destinations))
        return [f"Trains {options.trains} models; noise schedules: {named}; noise: {noise}."]
    if kind == "backbones":
        types = ", ".join(f"`{name}`" for name in sorted(options.model_types)) or "none of its own"
        own = "".join(f", {name} {value}" for name, value in options.default_options.items())
        sampler = f"Sampler by default: `{options.default_sampler}`{own}."
        return [f"`model_type` of config.json: {types}. {sampler}"]
    return []


def _option_table(options: Iterable[DescribedOption]) -> list[str]:
    rows = []
    for each in options:
        default = "required" if each.required else f"`{each.default_text.removeprefix('default ')}`"
        rows.append(f"| `{each.name}` | {cell(each.type)} | {default} | {cell(each.description)} |")
    return ["| option | type | default | |", "|---|---|---|---|", *rows]


def examples_page() -> str:
    """What lies in `examples/`, in its own words."""
    return (DOCS.parent / "examples" / "README.md").read_text(encoding="utf-8")


PAGES = {
    "examples.md": examples_page,
    "reference/manifest.md": manifest_page,
    "reference/commands.md": commands_page,
    "reference/decoder.md": decoder_page,
}


def filled(found: re.Match[str]) -> str:
    """What a marker stands for."""
    what, of, more = found.groups()
    if what == "plugins":
        return plugins_section(of)
    if what == "tests":
        return contract_sections.tests_of(of, more or "")
    if what == "others":
        return contract_sections.others(of, _elsewhere(of))
    return contract_sections.section(of)


@functools.cache
def _elsewhere(module: str) -> frozenset[str]:
    """What has a marker of its own, or is in another module that a page has whole."""
    markers = [found for page in DOCS.rglob("*.md") for found in MARKER.finditer(page.read_text("utf-8"))]
    whole = {found[2] for found in markers if found[1] == "others"} - {module}
    single = {found[2] for found in markers if found[1] == "contract"}
    return frozenset(
        single | {f"{each}:{name}" for each in whole for name in contract_sections.definitions(each)}
    )


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs: add the pages that are made whole."""
    from mkdocs.structure.files import File

    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Called by mkdocs: fill in the sections that pages name."""
    return MARKER.sub(filled, markdown)

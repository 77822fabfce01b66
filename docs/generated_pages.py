"""What the documentation takes from the code: mkdocs calls the hooks at the end.

`reference/*.md` are made whole. In other pages a line of its own, `<!-- plugins: samplers -->`, becomes the
built-in plugins of that kind and their options, and `<!-- contract: opendllm.registries.samplers:Sampler -->`
what a class says of its attributes and methods.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer.main

from opendllm.core.cli.described_options import DescribedOption, described_options, type_text
from opendllm.core.cli.main import app
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.manifest.experiment_manifest import WHOLE_EXPERIMENT_KEYS
from opendllm.core.manifest.schema import PLUGIN_KEYS, ExperimentManifest
from opendllm.registries import hookspecs
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.options import BackboneOptions
from opendllm.registries.registry import OWN_PACKAGE

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

MARKER = re.compile(r"^<!-- (plugins|contract): (\S+) -->$", re.MULTILINE)


def manifest_page() -> str:
    """Every key of a manifest, a section a table."""
    schema = ExperimentManifest.model_json_schema()
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
        lines += ["", title, "", _joined(section.get("description", "")), "", *_KEY_TABLE]
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
        kind = _cell(type_text(content, definitions))
    default = "required" if required else _default_cell(content)
    return f"| `{name}` | {kind} | {default} | {_cell(content.get('description', ''))} |"


def _default_cell(content: Mapping[str, Any]) -> str:
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
    return f"| {spelling} | {_cell(takes)} | {default} | {_cell(getattr(parameter, 'help', None) or '')} |"


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
        lines += ["### Options of every backbone", "", *_option_table(described_options(BackboneOptions)), ""]
    for registration in installed_plugins().of_kind(kind):
        if registration.provenance.package != OWN_PACKAGE:
            continue
        options = [each for each in described_options(registration.options) if each.name not in common]
        lines += [
            f"### `{registration.name}`",
            "",
            f"{registration.summary[:1].upper()}{registration.summary[1:]}.",
        ]
        lines += ["", *_traits(kind, registration.options)]
        lines += ["", *(_option_table(options) if options else ["No options of its own."]), ""]
    return "\n".join(lines)


def _traits(kind: str, options: Any) -> list[str]:
    if kind == "samplers":
        refused = ", ".join(f"`{name}`" for name in sorted(options.without_effect)) or "none"
        return [
            f"Noise: {', '.join(sorted(options.destinations))}. Refuses of the decoder's options: {refused}."
        ]
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
        rows.append(f"| `{each.name}` | {_cell(each.type)} | {default} | {_cell(each.description)} |")
    return ["| option | type | default | |", "|---|---|---|---|", *rows]


def contract_section(target: str) -> str:
    """A class or hook: its docstring, its attributes and methods with theirs.

    Args:
        target: "module:name".
    """
    module, name = target.split(":")
    thing = getattr(importlib.import_module(module), name)
    about = inspect.getdoc(thing) or ""
    if not inspect.isclass(thing):
        return "\n".join(
            ["```python", _signature(ast.parse(inspect.getsource(thing)).body[0]), "```", "", about]
        )
    [tree] = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    assert isinstance(tree, ast.ClassDef)
    lines = [f"### `{name}`", "", f"`{module}.{name}`", "", *_docstring(about)]
    lines += _attributes(tree.body)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            decorators = {getattr(each, "id", getattr(each, "attr", "")) for each in node.decorator_list}
            must = " *(to be written)*" if "abstractmethod" in decorators else ""
            doc = inspect.cleandoc(ast.get_docstring(node) or "")
            lines += ["", f"#### `{node.name}`{must}", "", "```python", _signature(node), "```", ""]
            lines += _docstring(doc)
    return "\n".join(lines) + "\n"


def _attributes(body: list[ast.stmt]) -> list[str]:
    """A table of the assignments that have a docstring below them."""
    rows = []
    for node, after in itertools.pairwise(body):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            value = f" = {ast.unparse(node.value)}" if node.value is not None else ""
            meaning = " ".join(str(after.value.value).split())
            rows.append(f"| `{node.target.id}{value}` | {_cell(meaning)} |")
    return ["", "| attribute | |", "|---|---|", *rows] if rows else []


def _signature(node: ast.stmt) -> str:
    assert isinstance(node, ast.FunctionDef)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return f"def {node.name}({ast.unparse(node.args)}){returns}"


def _docstring(text: str) -> list[str]:
    """Google's sections as lists; formulas and pipes are left as they are."""
    lines: list[str] = []
    for line in text.splitlines():
        section = re.fullmatch(r"(Args|Attributes|Returns|Raises):", line)
        entry = re.match(r"    (\w+): (.*)", line)
        if section:
            lines += ["", f"{section[1]}:", ""]
        elif entry:
            lines.append(f"- `{entry[1]}`: {_escaped(entry[2])}")
        elif line.startswith("    "):
            lines.append(f"  {_escaped(line.strip())}")
        else:
            lines.append(_escaped(line))
    return lines


def _escaped(text: str) -> str:
    """Plain text, in which `[B, L]` is no link and `a * b * c` no emphasis, but for code spans."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([\[\]*_<])", r"\\\1", part) for part in parts)


def _cell(text: str) -> str:
    return _joined(text).replace("|", "\\|").replace("<", "&lt;")


def _joined(text: str) -> str:
    return " ".join(text.split())


def hook_names() -> list[str]:
    """The hooks that a package may implement."""
    return sorted(name for name in vars(hookspecs) if name.startswith("register_"))


PAGES = {
    "reference/manifest.md": manifest_page,
    "reference/commands.md": commands_page,
    "reference/decoder.md": decoder_page,
}
SECTIONS = {"plugins": plugins_section, "contract": contract_section}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs: add the pages that are made whole."""
    from mkdocs.structure.files import File

    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Called by mkdocs: fill in the sections that pages name."""
    return MARKER.sub(lambda found: SECTIONS[found[1]](found[2]), markdown)

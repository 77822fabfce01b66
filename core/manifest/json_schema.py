"""The manifest's JSON Schema, with the installed plugins' names and options."""

from __future__ import annotations

from typing import Any

from opendllm.core.manifest.checks import GRID
from opendllm.core.manifest.experiment_manifest import WHOLE_EXPERIMENT_KEYS
from opendllm.core.manifest.schema import PLUGIN_KEYS, ExperimentManifest
from opendllm.registries.discovery import Plugins


def manifest_schema(plugins: Plugins) -> dict[str, Any]:
    """JSON Schema (2020-12) of a manifest file.

    Nothing is required, at the top or in a section: a manifest may `extend` another, and its variants
    may bring what it lacks. A variant takes the same keys. Items of lists must be whole: lists are
    replaced, not merged.
    """
    schema = ExperimentManifest.model_json_schema()
    definitions = schema["$defs"]
    merge_models(schema)
    for kind in PLUGIN_KEYS.values():
        definitions[f"choice_{kind}"] = _choice(plugins, kind, definitions)
    for definition in [schema, *definitions.values()]:
        for name, content in definition.get("properties", {}).items():
            if name in PLUGIN_KEYS and _refers_to_choice(content):
                definition["properties"][name] = {"$ref": f"#/$defs/choice_{PLUGIN_KEYS[name]}"}
    _allow_grids(definitions)
    definitions.update({f"{name}_patch": _patch(content) for name, content in definitions.items()})
    schema.update(_patch({key: schema[key] for key in ("type", "properties", "additionalProperties")}))
    properties = schema["properties"]
    properties["variants"] = {
        "type": ["object", "null"],
        "description": properties["variants"]["description"],
        "additionalProperties": {
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": {
                key: value for key, value in properties.items() if key not in WHOLE_EXPERIMENT_KEYS
            },
        },
    }
    schema.pop("required", None)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Open-dLLM manifest"
    return schema


def merge_models(schema: dict[str, Any]) -> None:
    """One `model` section with both kinds' keys: a patch may null those of one and give the other's.

    Args:
        schema: pydantic's of a manifest; is changed.
    """
    definitions = schema["$defs"]
    endpoint = definitions.pop("Endpoint")
    definitions["Model"]["properties"] |= endpoint["properties"]
    definitions["Model"]["description"] += " Or, from `endpoint` on: " + endpoint["description"]
    schema["properties"]["model"] = {"$ref": "#/$defs/Model"}


def _choice(plugins: Plugins, kind: str, definitions: dict[str, Any]) -> dict[str, Any]:
    alternatives = []
    registry = plugins.of_kind(kind)
    for registration in registry:
        name = registry.name_of(registration)
        own = f"options_{kind}_{name}"
        options = registration.options.model_json_schema(ref_template=f"#/$defs/{own}_{{model}}")
        nested = options.pop("$defs", {})
        definitions.update({f"{own}_{model}": content for model, content in nested.items()})
        definitions[own] = options
        alternatives.append(
            {
                "type": "object",
                "additionalProperties": False,
                "description": registration.summary,
                "required": ["name"],
                "properties": {
                    "name": {"const": name, "description": registration.summary},
                    "options": {"$ref": f"#/$defs/{own}"},
                },
            }
        )
    return {"anyOf": alternatives}


def _allow_grids(definitions: dict[str, Any]) -> None:
    """The options of the decoder and of samplers may be grids of values."""
    for name, definition in definitions.items():
        if name == "Generate" or name.startswith("options_samplers_"):
            for key, content in definition.get("properties", {}).items():
                if key not in ("sampler", "chat"):
                    definition["properties"][key] = _value_or_grid(content)


def _value_or_grid(content: dict[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {k: content[k] for k in ("title", "description", "default") if k in content}
    value = {key: given for key, given in content.items() if key not in about}
    grid = {
        "type": "object",
        "additionalProperties": False,
        "required": [GRID],
        "properties": {GRID: {"type": "array", "minItems": 1, "uniqueItems": True, "items": value}},
    }
    return {**about, "anyOf": [*value.get("anyOf", [value]), grid]}


def _refers_to_choice(content: dict[str, Any]) -> bool:
    references = [content, *content.get("anyOf", []), *content.get("allOf", [])]
    return any(reference.get("$ref") == "#/$defs/PluginChoice" for reference in references)


def _patch(node: Any) -> Any:
    """The same, with nothing required, and null allowed for what a patch may remove."""
    if isinstance(node, list):
        return [_patch(item) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        return {**node, "$ref": f"{node['$ref']}_patch"}
    loosened = {}
    for key, value in node.items():
        if key == "properties":
            loosened[key] = {name: _removable(_patch(content)) for name, content in value.items()}
        elif key in ("anyOf", "oneOf", "allOf", "additionalProperties"):
            loosened[key] = _patch(value)
        elif key != "required":
            loosened[key] = value
    return loosened


def _removable(content: dict[str, Any]) -> dict[str, Any]:
    """The same, or null."""
    if {"type": "null"} in content.get("anyOf", ()):
        return content
    about: dict[str, Any] = {k: content[k] for k in ("title", "description", "default") if k in content}
    rest = {key: value for key, value in content.items() if key not in about}
    return {**about, "anyOf": [rest, {"type": "null"}]}

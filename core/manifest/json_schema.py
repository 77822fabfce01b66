"""The manifest's JSON Schema, with the installed plugins' names and options."""

from __future__ import annotations

import copy
from typing import Any

from opendllm.core.manifest.schema import ExperimentManifest
from opendllm.registries.discovery import Plugins

_KIND_OF_FIELD = {
    "backbone": "backbones",
    "corpus": "corpora",
    "objective": "objectives",
    "noise_schedule": "noise_schedules",
    "sampler": "samplers",
    "benchmark": "benchmarks",
}


def manifest_schema(plugins: Plugins) -> dict[str, Any]:
    """JSON Schema (2020-12) of a manifest file.

    Nothing is required at the top: a manifest may `extend` another, and its variants may bring what
    it lacks. Variants take the same keys, all optional.
    """
    schema = ExperimentManifest.model_json_schema()
    definitions = schema["$defs"]
    for kind in _KIND_OF_FIELD.values():
        definitions[f"choice_{kind}"] = _choice(plugins, kind, definitions)
    for definition in [schema, *definitions.values()]:
        for name, content in definition.get("properties", {}).items():
            if name in _KIND_OF_FIELD and _refers_to_choice(content):
                definition["properties"][name] = {"$ref": f"#/$defs/choice_{_KIND_OF_FIELD[name]}"}
    patches = {f"{name}_patch": _patch(content) for name, content in definitions.items()}
    definitions.update(patches)
    variant = {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {
            name: _patch(content)
            for name, content in schema["properties"].items()
            if name not in ("extends", "variants", "seeds", "name", "output")
        },
    }
    schema["properties"]["variants"]["additionalProperties"] = variant
    schema.pop("required", None)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Open-dLLM manifest"
    return schema


def _choice(plugins: Plugins, kind: str, definitions: dict[str, Any]) -> dict[str, Any]:
    alternatives = []
    for registration in plugins.of_kind(kind):
        options = registration.options.model_json_schema()
        definitions.update(options.pop("$defs", {}))
        definitions[f"options_{kind}_{registration.name}"] = options
        alternatives.append(
            {
                "type": "object",
                "additionalProperties": False,
                "description": registration.summary,
                "required": ["name"],
                "properties": {
                    "name": {"const": registration.name, "description": registration.summary},
                    "options": {"$ref": f"#/$defs/options_{kind}_{registration.name}"},
                },
            }
        )
    return {"anyOf": alternatives}


def _refers_to_choice(content: dict[str, Any]) -> bool:
    references = [content, *content.get("anyOf", []), *content.get("allOf", [])]
    return any(reference.get("$ref") == "#/$defs/PluginChoice" for reference in references)


def _patch(content: Any) -> Any:
    """The same, with nothing required and null allowed for what a patch may remove."""
    content = copy.deepcopy(content)
    return _loosen(content)


def _loosen(node: Any) -> Any:
    if isinstance(node, list):
        return [_loosen(item) for item in node]
    if not isinstance(node, dict):
        return node
    loosened = {key: _loosen(value) for key, value in node.items() if key != "required"}
    reference = loosened.get("$ref")
    if isinstance(reference, str) and not reference.endswith("_patch"):
        return {"anyOf": [{**loosened, "$ref": f"{reference}_patch"}, {"type": "null"}]}
    return loosened

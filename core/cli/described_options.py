"""An options model, as the command line and the documentation show it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python


@dataclass(frozen=True)
class DescribedOption:
    """One option.

    Attributes:
        name: as a manifest has it.
        type: for people: `number | null`.
        required: whether it must be given.
        default: as JSON has it; None where it is required.
        description: what it means.
    """

    name: str
    type: str
    required: bool
    default: Any
    description: str

    @property
    def default_text(self) -> str:
        """What a reader sees in place of a value."""
        return "required" if self.required else f"default {json.dumps(self.default)}"

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def described_options(model: type[BaseModel]) -> list[DescribedOption]:
    """The options of a model, in its order."""
    schema = model.model_json_schema(by_alias=False)
    definitions = schema.get("$defs", {})
    described = []
    for name, field in model.model_fields.items():
        required = field.is_required()
        default = None if required else field.get_default(call_default_factory=True, validated_data={})
        found = to_jsonable_python(default)
        kind = type_text(schema["properties"][name], definitions)
        described.append(DescribedOption(name, kind, required, found, field.description or ""))
    return described


def type_text(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON schema's type, for people.

    Args:
        schema: of one value.
        definitions: what its `$ref` may mean.
    """
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        return type_text(definitions.get(name, {}), definitions)
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(type_text(alternative, definitions) for alternative in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {type_text(schema.get('items', {}), definitions)}"
    return str(schema.get("const", schema.get("type", "any")))


def option_lines(options: list[DescribedOption]) -> Iterator[str]:
    """Two lines for each: name, type and default; and what it means."""
    for option in options:
        yield f"{option.name}: {option.type}, {option.default_text}"
        yield f"  {option.description}"

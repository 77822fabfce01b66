"""What every contract class has in common: which plugin it tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from opendllm.registries.discovery import installed_plugins
from opendllm.registries.registry import Registration


class PluginContract:
    """Set `plugin` to a registered name in a subclass whose name starts with Test.

    Attributes:
        kind: the extension point.
        plugin: the plugin's registered name.
        options: what to build it with; by default the first of its options model's `examples`
            (pydantic's `json_schema_extra`), or nothing.
    """

    kind: ClassVar[str]
    plugin: ClassVar[str]
    options: ClassVar[Mapping[str, Any] | None] = None

    def registration(self) -> Registration[Any]:
        """How the plugin was registered."""
        return installed_plugins().of_kind(self.kind).get(self.plugin)

    def build(self) -> Any:
        """A fresh instance."""
        return self.registration().build(example_options(self.registration(), self.options))

    def test_is_described_in_one_line(self) -> None:
        """`platform plugins` shows the summary; every option says what it means."""
        registration = self.registration()
        assert registration.summary
        assert "\n" not in registration.summary
        undescribed = [
            name for name, field in registration.options.model_fields.items() if not field.description
        ]
        assert not undescribed, f"options without a description: {undescribed}"

    def test_refuses_an_unknown_option(self) -> None:
        """A misspelt option must never be swallowed."""
        assert self.registration().options.model_config.get("extra") == "forbid"


def example_options(registration: Registration[Any], given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The options to build a plugin with in a test."""
    if given is not None:
        return given
    extra = registration.options.model_config.get("json_schema_extra")
    examples = extra.get("examples") if isinstance(extra, dict) else None
    if isinstance(examples, list) and examples and isinstance(examples[0], dict):
        return examples[0]
    return {}

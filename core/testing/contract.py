"""What every contract class has in common: which plugin it tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from opendllm.registries.discovery import installed_plugins
from opendllm.registries.registry import Registration
from opendllm.registries.typed_options import untyped_options

if TYPE_CHECKING:
    from torch import Tensor

ContractT = TypeVar("ContractT")


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

    def built(self, contract: type[ContractT]) -> ContractT:
        """A fresh instance, which must be one of the contract's."""
        plugin = self.build()
        assert isinstance(plugin, contract), (
            f"{self.registration().target} builds a {type(plugin).__name__}, and a {contract.__name__} was "
            f"expected: derive the class from {contract.__module__}.{contract.__name__}"
        )
        return plugin

    def test_is_described_in_one_line(self) -> None:
        """`platform plugins` shows the summary; every option says what it means."""
        registration = self.registration()
        summary = registration.summary
        assert summary, "the summary is empty: say in one line what the plugin does"
        assert "\n" not in summary, f"the summary {summary!r} has several lines: one was expected, shorten it"
        undescribed = [
            name for name, field in registration.options.model_fields.items() if not field.description
        ]
        assert not undescribed, (
            f"options without a description: {undescribed}: give each a Field(..., description=...)"
        )

    def test_refuses_an_unknown_option(self) -> None:
        """A misspelt option must never be swallowed."""
        options = self.registration().options
        extra = options.model_config.get("extra")
        assert extra == "forbid", (
            f"{options.__name__} has extra={extra!r}, and 'forbid' was expected: derive it from PluginOptions"
        )

    def test_every_option_has_a_type(self) -> None:
        """Without one, whatever a manifest says goes through unchecked."""
        options = self.registration().options
        untyped = untyped_options(options)
        assert not untyped, f"{options.__name__} takes anything as {untyped}: annotate each with its type"


def check_close(
    found: Tensor, wanted: Tensor, what: str, mend: str, *, rtol: float = 1e-7, atol: float = 1e-7
) -> None:
    """Two tensors of numbers are the same, but for rounding.

    Args:
        found: what came.
        wanted: what was expected.
        what: both are, for the message.
        mend: what to do where they differ.
        rtol: largest relative difference.
        atol: largest difference.
    """
    assert found.shape == wanted.shape, (
        f"{what} came as {list(found.shape)}, and {list(wanted.shape)} was expected: {mend}"
    )
    came, due = found.detach().double().flatten(), wanted.detach().double().flatten()
    wrong = ~((came - due).abs() <= atol + rtol * due.abs()) & ~(came == due)
    number = int(wrong.sum())
    if number:
        first = int(wrong.nonzero()[0])
        raise AssertionError(
            f"{what}: {float(due[first]):g} was expected and {float(came[first]):g} came, at place {first} "
            f"of {len(due)} ({number} differ): {mend}"
        )


def example_options(registration: Registration[Any], given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The options to build a plugin with in a test."""
    if given is not None:
        return given
    extra = registration.options.model_config.get("json_schema_extra")
    examples = extra.get("examples") if isinstance(extra, dict) else None
    if isinstance(examples, list) and examples and isinstance(examples[0], dict):
        return examples[0]
    return {}

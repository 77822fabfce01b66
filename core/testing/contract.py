"""What every contract class has in common: which plugin it tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

import pytest

from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import PluginError
from opendllm.registries.options import PluginOptions
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
        options: what to build it with; by default each of its options model's `examples` (pydantic's
            `json_schema_extra`), every test with one after the other, or nothing where it gives none.
    """

    kind: ClassVar[str]
    plugin: ClassVar[str]
    options: ClassVar[Mapping[str, Any] | None] = None
    _example: Mapping[str, Any] | None = None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Each test once for each example; pytest asks."""
        if self.options is not None or "_each_example" not in metafunc.fixturenames:
            return
        try:
            examples = examples_of(self.registration().options)
        except PluginError:  # the tests themselves say so
            return
        names = [" ".join(f"{key}={_brief(value)}" for key, value in each.items()) for each in examples]
        if any(names):
            metafunc.parametrize("_each_example", examples, indirect=True, ids=names)

    @pytest.fixture(autouse=True)
    def _each_example(self, request: pytest.FixtureRequest) -> None:
        self._example = getattr(request, "param", None)

    def registration(self) -> Registration[Any]:
        """How the plugin was registered."""
        return installed_plugins().of_kind(self.kind).get(self.plugin)

    def given(self) -> Mapping[str, Any]:
        """What it is built with: `options`, or the example that this test is about."""
        if self.options is not None:
            return self.options
        return examples_of(self.registration().options)[0] if self._example is None else self._example

    def plugin_options(self) -> PluginOptions:
        """The same, checked."""
        return self.registration().options.model_validate(dict(self.given()))

    def build(self) -> Any:
        """A fresh instance."""
        return self.registration().build(self.given())

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


def examples_of(options: type[PluginOptions]) -> Sequence[Mapping[str, Any]]:
    """The examples that an options model gives, at least one: of nothing, where it gives none."""
    extra = options.model_config.get("json_schema_extra")
    examples = extra.get("examples") if isinstance(extra, dict) else None
    found = [each for each in examples if isinstance(each, dict)] if isinstance(examples, list) else []
    return found or [{}]


def passed_over(declared: str) -> NoReturn:
    """End a test that a declaration of the plugin makes void; pytest counts and shows it (-rs) as skipped.

    Args:
        declared: what the plugin declares, and where.
    """
    pytest.skip(f"passed over by declaration: {declared}")


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

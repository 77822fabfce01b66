"""What an author of plugins has to do with is on a page of the extension points: found in the code itself."""

from __future__ import annotations

import ast
import functools
import html
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from opendllm.core import testing
from opendllm.core.testing import contract_name, contract_of, pytest_plugin
from opendllm.registries import PluginOptions, PolicyObjectiveOptions
from opendllm.registries import __all__ as exported
from opendllm.registries.extension_points import EXTENSION_POINTS

REGISTRIES = "opendllm.registries"
PLATFORM_SIDE = f"{REGISTRIES}.registry"
"""Builds what is chosen: no plugin calls it."""
PYDANTIC_SIDE = "model_config"
STOCK_CLASSES = {"TransformersBackbone": "transformers_backbone", "CheckpointFormat": "transformers_lm"}


@functools.cache
def tree_of(module: str) -> ast.Module:
    """A module's source."""
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    return ast.parse(Path(found.origin).read_text())


def name_of(node: ast.stmt) -> str | None:
    """What a statement gives a name, if that is public."""
    name = getattr(node, "name", None)
    if isinstance(node, ast.Assign | ast.AnnAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        name = target.id if isinstance(target, ast.Name) else None
    return name if name and not name.startswith("_") else None


def defined_in(module: str) -> dict[str, ast.stmt]:
    """A module's own public names."""
    return {name: node for node in tree_of(module).body if (name := name_of(node))}


def imported_in(module: str) -> dict[str, str]:
    """The names that a module has from the registries -> where they are defined."""
    imports = (node for node in ast.walk(tree_of(module)) if isinstance(node, ast.ImportFrom))
    return {
        name.name: str(each.module)
        for each in imports
        for name in each.names
        if str(each.module).startswith(REGISTRIES)
    }


def annotated(node: ast.AST) -> Iterator[str]:
    """The names in the annotations of a class or a function, or in an alias."""
    for each in ast.walk(node):
        for part in (getattr(each, "annotation", None), getattr(each, "returns", None)):
            if part is not None:
                yield from re.findall(r"\w+", ast.unparse(part))
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        yield from re.findall(r"\w+", ast.unparse(node.value))


def contract_names() -> dict[str, ast.stmt]:
    """What the extension points define and the registries export, and what annotations there name."""
    waiting = [
        (f"{REGISTRIES}.{kind}", name)
        for kind in (*EXTENSION_POINTS, "policies")
        for name in defined_in(f"{REGISTRIES}.{kind}")
    ]
    whence = imported_in(REGISTRIES)
    waiting += [(whence[name], name) for name in exported]
    found: dict[str, ast.stmt] = {}
    while waiting:
        module, name = waiting.pop()
        if name in found or module == PLATFORM_SIDE:
            continue
        found[name] = defined_in(module)[name]
        for other in annotated(found[name]):
            if other in defined_in(module):
                waiting.append((module, other))
            elif other in imported_in(module):
                waiting.append((imported_in(module)[other], other))
    return found


@pytest.fixture(scope="session")
def sections(site: Path) -> dict[str, set[str]]:
    """Headings of all pages of the extension points -> the words in code below each."""
    found: dict[str, set[str]] = {}
    for page in (site / "extension-points").rglob("index.html"):
        for part in re.split(r"<h[23][^>]*>", page.read_text())[1:]:
            title, _, body = part.partition("</h")
            name = html.unescape(re.sub(r"<a .*|<[^>]+>", "", title, flags=re.DOTALL)).strip()
            # A signature's words are each in a span of their own.
            code = re.sub(r"<[^>]+>", " ", " ".join(re.findall(r"<code>(.*?)</code>", body, re.DOTALL)))
            found.setdefault(name, set()).update(re.findall(r"\w+", html.unescape(code)))
    return found


def members(node: ast.stmt) -> set[str]:
    """The public names in a class's body."""
    return (
        {name for each in getattr(node, "body", ()) if (name := name_of(each))}
        if isinstance(node, ast.ClassDef)
        else set()
    )


CONTRACTS = contract_names()


def test_the_contracts_are_found() -> None:
    """By way of what they mention, too: else the next test looks at nothing."""
    assert {"Sampler", "SamplerOptions", "Noise", "Overwrite", "TokenRows", "ModelInputs", "LossPart"} <= set(
        CONTRACTS
    )
    assert {"AttentionPattern", "TrainedNoise", "Sizes", "Gap", "Bound", "Register"} <= set(CONTRACTS)


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_every_name_of_the_contracts_is_documented(name: str, sections: dict[str, set[str]]) -> None:
    """With each of its attributes and methods."""
    assert name in sections, f"no page of docs/extension-points has a section {name}: add a marker for it"
    missing = members(CONTRACTS[name]) - sections[name] - {PYDANTIC_SIDE}
    assert not missing, f"{sorted(missing)} of {name}: give each a docstring"


@pytest.mark.parametrize("name", STOCK_CLASSES)
def test_what_a_backbone_starts_from_is_documented(name: str, sections: dict[str, set[str]]) -> None:
    tree = defined_in(f"opendllm.core.networks.{STOCK_CLASSES[name]}")[name]
    assert name in sections
    missing = members(tree) - sections[name]
    assert not missing


@pytest.mark.parametrize(
    ("kind", "options"),
    [*((kind, PluginOptions) for kind in EXTENSION_POINTS), ("objectives", PolicyObjectiveOptions)],
)
def test_every_test_of_a_contract_is_documented(
    kind: str, options: type[PluginOptions], sections: dict[str, set[str]]
) -> None:
    contract = contract_of(kind, options)
    shared = {name for name in dir(testing.PluginContract) if name.startswith("test_")}
    own = {name for name in dir(contract) if name.startswith("test_")} - shared
    assert own
    assert own <= sections[contract_name(kind, options)]
    assert shared <= sections["PluginContract"]


@pytest.mark.parametrize(
    ("test", "declared"),
    [
        ("test_the_loss_is_unbiased", "loss_is_bound"),
        ("test_a_position_alone_follows_the_model", "follows_model"),
    ],
)
def test_declarations_behind_helpers_stand_with_the_test(test: str, declared: str, site: Path) -> None:
    page = (site / "extension-points" / "conformance-kit" / "index.html").read_text()
    [row] = [row for row in page.split("<tr>") if f"<code>{test}</code>" in row]
    assert f"<code>{declared}</code>" in row


def test_every_fixture_of_the_kit_is_documented(sections: dict[str, set[str]]) -> None:
    fixtures = {
        name
        for name, node in defined_in(pytest_plugin.__name__).items()
        if any("fixture" in ast.unparse(each) for each in getattr(node, "decorator_list", ()))
    }
    assert len(fixtures) >= 3
    assert fixtures <= set(sections)

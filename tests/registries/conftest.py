"""Plugin packages that exist in memory only."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from opendllm.registries import SamplerOptions, hookimpl


class Options(SamplerOptions):
    """Of the fake samplers."""

    strength: float = 0.5


@dataclass
class FakePackage:
    name: str
    version: str = "1.0"


@dataclass
class FakeEntryPoint:
    """What importlib.metadata would give; `content` is called by `load`."""

    content: Callable[[], Any]
    package: str = "stranger"
    name: str = "plugin"
    dist: Any = field(init=False)

    def __post_init__(self) -> None:
        self.dist = FakePackage(self.package)

    def load(self) -> Any:
        return self.content()


def module_with(**hooks: Callable[..., None]) -> types.ModuleType:
    module = types.ModuleType("a_strangers_module")
    for name, hook in hooks.items():
        setattr(module, name, hookimpl(hook))
    return module


def sampler_package(
    package: str, *names: str, options: Any = Options, target: Any = "json:loads", entry: str = "plugin"
) -> FakeEntryPoint:
    """A package whose hook registers samplers."""

    def register_samplers(register: Any) -> None:
        for name in names:
            register(name, options=options, target=target, summary="does something")

    return FakeEntryPoint(lambda: module_with(register_samplers=register_samplers), package, entry)


@pytest.fixture
def package() -> Callable[..., FakeEntryPoint]:
    return sampler_package


@pytest.fixture
def package_of() -> Callable[..., FakeEntryPoint]:
    """A package from what its entry point loads, or from its hooks."""

    def make(package: str, load: Callable[[], Any] | None = None, **hooks: Any) -> FakeEntryPoint:
        return FakeEntryPoint(load or (lambda: module_with(**hooks)), package)

    return make

"""Rewards of a stranger's package, installed for this process and those that it starts."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from opendllm.core.rewards.weighing import WeightedReward
from opendllm.registries.discovery import Plugins, discover, installed_plugins
from opendllm.registries.gaps import Gap
from opendllm.registries.hookspecs import ENTRY_POINT_GROUP
from opendllm.registries.options import RewardOptions
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.registry import ChosenPlugin

LIGHT = """
from opendllm.registries import RewardOptions, hookimpl
from pydantic import Field


class Options(RewardOptions):
    trap: str = Field("trap", description="The text that it fails on.")
    does: str = Field("raise", description="How.")


@hookimpl
def register_rewards(register):
    register("trapped", options=Options, target="strange_rewards.heavy:Trapped", summary="fails on a text")
"""
HEAVY = """
import os
import time

from opendllm.registries.rewards import Reward


class Trapped(Reward):
    def __init__(self, options):
        self.trap, self.does = options.trap, options.does

    def values(self, completions, context):
        print("what a reward prints", flush=True)
        return [self.value(each.text) for each in completions]

    def value(self, text):
        if text == self.trap:
            if self.does == "raise":
                raise RuntimeError("no such luck")
            if self.does == "hang":
                time.sleep(1000)
            if self.does == "exit":
                os._exit(7)
            return float("nan")
        return 1.0

    def issue_with(self, problem):
        return "it is a trap" if problem.task_id == self.trap else None
"""


@pytest.fixture(scope="session")
def strange_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip would leave of it."""
    folder = tmp_path_factory.mktemp("strange")
    package, metadata = folder / "strange_rewards", folder / "strange_rewards-1.0.dist-info"
    package.mkdir()
    metadata.mkdir()
    (package / "__init__.py").write_text(LIGHT)
    (package / "heavy.py").write_text(HEAVY)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-rewards\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[opendllm]\nstrange = strange_rewards\n")
    return folder


@pytest.fixture
def strange(strange_package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    """All plugins, with those of that package."""
    monkeypatch.syspath_prepend(strange_package)
    monkeypatch.setenv("PYTHONPATH", str(strange_package))
    yield discover(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))
    for name in [name for name in sys.modules if name.startswith("strange_rewards")]:
        del sys.modules[name]


@pytest.fixture
def trapped(strange: Plugins) -> Callable[..., WeightedReward]:
    """(weight, options) -> the reward that fails on the text `trap`."""

    def make(weight: float = 1.0, **options: str) -> WeightedReward:
        return _chosen(strange, "trapped", weight, options)

    return make


def built_in(name: str, weight: float = 1.0, label: str | None = None, **options: object) -> WeightedReward:
    """A built-in reward, chosen."""
    return replace(_chosen(installed_plugins(), name, weight, options), label=label or name)


def _chosen(plugins: Plugins, name: str, weight: float, given: Mapping[str, object]) -> WeightedReward:
    registration = plugins.rewards.get(name)
    options = registration.options.model_validate(given)
    assert isinstance(options, RewardOptions)
    return WeightedReward(ChosenPlugin(registration, options), name, weight)


def answers(**texts: list[str]) -> list[Completion]:
    """Problem's id -> its answers' texts."""
    return [
        Completion(Problem(task, Gap("x"), answer="7"), sample, text)
        for task, of_task in texts.items()
        for sample, text in enumerate(of_task)
    ]

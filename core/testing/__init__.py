"""The kit for plugin authors: contract tests, one class an extension point.

from opendllm.core.testing import SamplerContract

class TestMySampler(SamplerContract):
    plugin = "my-sampler"

Each class says which tests it has; `platform plugins test samplers/my-sampler` runs them without a file. The
fixtures `tiny_model`, `table_lm` and `tiny_tokenizer` are there wherever pytest runs (`pytest_plugin`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opendllm.core.testing.backbones import BackboneContract
    from opendllm.core.testing.benchmarks import BenchmarkContract
    from opendllm.core.testing.contract import PluginContract
    from opendllm.core.testing.corpora import CorpusContract
    from opendllm.core.testing.noise_schedules import NoiseScheduleContract
    from opendllm.core.testing.objectives import ObjectiveContract
    from opendllm.core.testing.rewards import RewardContract
    from opendllm.core.testing.samplers import SamplerContract
    from opendllm.core.testing.table_lm import TableLM

CONTRACT_CLASSES = {
    "backbones": "BackboneContract",
    "benchmarks": "BenchmarkContract",
    "corpora": "CorpusContract",
    "noise_schedules": "NoiseScheduleContract",
    "objectives": "ObjectiveContract",
    "rewards": "RewardContract",
    "samplers": "SamplerContract",
}
"""The contract class of each extension point; it lies in the module of the extension point's name."""
_OTHERS = {"PluginContract": "contract", "TableLM": "table_lm"}

__all__ = [
    "CONTRACT_CLASSES",
    "BackboneContract",
    "BenchmarkContract",
    "CorpusContract",
    "NoiseScheduleContract",
    "ObjectiveContract",
    "PluginContract",
    "RewardContract",
    "SamplerContract",
    "TableLM",
    "contract_of",
]


def contract_of(kind: str) -> type[PluginContract]:
    """The contract class of an extension point."""
    found: type[PluginContract] = __getattr__(CONTRACT_CLASSES[kind])
    return found


def __getattr__(name: str) -> Any:
    # pytest imports this package in whatever project it tests: torch is imported with the first contract.
    modules = {**_OTHERS, **{contract: kind for kind, contract in CONTRACT_CLASSES.items()}}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{modules[name]}"), name)

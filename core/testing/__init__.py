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

from opendllm.registries.options import PluginOptions, PolicyObjectiveOptions

if TYPE_CHECKING:
    from opendllm.core.testing.backbones import BackboneContract
    from opendllm.core.testing.benchmarks import BenchmarkContract
    from opendllm.core.testing.contract import PluginContract
    from opendllm.core.testing.corpora import CorpusContract
    from opendllm.core.testing.noise_schedules import NoiseScheduleContract
    from opendllm.core.testing.objectives import ObjectiveContract
    from opendllm.core.testing.policies import PolicyObjectiveContract
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
POLICY_CONTRACT = "PolicyObjectiveContract"
"""That of objectives whose options say that they learn from rewards; it lies in `policies`."""
_OTHERS = {"PluginContract": "contract", "TableLM": "table_lm", POLICY_CONTRACT: "policies"}

__all__ = [
    "CONTRACT_CLASSES",
    "POLICY_CONTRACT",
    "BackboneContract",
    "BenchmarkContract",
    "CorpusContract",
    "NoiseScheduleContract",
    "ObjectiveContract",
    "PluginContract",
    "PolicyObjectiveContract",
    "RewardContract",
    "SamplerContract",
    "TableLM",
    "contract_name",
    "contract_of",
]


def contract_name(kind: str, options: type[PluginOptions] = PluginOptions) -> str:
    """The name of a plugin's contract class.

    Args:
        kind: its extension point.
        options: its options model, which says of an objective whether it is a policy objective.
    """
    return POLICY_CONTRACT if issubclass(options, PolicyObjectiveOptions) else CONTRACT_CLASSES[kind]


def contract_of(kind: str, options: type[PluginOptions] = PluginOptions) -> type[PluginContract]:
    """The contract class of a plugin, see `contract_name`."""
    found: type[PluginContract] = __getattr__(contract_name(kind, options))
    return found


def __getattr__(name: str) -> Any:
    # pytest imports this package in whatever project it tests: torch is imported with the first contract.
    modules = {**_OTHERS, **{contract: kind for kind, contract in CONTRACT_CLASSES.items()}}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{modules[name]}"), name)

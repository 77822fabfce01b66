"""The kit for plugin authors: contract tests, one class an extension point.

from opendllm.core.testing import SamplerContract

class TestMySampler(SamplerContract):
    plugin = "my-sampler"
"""

from opendllm.core.testing.backbones import BackboneContract
from opendllm.core.testing.benchmarks import BenchmarkContract
from opendllm.core.testing.contract import PluginContract
from opendllm.core.testing.corpora import CorpusContract
from opendllm.core.testing.noise_schedules import NoiseScheduleContract
from opendllm.core.testing.objectives import ObjectiveContract
from opendllm.core.testing.samplers import SamplerContract

CONTRACTS: dict[str, type[PluginContract]] = {
    "backbones": BackboneContract,
    "benchmarks": BenchmarkContract,
    "corpora": CorpusContract,
    "noise_schedules": NoiseScheduleContract,
    "objectives": ObjectiveContract,
    "samplers": SamplerContract,
}
"""The contract class of each extension point."""

__all__ = [
    "CONTRACTS",
    "BackboneContract",
    "BenchmarkContract",
    "CorpusContract",
    "NoiseScheduleContract",
    "ObjectiveContract",
    "PluginContract",
    "SamplerContract",
]

"""The entry point of the built-ins: hands on the seven folders' registrations."""

from opendllm.plugins import backbones, benchmarks, corpora, noise_schedules, objectives, rewards, samplers
from opendllm.registries import Register, hookimpl


@hookimpl
def register_noise_schedules(register: Register) -> None:
    """See `opendllm.plugins.noise_schedules`."""
    noise_schedules.register_all(register)


@hookimpl
def register_objectives(register: Register) -> None:
    """See `opendllm.plugins.objectives`."""
    objectives.register_all(register)


@hookimpl
def register_samplers(register: Register) -> None:
    """See `opendllm.plugins.samplers`."""
    samplers.register_all(register)


@hookimpl
def register_backbones(register: Register) -> None:
    """See `opendllm.plugins.backbones`."""
    backbones.register_all(register)


@hookimpl
def register_corpora(register: Register) -> None:
    """See `opendllm.plugins.corpora`."""
    corpora.register_all(register)


@hookimpl
def register_benchmarks(register: Register) -> None:
    """See `opendllm.plugins.benchmarks`."""
    benchmarks.register_all(register)


@hookimpl
def register_rewards(register: Register) -> None:
    """See `opendllm.plugins.rewards`."""
    rewards.register_all(register)

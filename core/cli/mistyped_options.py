"""`--max-new-tokens 3`: what is given to a command as an option of its own, and goes into its `-o`."""

from __future__ import annotations

from typing import Any

from opendllm.core.cli.sorted_options import ENDPOINT_OPTIONS, ENTRY_OPTIONS
from opendllm.core.decoding.options import DecoderOptions
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.registry import Registry


def as_option(command: str, given: str) -> str | None:
    """How a command takes what it has no option for; None where its `-o` doesn't take it either.

    Args:
        command: its name.
        given: as it was written, `--max-new-tokens`.
    """
    name = given.lstrip("-").replace("-", "_")
    return f"write -o {name}=VALUE" if name in _taken(command) else None


def _taken(command: str) -> set[str]:
    """What the `-o` of a command takes, with any sampler and any benchmark."""
    plugins = installed_plugins()
    decoding = {*DecoderOptions.model_fields, *_fields(plugins.samplers)}
    benchmarks = _fields(plugins.benchmarks)
    return {
        "generate": decoding,
        "evaluate": decoding | benchmarks | {*ENTRY_OPTIONS, *ENDPOINT_OPTIONS},
        "score": benchmarks,
    }.get(command, set())


def _fields(registry: Registry[Any]) -> set[str]:
    return {name for registration in registry for name in registration.options.model_fields}

"""The options (-o) of `evaluate`, by what they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.manifest.endpoint_checks import KNOWN_TO_SERVERS
from opendllm.registries.discovery import Plugins
from opendllm.registries.errors import UserError
from opendllm.registries.suggestions import did_you_mean

ENTRY_OPTIONS = (
    "samples_per_task", "problem_seed", "batch_size", "likelihood_estimator", "likelihood_draws"
)  # fmt: skip
"""Settings of an entry of a manifest's `evaluate`, which every benchmark has here."""
_ENTRY_OPTIONS_OF_SERVERS = ("samples_per_task", "problem_seed", "batch_size")
"""Those of them that a server, which gives no likelihoods, is asked with."""
ENDPOINT_OPTIONS = ("api", "concurrency", "extra_body", "retries", "timeout")
"""Settings of a manifest's `model` that names a server."""


@dataclass
class SortedOptions:
    """Options by what they belong to; those of a benchmark by its name."""

    decoder: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    endpoint: dict[str, Any] = field(default_factory=dict)
    entry: dict[str, Any] = field(default_factory=dict)
    benchmarks: dict[str, dict[str, Any]] = field(default_factory=dict)


def sorted_options(
    given: Mapping[str, Any], plugins: Plugins, sampler: str | None, benchmarks: Sequence[str]
) -> SortedOptions:
    """Each option where it belongs.

    Args:
        given: the options, flat.
        plugins: what is installed.
        sampler: that the checkpoint is decoded with; None where a server is asked.
        benchmarks: that are run.

    Raises:
        UserError: nothing has an option of that name.
    """
    of_sampler = {} if sampler is None else plugins.samplers.get(sampler).options.model_fields
    of_decoder = KNOWN_TO_SERVERS if sampler is None else DecoderOptions.model_fields
    of_endpoint = ENDPOINT_OPTIONS if sampler is None else ()
    of_entry = ENTRY_OPTIONS if sampler is not None else _ENTRY_OPTIONS_OF_SERVERS
    of_benchmarks = {name: plugins.benchmarks.get(name).options.model_fields for name in benchmarks}
    found = SortedOptions(benchmarks={name: {} for name in benchmarks})
    for key, value in given.items():
        takers = [
            *([found.decoder] if key in of_decoder else []),
            *([found.sampler] if key in of_sampler else []),
            *([found.endpoint] if key in of_endpoint else []),
            *([found.entry] if key in of_entry else []),
            *(found.benchmarks[name] for name, fields in of_benchmarks.items() if key in fields),
        ]
        if not takers:
            known = [*of_decoder, *of_sampler, *of_endpoint, *of_entry]
            known += [name for fields in of_benchmarks.values() for name in fields]
            others = "the server's API" if sampler is None else f"the decoder, sampler {sampler!r}"
            hint = did_you_mean(key, sorted(set(known)))
            more = "; what only this server knows goes into extra_body" if sampler is None else ""
            raise UserError(
                f"-o {key}: neither {others} nor {' or '.join(benchmarks)} has such an option: {hint}{more}"
            )
        for options in takers:
            options[key] = value
    return found

"""Benchmarks that make no sense in a chat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from opendllm.core.manifest.checks import Issue, dotted, generation_of
from opendllm.core.manifest.schema import Manifest
from opendllm.core.manifest.sources import KeyPath, Source
from opendllm.registries.benchmarks import Benchmark
from opendllm.registries.options import PluginOptions, chat_issue
from opendllm.registries.registry import ChosenPlugin


def chat_issues(
    manifest: Manifest, source: Source, benchmarks: Sequence[ChosenPlugin[Benchmark, PluginOptions] | None]
) -> Iterator[Issue]:
    """Benchmarks that have their prompts gone on with, where prompts are a user's turns.

    Args:
        manifest: whose `evaluate` they are.
        source: where it says so.
        benchmarks: one an entry; None where it couldn't be found.
    """
    for index, chosen in enumerate(benchmarks):
        endpoint = manifest.endpoint
        chat = generation_of(manifest, index).chat or (endpoint is not None and endpoint.api == "chat")
        issue = chat_issue(chosen.options) if chat and chosen is not None else None
        if issue is not None:
            at: KeyPath = ("evaluate", index, "benchmark")
            without = "api: completions" if endpoint is not None and endpoint.api == "chat" else "chat: false"
            yield Issue(source.location(at), dotted(at), f"{issue}; it can be asked without one: `{without}`")

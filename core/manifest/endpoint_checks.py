"""The plugins of a manifest that asks a server, and what has no meaning there."""

from __future__ import annotations

from collections.abc import Iterator

from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.manifest.chat_checks import chat_issues
from opendllm.core.manifest.checks import Issue, ManifestError, dotted
from opendllm.core.manifest.plugin_checks import Resolver
from opendllm.core.manifest.schema import Generate, Manifest
from opendllm.core.manifest.sources import KeyPath, Source
from opendllm.core.manifest.variant_plugins import EvaluationPlugins, VariantPlugins
from opendllm.registries.discovery import Plugins
from opendllm.registries.options import PluginOptions, only_asks_likelihoods

KNOWN_TO_SERVERS = ("max_new_tokens", "temperature", "top_p")
"""The decoder's options that OpenAI's API has."""


def resolve_endpoint_plugins(manifest: Manifest, source: Source, plugins: Plugins) -> VariantPlugins:
    """Find the corpora and benchmarks of a manifest that asks a server; it has no other plugins.

    Raises:
        ManifestError: one isn't there or doesn't take its options; or the manifest says something that a
            server can't be asked.
    """
    resolver = Resolver(manifest, source, plugins)
    corpora = resolver.corpora()
    benchmarks = [
        resolver.plugin(plugins.benchmarks, PluginOptions, entry.benchmark, ("evaluate", index, "benchmark"))
        for index, entry in enumerate(manifest.evaluate)
    ]
    issues = resolver.issues
    issues.extend(chat_issues(manifest, source, benchmarks))
    if manifest.train is not None:
        why = "a server's model is not trained here: in a variant, `train: null` removes it"
        issues.append(Issue(source.location(("train",)), "train", why))
    issues.extend(_generate_issues(manifest.generate, source, ("generate",)))
    for index, entry in enumerate(manifest.evaluate):
        if entry.generate is not None:
            issues.extend(_generate_issues(entry.generate, source, ("evaluate", index, "generate")))
        chosen = benchmarks[index]
        if chosen is not None and only_asks_likelihoods(chosen.options):
            at: KeyPath = ("evaluate", index, "benchmark")
            why = f"{chosen.name!r} asks for likelihoods, which a server's API doesn't give: leave it out"
            issues.append(Issue(source.location(at), dotted(at), why))
    if issues:
        raise ManifestError(issues)
    return VariantPlugins(
        own_backbone=None,
        corpora=tuple(filter(None, corpora)),
        training=None,
        own_sampler=None,
        evaluations=tuple(EvaluationPlugins(benchmark, None) for benchmark in benchmarks if benchmark),
    )


def _generate_issues(generate: Generate, source: Source, path: KeyPath) -> Iterator[Issue]:
    """Settings of a decoder that runs elsewhere."""
    for name, field in DecoderOptions.model_fields.items():
        if name not in KNOWN_TO_SERVERS and getattr(generate, name) != field.default:
            at = (*path, name)
            yield Issue(
                source.location(at),
                dotted(at),
                f"OpenAI's API has no {name}: leave it out (in a variant, with null), or give the server's "
                f"own name for it in model.extra_body",
            )
    if generate.sampler is not None:
        at = (*path, "sampler")
        why = "the server decodes as it likes: leave it out (in a variant, with null)"
        yield Issue(source.location(at), dotted(at), why)

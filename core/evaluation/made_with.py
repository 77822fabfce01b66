"""What a variant's answers are made with: told beside them, and what lets them be kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opendllm.core.data.sources import changed_corpora
from opendllm.core.evaluation.samples_file import about_file
from opendllm.core.foundation.json_objects import digest, read_json_object
from opendllm.core.manifest.checks import decoder_options, generation_of
from opendllm.core.manifest.endpoint_checks import KNOWN_TO_SERVERS
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.core.manifest.section import PluginChoice
from opendllm.registries.benchmarks import Benchmark
from opendllm.registries.errors import UserError
from opendllm.registries.options import PluginOptions, only_asks_likelihoods, path_fields
from opendllm.registries.registry import ChosenPlugin
from opendllm.registries.sources import source_digests

_OF_WRITING = frozenset({"sampler", "decoder"})
"""Settings that no likelihood depends on."""


def about_of(
    variant: Variant, label: str, settings: dict[str, Any], limit: int | None, provenance: dict[str, Any]
) -> dict[str, Any]:
    """What a result says of itself, and a run of its samples."""
    return {
        "benchmark": label,
        "variant": variant.name,
        "seed": variant.manifest.seed,
        "settings": settings,
        "limit": limit,
        "provenance": provenance,
    }


def settings_of(variant: Variant, index: int) -> dict[str, Any]:
    """Everything that an answer depends on, and nothing else."""
    entry = variant.manifest.evaluate[index]
    generate = generation_of(variant.manifest, index)
    asked = {
        "training_digest": variant.training_digest,
        "benchmark": entry.benchmark.model_dump(mode="json"),
        "problem_seed": entry.problem_seed,
        "chat": generate.chat,
    }
    decoder = decoder_options(generate)
    if variant.manifest.endpoint is not None:
        return {**asked, "decoder": decoder.model_dump(mode="json", include=set(KNOWN_TO_SERVERS))}
    sampler = generate.sampler or PluginChoice(name=variant.plugins.evaluations[index].sampler.written_name)
    return {
        **asked,
        "sampler": sampler.model_dump(mode="json"),
        "decoder": decoder.model_dump(mode="json"),
        "likelihood_estimator": entry.likelihood_estimator,
        "likelihood_draws": entry.likelihood_draws,
    }


def answers_digest(variant: Variant, index: int, corpora: Mapping[str, str], step: int) -> str:
    """Of what an entry's answers are made with."""
    chosen = variant.plugins.evaluations[index].benchmark
    made_with = {**settings_of(variant, index), "corpora": corpora, "benchmark": _without_paths(chosen)}
    return digest({"settings": made_with, "step": step})


def same_likelihoods(
    variant: Variant,
    index: int,
    corpora: Mapping[str, str],
    step: int,
    same_model: Sequence[tuple[Variant, Path]],
) -> Iterator[tuple[Path, str]]:
    """(file, digest) of other variants' answers to an entry, where no text is written and so all agree."""
    if not only_asks_likelihoods(variant.plugins.evaluations[index].benchmark.options):
        return
    asked = settings_of(variant, index)
    for other, folder in same_model:
        for number, entry in enumerate(other.manifest.evaluate):
            theirs = settings_of(other, number)
            if all(theirs[key] == asked[key] for key in asked if key not in _OF_WRITING):
                label = entry.label or entry.benchmark.name
                samples = folder / "samples" / f"{label}.jsonl"
                about = read_json_object(about_file(samples), optional=True)
                if about.get("sources") == answer_sources(variant, index):  # made by the same code
                    yield samples, answers_digest(other, number, corpora, step)


def answer_sources(variant: Variant, index: int) -> dict[str, str]:
    """Of the plugins that an answer of one trained checkpoint is made by; what scores it isn't among them."""
    plugins = variant.plugins
    if plugins.own_backbone is None:
        return {}
    own = plugins.evaluations[index]
    decoding = () if only_asks_likelihoods(own.benchmark.options) else (own.sampler,)
    noise = () if plugins.training is None else (plugins.training.noise_schedule,)
    return source_digests([plugins.backbone, *noise, *decoding])


def _without_paths(benchmark: ChosenPlugin[Benchmark, PluginOptions]) -> dict[str, Any]:
    """Where its problems lie is in no answer's digest; what they ask, an answer itself says."""
    paths = {name for name, _ in path_fields(type(benchmark.options))}
    options = benchmark.options.model_dump(mode="json", exclude=paths)
    return {"name": benchmark.written_name, "options": options}


def check_unchanged(samples: Path, corpora: Mapping[str, str], commit: str | None) -> None:
    """Answers are to what was held out then, and of the checkpoint that the hub had then.

    Args:
        samples: the answers on file, which need not be there.
        corpora: their fingerprints now.
        commit: the hub's, of the checkpoint now; None of one of another kind.

    Raises:
        UserError: a corpus or the checkpoint has changed since.
    """
    if not samples.is_file() or not samples.stat().st_size or not about_file(samples).is_file():
        return
    about = read_json_object(about_file(samples))
    earlier = about.get("provenance", {}).get("commit")
    if None not in (earlier, commit) and earlier != commit:
        raise UserError(
            f"{samples} holds answers of the hub's commit {earlier}, and it has {commit} now: evaluate "
            f"that in another folder with --set output=DIR, or fetch the earlier one and give its folder"
        )
    before = about.get("settings", {}).get("corpora")
    changed = changed_corpora(before, corpora) if isinstance(before, dict) else []
    if changed:
        raise UserError(
            f"{samples} holds answers from before {' and '.join(changed)} changed: bring back what it was, "
            f"or evaluate the new texts in another folder with --set output=DIR"
        )

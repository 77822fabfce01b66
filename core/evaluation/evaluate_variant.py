"""One variant's benchmarks, from its checkpoint to its result files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from opendllm.core.checkpoints.files import model_folder, provenance_of
from opendllm.core.checkpoints.pretrained import fetch
from opendllm.core.data.sources import LOOKING_AT_CORPORA, changed_corpora, fingerprints, held_out_documents
from opendllm.core.evaluation.answering import Asked
from opendllm.core.evaluation.answers import AnswerFile
from opendllm.core.evaluation.evaluator import Evaluation, evaluate, unasked_note, write_result
from opendllm.core.evaluation.kept_traces import TRACES_A_VARIANT, TraceWanted, keep_trace
from opendllm.core.evaluation.progress import evaluation_progress
from opendllm.core.evaluation.replicas import LoadedModel, load_replicas
from opendllm.core.evaluation.sampler_checks import check_samplers
from opendllm.core.evaluation.samples_file import about_file
from opendllm.core.evaluation.set_aside import set_aside_other_sources
from opendllm.core.evaluation.shards import this_process
from opendllm.core.foundation.atomic_files import write_json
from opendllm.core.foundation.json_objects import read_json_object
from opendllm.core.foundation.visible_text import visible
from opendllm.core.manifest.checks import decoder_options, generation_of
from opendllm.core.manifest.experiment_manifest import Variant, digest
from opendllm.core.manifest.schema import Manifest
from opendllm.core.manifest.section import PluginChoice
from opendllm.core.progress.progress import Progress
from opendllm.registries.benchmarks import Benchmark, BenchmarkContext, CodeExecution
from opendllm.registries.corpora import Corpus, Document
from opendllm.registries.errors import UserError
from opendllm.registries.options import PluginOptions, only_asks_likelihoods, path_fields
from opendllm.registries.registry import ChosenPlugin
from opendllm.registries.sources import source_digests

_OF_WRITING = frozenset({"sampler", "decoder"})
"""Settings that no likelihood depends on."""


def evaluate_variant(
    variant: Variant,
    folder: Path,
    provenance: dict[str, Any],
    limit: int | None,
    progress: Progress,
    on_message: Callable[[str], None] = print,
    same_model: Sequence[tuple[Variant, Path]] = (),
) -> None:
    """Run every benchmark of a variant on its last checkpoint; answers on file are kept.

    Args:
        variant: what to evaluate; of several processes each answers its share, the first scores them all.
        folder: the variant's.
        provenance: travels with every result.
        limit: at most so many problems of each benchmark.
        progress: told what is being done.
        on_message: told one line where a benchmark's samples are left unscored.
        same_model: other variants, and their folders, that share its training run. What doesn't depend on
            how text is written, a perplexity say, is taken over from them.

    Raises:
        UserError: there is no checkpoint, or answers on file were made with other settings.
    """
    manifest, shard = variant.manifest, this_process()
    traces = 0
    # 1. The last checkpoint, once on every device, if its samplers go with it.
    check_samplers(variant, folder)
    with progress.activity("loading the model"):
        models, trained = _load_checkpoint(variant, folder)
    corpora = variant.plugins.built_corpora()
    with progress.activity(LOOKING_AT_CORPORA) if manifest.data else nullcontext():
        read, unread = _fingerprints(manifest, corpora)
    for corpus, why in unread.items() if shard.is_first else ():
        on_message(visible(f"{variant.name}: {corpus} cannot be read, so no benchmark may ask for it: {why}"))
    for index, entry in enumerate(manifest.evaluate):
        # 2. The answers on file, and beside them what they are made with.
        label = entry.label or entry.benchmark.name
        samples = folder / "samples" / f"{label}.jsonl"
        chosen = variant.plugins.evaluations[index].benchmark
        settings = {**_settings(variant, index), "corpora": read}
        about = _about(variant, label, settings, limit, {**provenance, **trained})
        about["sources"] = _answer_sources(variant, index)
        _check_corpora(samples, read)
        if shard.is_first:
            for message in set_aside_other_sources(folder, label, about["sources"]):
                on_message(f"{variant.name}: {label}: {message}")
        shard.wait()
        own = _answers_digest(variant, index, read, trained["step"])
        others = _same_likelihoods(variant, index, read, trained["step"], same_model)
        answers = AnswerFile(samples, own, shard, others)
        if shard.is_first:
            write_json(about_file(samples), about)
        # 3. The model gives those that are missing; then all are scored.
        benchmark = chosen.build()
        asked = _asked(variant, index, models)
        context = _context(manifest, index, corpora, limit, models[0].lm.context_length)
        with evaluation_progress(progress, label) as told:
            evaluation = evaluate(asked, benchmark, context, answers, told.answered, shard, told.judged)
        # 4. The first process says what the result lacks, and writes it.
        for message in _shortcomings(evaluation, entry.benchmark.name, samples):
            on_message(visible(f"{variant.name}: {label}: {message}"))
        if evaluation is not None and evaluation.graphs is not None:
            on_message(f"{variant.name}: {label}: {evaluation.graphs}")
        if evaluation is not None and evaluation.scores is not None:
            write_result(folder / "results" / f"{label}.json", benchmark, evaluation, about)
        # 5. One of the answers once more, step by step, for the report to play.
        if evaluation is not None and evaluation.first_text is not None and traces < TRACES_A_VARIANT:
            traces += 1
            path = folder / "traces" / f"{label}.json"
            with progress.activity(f"recording a trace of {label}"):
                keep_trace(asked, TraceWanted(path, *evaluation.first_text, answers.digest, settings))


def _load_checkpoint(variant: Variant, folder: Path) -> tuple[list[LoadedModel], dict[str, Any]]:
    """The model on each device, and the `step` it is trained to: 0 of one that is published.

    Raises:
        UserError: see `load_replicas`; or the training isn't finished.
    """
    manifest, backbone = variant.manifest, variant.plugins.backbone
    pretrained = backbone.options.pretrained if manifest.train is None else None
    models = load_replicas(
        folder if pretrained is None else fetch(pretrained),
        backbone,
        manifest.device,
        manifest.model.add_bos_token,
    )
    trained = _trained(folder) if pretrained is None else {"step": 0}
    step = trained["step"]
    wanted = manifest.train.steps if manifest.train else 0
    if step < wanted:
        raise UserError(
            f"{variant.name} is trained to step {step} of {wanted}: run the manifest without --only to finish"
        )
    return models, trained


def _fingerprints(manifest: Manifest, corpora: Sequence[Corpus]) -> tuple[dict[str, str], dict[str, str]]:
    """(corpus -> its fingerprint, corpus -> why it can't be read): of a model that was trained elsewhere the
    corpora may have stayed there, and many a benchmark has no use for them.
    """
    unread: dict[str, str] = {}
    if manifest.data is None:
        return {}, unread
    return fingerprints(manifest.data, corpora, unread if manifest.train is None else None), unread


def _context(
    manifest: Manifest, index: int, corpora: Sequence[Corpus], limit: int | None, longest: int
) -> BenchmarkContext:
    """What a benchmark may ask; without data of the run's own, texts are as long as the model reads."""
    return BenchmarkContext(
        limit,
        manifest.evaluate[index].problem_seed,
        manifest.data.sequence_length if manifest.data else longest,
        lambda: _held_out(corpora),
        CodeExecution(manifest.isolation) if manifest.allow_code_execution else None,
    )


def _asked(variant: Variant, index: int, models: Sequence[LoadedModel]) -> Asked:
    """How an entry of `evaluate` is put to the model."""
    manifest = variant.manifest
    entry, generate = manifest.evaluate[index], generation_of(manifest, index)
    return Asked(
        replicas=[model.with_sampler(variant.plugins.evaluations[index].sampler) for model in models],
        options=decoder_options(generate),
        chat=generate.chat,
        samples_per_task=entry.samples_per_task,
        batch_size=entry.batch_size,
        sizes=variant.plugins.backbone.options.architecture(models[0].lm.vocab_size),
        likelihood_estimator=entry.likelihood_estimator,
        likelihood_draws=entry.likelihood_draws,
        seed=manifest.seed,
    )


def _about(
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


def _shortcomings(evaluation: Evaluation | None, benchmark: str, samples: Path) -> Iterator[str]:
    """What the result lacks, a line each; only the first process knows."""
    if evaluation is None:
        return
    if evaluation.unasked:
        yield unasked_note(evaluation.unasked, evaluation.tasks)
    if evaluation.scores is None:
        yield (
            f"written but not scored, since that runs generated code; allow it: "
            f"platform score --benchmark {benchmark} --samples {samples} --allow-code-execution"
        )


def _settings(variant: Variant, index: int) -> dict[str, Any]:
    """Everything that an answer depends on, and nothing else."""
    entry = variant.manifest.evaluate[index]
    generate = generation_of(variant.manifest, index)
    sampler = generate.sampler or PluginChoice(name=variant.plugins.evaluations[index].sampler.written_name)
    return {
        "training_digest": variant.training_digest,
        "benchmark": entry.benchmark.model_dump(mode="json"),
        "problem_seed": entry.problem_seed,
        "sampler": sampler.model_dump(mode="json"),
        "chat": generate.chat,
        "decoder": decoder_options(generate).model_dump(mode="json"),
        "likelihood_estimator": entry.likelihood_estimator,
        "likelihood_draws": entry.likelihood_draws,
    }


def _answers_digest(variant: Variant, index: int, corpora: Mapping[str, str], step: int) -> str:
    """Of what an entry's answers are made with."""
    chosen = variant.plugins.evaluations[index].benchmark
    settings = {**_settings(variant, index), "corpora": corpora, "benchmark": _without_paths(chosen)}
    return digest({"settings": settings, "step": step})


def _same_likelihoods(
    variant: Variant,
    index: int,
    corpora: Mapping[str, str],
    step: int,
    same_model: Sequence[tuple[Variant, Path]],
) -> Iterator[tuple[Path, str]]:
    """(file, digest) of other variants' answers to an entry, where no text is written and so all agree."""
    if not only_asks_likelihoods(variant.plugins.evaluations[index].benchmark.options):
        return
    asked = _settings(variant, index)
    for other, folder in same_model:
        for number, entry in enumerate(other.manifest.evaluate):
            theirs = _settings(other, number)
            if all(theirs[key] == asked[key] for key in asked if key not in _OF_WRITING):
                label = entry.label or entry.benchmark.name
                samples = folder / "samples" / f"{label}.jsonl"
                about = read_json_object(about_file(samples), optional=True)
                if about.get("sources") == _answer_sources(variant, index):  # made by the same code
                    yield samples, _answers_digest(other, number, corpora, step)


def _answer_sources(variant: Variant, index: int) -> dict[str, str]:
    """Of the plugins that an answer of one trained checkpoint is made by; what scores it isn't among them."""
    plugins = variant.plugins
    own = plugins.evaluations[index]
    decoding = () if only_asks_likelihoods(own.benchmark.options) else (own.sampler,)
    noise = () if plugins.training is None else (plugins.training.noise_schedule,)
    return source_digests([plugins.backbone, *noise, *decoding])


def _without_paths(benchmark: ChosenPlugin[Benchmark, PluginOptions]) -> dict[str, Any]:
    """Where its problems lie is in no answer's digest; what they ask, an answer itself says."""
    paths = {name for name, _ in path_fields(type(benchmark.options))}
    options = benchmark.options.model_dump(mode="json", exclude=paths)
    return {"name": benchmark.written_name, "options": options}


def _check_corpora(samples: Path, now: Mapping[str, str]) -> None:
    """Answers are to what was held out then.

    Raises:
        UserError: a corpus has changed since.
    """
    if not samples.is_file() or not samples.stat().st_size or not about_file(samples).is_file():
        return
    before = read_json_object(about_file(samples)).get("settings", {}).get("corpora")
    changed = changed_corpora(before, now) if isinstance(before, dict) else []
    if changed:
        raise UserError(
            f"{samples} holds answers from before {' and '.join(changed)} changed: bring back what it was, "
            f"or evaluate the new texts in another folder with --set output=DIR"
        )


def _trained(folder: Path) -> dict[str, Any]:
    """The step of the checkpoint that is evaluated, and how it was extended to it."""
    provenance = provenance_of(model_folder(folder).parent)
    extended = {"extended": provenance["extended"]} if "extended" in provenance else {}
    return {"step": int(provenance["step"]), **extended}


def _held_out(corpora: Sequence[Corpus]) -> Iterator[Document]:
    if not corpora:
        raise UserError("this benchmark reads held-out documents: give the manifest a `data` section")
    return held_out_documents(corpora)

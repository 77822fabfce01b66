"""One variant's benchmarks, from its checkpoint to its result files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from opendllm.core.data.sources import LOOKING_AT_CORPORA, fingerprints, held_out_documents
from opendllm.core.evaluation.answering import Asked
from opendllm.core.evaluation.answers import AnswerFile
from opendllm.core.evaluation.evaluated_models import open_model
from opendllm.core.evaluation.evaluation import Evaluation, unasked_note
from opendllm.core.evaluation.evaluator import evaluate
from opendllm.core.evaluation.kept_traces import TRACES_A_VARIANT, TraceWanted, keep_trace
from opendllm.core.evaluation.made_with import (
    about_of,
    answer_sources,
    answers_digest,
    check_unchanged,
    same_likelihoods,
    settings_of,
)
from opendllm.core.evaluation.progress import evaluation_progress
from opendllm.core.evaluation.result_file import write_result
from opendllm.core.evaluation.samples_file import about_file
from opendllm.core.evaluation.set_aside import set_aside_other_sources
from opendllm.core.evaluation.shards import this_process
from opendllm.core.foundation.atomic_files import write_json
from opendllm.core.foundation.visible_text import visible
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.core.manifest.schema import Manifest
from opendllm.core.progress.progress import Progress
from opendllm.registries.benchmarks import BenchmarkContext, CodeExecution
from opendllm.registries.corpora import Corpus, Document
from opendllm.registries.errors import UserError


def evaluate_variant(
    variant: Variant,
    folder: Path,
    provenance: dict[str, Any],
    limit: int | None,
    progress: Progress,
    on_message: Callable[[str], None] = print,
    same_model: Sequence[tuple[Variant, Path]] = (),
) -> None:
    """Run every benchmark of a variant on its last checkpoint, or on its server; answers on file are kept.

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
        UserError: there is no checkpoint, the server doesn't answer, or answers on file were made with other
            settings.
    """
    manifest, shard = variant.manifest, this_process()
    traces = 0
    # 1. The last checkpoint, once on every device, if its samplers go with it; or a server.
    with progress.activity("loading the model") if manifest.endpoint is None else nullcontext():
        model = open_model(variant, folder)
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
        settings = {**settings_of(variant, index), "corpora": read}
        made_with = {**provenance, **model.provenance(about_file(samples))}
        about = about_of(variant, label, settings, limit, made_with)
        about["sources"] = answer_sources(variant, index)
        check_unchanged(samples, read, made_with.get("commit"))
        if shard.is_first:
            for message in set_aside_other_sources(folder, label, about["sources"]):
                on_message(f"{variant.name}: {label}: {message}")
        shard.wait()
        own = answers_digest(variant, index, read, model.step)
        others = same_likelihoods(variant, index, read, model.step, same_model)
        answers = AnswerFile(samples, own, shard, others)
        if shard.is_first:
            write_json(about_file(samples), about)
        # 3. The model gives those that are missing; then all are scored.
        benchmark = chosen.build()
        asked = model.respondent(variant, index)
        context = _context(manifest, index, corpora, limit, model.longest)
        with evaluation_progress(progress, label) as told:
            evaluation = evaluate(asked, benchmark, context, answers, told.answered, shard, told.judged)
        about["provenance"] = {**provenance, **model.provenance(about_file(samples))}
        if shard.is_first and about["provenance"] != made_with:
            write_json(about_file(samples), about)
        # 4. The first process says what the result lacks, and writes it.
        for message in _shortcomings(evaluation, entry.benchmark.name, samples):
            on_message(visible(f"{variant.name}: {label}: {message}"))
        if evaluation is not None and evaluation.graphs is not None:
            on_message(f"{variant.name}: {label}: {evaluation.graphs}")
        if evaluation is not None and evaluation.scores is not None:
            write_result(folder / "results" / f"{label}.json", benchmark, evaluation, about)
        # 5. One of the answers once more, step by step, for the report to play.
        first = None if evaluation is None else evaluation.first_text
        if first is not None and isinstance(asked, Asked) and traces < TRACES_A_VARIANT:
            traces += 1
            path = folder / "traces" / f"{label}.json"
            with progress.activity(f"recording a trace of {label}"):
                keep_trace(asked, TraceWanted(path, *first, answers.digest, settings))


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


def _held_out(corpora: Sequence[Corpus]) -> Iterator[Document]:
    if not corpora:
        raise UserError("this benchmark reads held-out documents: give the manifest a `data` section")
    return held_out_documents(corpora)

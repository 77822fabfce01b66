"""Whether a run trains on what it is evaluated on: looked at once, where `data` asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from opendllm.core.foundation.ranks import is_first_process
from opendllm.core.manifest.experiment_manifest import Experiment, Variant, digest
from opendllm.core.progress.progress import Progress
from opendllm.core.run.contamination import is_checked, write_contamination
from opendllm.registries.benchmarks import BenchmarkContext
from opendllm.registries.corpora import Document
from opendllm.registries.errors import UserError


def check_contamination(
    experiment: Experiment, chosen: Sequence[Variant], progress: Progress, on_message: Callable[[str], None]
) -> None:
    """Compare the training documents of the first variant that asks for it with all benchmarks' problems.

    By the first process alone. A benchmark whose problems can't be had is named, and left out.
    """
    asking = next((v for v in chosen if v.manifest.data and v.manifest.data.contamination), None)
    if asking is None or not is_first_process():
        return
    from opendllm.core.data.contamination import overlaps
    from opendllm.core.data.held_out_texts import HeldOutTexts
    from opendllm.core.data.sources import fingerprints

    data = asking.manifest.data
    assert data is not None
    assert data.contamination is not None
    corpora = asking.plugins.built_corpora()
    entries = {label: variant.manifest.evaluate[index] for label, variant, index in _benchmarks(experiment)}
    asked = {label: entry.model_dump(mode="json") for label, entry in entries.items()}
    key = digest({"words": data.contamination, "corpora": fingerprints(data, corpora), "benchmarks": asked})
    if is_checked(experiment.output, key):
        return
    with progress.activity("comparing the corpus with the benchmarks", unit="documents") as task:
        texts, unread = _texts(experiment)
        held_out = HeldOutTexts(corpora)

        def documents() -> Iterator[Document]:
            for number, document in enumerate(
                (document for corpus in corpora for document in held_out.training_documents(corpus)), start=1
            ):
                task.update(number)
                yield document

        read, found = overlaps(texts, documents(), data.contamination)
    write_contamination(
        experiment.output,
        key,
        {
            "words": data.contamination,
            "documents": read,
            "benchmarks": {label: overlap.as_json() for label, overlap in found.items()},
            "unread": unread,
        },
    )
    for label, overlap in found.items():
        if overlap.found:
            on_message(
                f"contamination: {len(overlap.found)} of {overlap.tasks} tasks of {label} share "
                f"{data.contamination} words in a row with {overlap.documents} of {read} training documents"
            )
    for label, why in unread.items():
        on_message(f"contamination: {label} is not compared: {why}")


def _benchmarks(experiment: Experiment) -> Iterator[tuple[str, Variant, int]]:
    """(label, a variant that evaluates it, its place there) of each benchmark."""
    seen: set[str] = set()
    for variant in experiment.variants:
        for index, entry in enumerate(variant.manifest.evaluate):
            label = entry.label or entry.benchmark.name
            if label not in seen:
                seen.add(label)
                yield label, variant, index


def _texts(experiment: Experiment) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """(benchmark -> task -> text, benchmark -> why its problems can't be had)."""
    from opendllm.core.data.sources import held_out_documents
    from opendllm.core.evaluation.problem_texts import problem_texts

    texts: dict[str, dict[str, str]] = {}
    unread: dict[str, str] = {}
    for label, variant, index in _benchmarks(experiment):
        manifest, corpora = variant.manifest, variant.plugins.built_corpora()
        context = BenchmarkContext(
            None,
            manifest.evaluate[index].problem_seed,
            manifest.data.sequence_length if manifest.data else 1,
            lambda corpora=corpora: held_out_documents(corpora),  # type: ignore[misc]
        )
        try:
            texts[label] = problem_texts(variant.plugins.evaluations[index].benchmark.build(), context)
        except UserError as error:
            unread[label] = str(error)
    return texts, unread

"""Whether a run trains on what it is evaluated on: looked at once for each corpus, where `data` asks for it.

That is a pass over the documents of its own, and no part of preparing them: data that an earlier run has
prepared is not read again, and its benchmarks may have been others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opendllm.core.foundation.contamination_file import SHARES, entries, write_entries
from opendllm.core.foundation.heavy_imports import import_model_libraries
from opendllm.core.foundation.json_objects import digest
from opendllm.core.foundation.process_group import join_process_group, wait_for_all
from opendllm.core.foundation.ranks import is_first_process, started_by_launcher
from opendllm.core.manifest.experiment_manifest import Experiment, Variant
from opendllm.core.progress.progress import Progress, Task
from opendllm.registries.benchmarks import BenchmarkContext
from opendllm.registries.corpora import Corpus, Document
from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    from opendllm.core.data.ngram_overlap import Overlap

MOST_CHARACTERS = 10**10
"""Of a run's corpora that are read, each an equal part: some quarter of an hour. What is left out is said."""
_FORMAT = 2


@dataclass
class _Group:
    """Variants that train on the same documents, and the benchmarks that any of them is evaluated on.

    Attributes:
        key: of the documents, the benchmarks and how they are compared.
        variants: at least one.
        benchmarks: label -> (a variant, the entry's place in its `evaluate`).
    """

    key: str
    variants: list[Variant]
    benchmarks: Mapping[str, tuple[Variant, int]]


@dataclass
class _Reading:
    """The documents of some corpora, counted as they are read.

    Attributes:
        task: told how far it is.
        documents: read by now.
        characters: in them.
        whole: whether nothing was left out.
    """

    task: Task
    documents: int = 0
    characters: int = 0
    whole: bool = True
    _started: float = field(default_factory=time.perf_counter)

    def of(self, corpora: Sequence[Corpus]) -> Iterator[Document]:
        """What is trained on of each."""
        from opendllm.core.data.held_out_texts import HeldOutTexts
        from opendllm.core.data.ngram_overlap import whole_text

        held_out = HeldOutTexts(corpora)
        for corpus in corpora:
            left = MOST_CHARACTERS // len(corpora)
            for document in held_out.training_documents(corpus):
                if left <= 0:
                    self.whole = False
                    break
                yield document
                characters = len(whole_text(document))
                left -= max(1, characters)
                self.documents += 1
                self.characters += characters
                rate = self.characters / max(1e-9, self.seconds)
                self.task.update(self.documents, characters_per_second=rate)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self._started


def check_contamination(
    experiment: Experiment, chosen: Sequence[Variant], progress: Progress, on_message: Callable[[str], None]
) -> None:
    """Compare what the chosen variants train on with the problems of the benchmarks that they are scored on.

    By the first process, which the others wait for. A benchmark whose problems can't be had is named, and
    left out.
    """
    asking = [v for v in chosen if v.manifest.train and v.manifest.data and v.manifest.data.contamination]
    if not asking:
        return
    if started_by_launcher():
        import_model_libraries()
        from opendllm.core.checkpoints.loading import torch_device

        join_process_group(torch_device(asking[0].manifest.device))
    if is_first_process():
        from opendllm.core.data.sources import LOOKING_AT_CORPORA

        known = {entry["key"]: entry for entry in entries(experiment.output)}
        others = {variant.name for variant in experiment.variants} - {variant.name for variant in asking}
        found = {key: entry for key, entry in known.items() if others & _variants(entry)}
        with progress.activity(LOOKING_AT_CORPORA):
            groups = _groups(asking)
        for group in groups:
            entry = known.get(group.key) or _compared(group, progress, on_message)
            names = {variant.name for variant in group.variants} | (others & _variants(entry))
            found[group.key] = {**entry, "variants": sorted(names)}
        if found != known:
            write_entries(experiment.output, list(found.values()))
    wait_for_all()


def _variants(entry: Mapping[str, Any]) -> set[str]:
    named = entry.get("variants")
    return set(map(str, named)) if isinstance(named, list) else set()


def _groups(asking: Sequence[Variant]) -> list[_Group]:
    """Those that train on the same, in the manifest's order."""
    from opendllm.core.data.sources import fingerprints

    by_documents: dict[str, list[Variant]] = {}
    for variant in asking:
        data = variant.manifest.data
        assert data is not None
        read = fingerprints(data, variant.plugins.built_corpora())
        by_documents.setdefault(digest({"words": data.contamination, "corpora": read}), []).append(variant)
    groups = []
    for documents, variants in by_documents.items():
        benchmarks = _benchmarks(variants)
        asked = {label: _asked(*place) for label, place in benchmarks.items()}
        key = digest({"format": _FORMAT, "documents": documents, "benchmarks": asked})
        groups.append(_Group(key, variants, benchmarks))
    return groups


def _benchmarks(variants: Sequence[Variant]) -> dict[str, tuple[Variant, int]]:
    """Label -> where a variant asks it; one that another variant asks otherwise has that one's name."""
    found: dict[str, tuple[Variant, int]] = {}
    for variant in variants:
        for index, entry in enumerate(variant.manifest.evaluate):
            label = entry.label or entry.benchmark.name
            other = found.setdefault(label, (variant, index))
            if _asked(*other) != _asked(variant, index):
                found[f"{label} ({variant.name})"] = (variant, index)
    return found


def _asked(variant: Variant, index: int) -> dict[str, Any]:
    """What decides a benchmark's problems, but for the corpora."""
    return variant.manifest.evaluate[index].model_dump(mode="json", include={"benchmark", "problem_seed"})


def _compared(group: _Group, progress: Progress, on_message: Callable[[str], None]) -> dict[str, Any]:
    """The entry of a group."""
    from opendllm.core.data.ngram_overlap import overlaps

    data = group.variants[0].manifest.data
    assert data is not None
    assert data.contamination is not None
    with progress.activity("comparing the corpus with the benchmarks", unit="documents") as task:
        texts, unread = _texts(group)
        reading = _Reading(task)
        corpora = group.variants[0].plugins.built_corpora()
        found = overlaps(texts, reading.of(corpora), data.contamination)
        seconds = reading.seconds
    names = [variant.name for variant in group.variants]
    for line in _said(found, unread, data.contamination):
        on_message(f"contamination: {', '.join(names)}: {line}")
    if not reading.whole:
        on_message(f"contamination: the first {reading.documents:,} documents were read; there are more")
    return {
        "key": group.key,
        "variants": sorted(names),
        "corpora": [choice.name for choice in data.corpora()],
        "words": data.contamination,
        "documents": reading.documents,
        "characters": reading.characters,
        "whole": reading.whole,
        "seconds": round(seconds, 3),
        "benchmarks": {label: overlap.as_json() for label, overlap in found.items()},
        "unread": unread,
    }


def _said(found: Mapping[str, Overlap], unread: Mapping[str, str], words: int) -> Iterator[str]:
    for label, overlap in found.items():
        counts = [(share, overlap.tasks_over(share)) for share in SHARES]
        if counts[0][1]:
            shares = ", ".join(f"{number} over {share:.0%}" for share, number in counts)
            yield (
                f"of {overlap.tasks} tasks of {label}, documents that are trained on have {words} words in a "
                f"row: {shares} of a task's"
            )
    for label, why in unread.items():
        yield f"{label} is not compared: {why}"


def _texts(group: _Group) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """(benchmark -> task -> text, benchmark -> why its problems can't be had)."""
    from opendllm.core.data.sources import held_out_documents
    from opendllm.core.evaluation.problem_texts import problem_texts

    texts: dict[str, dict[str, str]] = {}
    unread: dict[str, str] = {}
    for label, (variant, index) in group.benchmarks.items():
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

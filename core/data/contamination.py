"""Whether documents that are trained on hold what a benchmark asks: n-grams of words that both have."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from opendllm.registries.corpora import Document

WORST = 10
"""Tasks of a benchmark that are named."""
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass
class Overlap:
    """What of a benchmark occurs in the documents.

    Attributes:
        tasks: that the benchmark has.
        too_short: tasks with fewer words than an n-gram has, which nothing is said of.
        ngrams: of each task that has any, how many different ones.
        found: of each task, those that a document has.
        documents: how many share at least one n-gram with some task.
        closest: of each task, the document that shares most n-grams with it, and how many.
    """

    tasks: int
    too_short: int = 0
    ngrams: dict[str, int] = field(default_factory=dict)
    found: dict[str, set[int]] = field(default_factory=dict)
    documents: int = 0
    closest: dict[str, tuple[int, str]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Counts, and the worst offenders first."""
        shares = {task: len(found) / self.ngrams[task] for task, found in self.found.items()}
        worst = heapq.nsmallest(WORST, shares, key=lambda task: (-shares[task], task))
        return {
            "tasks": self.tasks,
            "too_short": self.too_short,
            "tasks_found": len(self.found),
            "documents_found": self.documents,
            "worst": [
                {"task": task, "share": shares[task], "document": self.closest[task][1]} for task in worst
            ],
        }


def overlaps(
    texts: Mapping[str, Mapping[str, str]], documents: Iterable[Document], words: int
) -> tuple[int, dict[str, Overlap]]:
    """(documents read, each benchmark's overlap with them); memory grows with the benchmarks only.

    Case and white space count for nothing.

    Args:
        texts: benchmark -> task -> what it asks and what it wants.
        documents: that are trained on.
        words: in an n-gram; a sign of punctuation is one, too.
    """
    found = {benchmark: Overlap(len(tasks)) for benchmark, tasks in texts.items()}
    owners: dict[int, list[tuple[str, str]]] = {}
    for benchmark, tasks in texts.items():
        for task, text in tasks.items():
            ngrams = _ngrams(text, words)
            found[benchmark].too_short += not ngrams
            if ngrams:
                found[benchmark].ngrams[task] = len(ngrams)
            for ngram in ngrams:
                owners.setdefault(ngram, []).append((benchmark, task))
    read = 0
    for document in documents:
        read += 1
        shared: Counter[tuple[str, str]] = Counter()
        for ngram in _ngrams(_whole(document), words) & owners.keys():
            for owner in owners[ngram]:
                shared[owner] += 1
                found[owner[0]].found.setdefault(owner[1], set()).add(ngram)
        for (benchmark, task), count in shared.items():
            closest = found[benchmark].closest
            if count > closest.get(task, (0, ""))[0]:
                closest[task] = (count, document.name)
        for benchmark in {benchmark for benchmark, _ in shared}:
            found[benchmark].documents += 1
    return read, found


def _whole(document: Document) -> str:
    prompt = document.prompt
    if isinstance(prompt, tuple):
        prompt = "\n".join(turn.content for turn in prompt)
    return f"{prompt}\n{document.text}" if prompt else document.text


def _ngrams(text: str, words: int) -> set[int]:
    """Hashes of 8 bytes of all runs of so many words."""
    found = _WORD.findall(text.lower())
    runs = zip(*(islice(found, start, None) for start in range(words)), strict=False)
    return {
        int.from_bytes(
            hashlib.blake2b(" ".join(run).encode(errors="surrogatepass"), digest_size=8).digest(), "big"
        )
        for run in runs
    }

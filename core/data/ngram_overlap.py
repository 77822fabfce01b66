"""How much of what a benchmark asks stands in documents: n-grams of words that both have."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from opendllm.core.foundation.contamination_file import SHARES
from opendllm.registries.corpora import Document

WORST = 10
"""Tasks of a benchmark that are named."""
MOST_OF_ALL_TASKS = 0.1
"""An n-gram that more of a benchmark's tasks have is its form, and no task's own: a licence, an example that
all prompts begin with. Two tasks may always share one."""
_WORD = re.compile(r"\w+|[^\w\s]")
_NOTHING: set[str] = set()


@dataclass
class Overlap:
    """What of a benchmark occurs in the documents.

    Attributes:
        tasks: that the benchmark has.
        ngrams: of each task that has any of its own, how many different ones.
        found: of each task, those that a document has.
        documents: how many hold more than the least of `SHARES` of some task.
        closest: of each task, how many of its n-grams the document has that has most of them, and its name.
    """

    tasks: int
    ngrams: dict[str, int] = field(default_factory=dict)
    found: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    documents: int = 0
    closest: dict[str, tuple[int, str]] = field(default_factory=dict)

    def tasks_over(self, share: float) -> int:
        """Tasks of whose n-grams more than this share occurs."""
        return sum(found > share for found in self._shares().values())

    def _shares(self) -> dict[str, float]:
        return {task: len(found) / self.ngrams[task] for task, found in self.found.items()}

    def as_json(self) -> dict[str, Any]:
        """Counts, and the worst tasks first."""
        shares = {task: share for task, share in self._shares().items() if share > SHARES[0]}
        worst = heapq.nsmallest(WORST, shares, key=lambda task: (-shares[task], task))
        return {
            "tasks": self.tasks,
            "too_short": self.tasks - len(self.ngrams),
            "tasks_over": {str(share): self.tasks_over(share) for share in SHARES},
            "documents_found": self.documents,
            "worst": [
                {"task": task, "share": shares[task], "document": self.closest[task][1]} for task in worst
            ],
        }

    def add(self, document: str, shared: Mapping[str, set[int]]) -> None:
        """Count one document's n-grams of each task."""
        for task, ngrams in shared.items():
            self.found[task] |= ngrams
            if len(ngrams) > self.closest.get(task, (0, ""))[0]:
                self.closest[task] = (len(ngrams), document)
        self.documents += any(len(ngrams) > SHARES[0] * self.ngrams[task] for task, ngrams in shared.items())


def overlaps(
    texts: Mapping[str, Mapping[str, str]], documents: Iterable[Document], words: int
) -> dict[str, Overlap]:
    """Each benchmark's overlap with the documents; memory grows with the benchmarks only.

    Case and white space count for nothing. Some ten million characters a second are read, in one process.

    Args:
        texts: benchmark -> task -> what it asks and what it wants.
        documents: that are trained on.
        words: in an n-gram, two at least; a sign of punctuation is one, too.
    """
    found = {benchmark: Overlap(len(tasks)) for benchmark, tasks in texts.items()}
    owners: dict[int, list[tuple[str, str]]] = {}
    after: defaultdict[str, set[str]] = defaultdict(set)
    for benchmark, tasks in texts.items():
        for ngram, having in _own_ngrams(tasks, words, after).items():
            owners.setdefault(ngram, []).extend((benchmark, task) for task in having)
            for task in having:
                found[benchmark].ngrams[task] = found[benchmark].ngrams.get(task, 0) + 1
    for document in documents:
        shared: dict[str, dict[str, set[int]]] = {}
        for ngram in _known_ngrams(_words(whole_text(document)), words, after):
            for benchmark, task in owners.get(ngram, ()):
                shared.setdefault(benchmark, {}).setdefault(task, set()).add(ngram)
        for benchmark, by_task in shared.items():
            found[benchmark].add(document.name, by_task)
    return found


def _own_ngrams(tasks: Mapping[str, str], words: int, after: dict[str, set[str]]) -> dict[int, list[str]]:
    """n-gram -> the tasks that have it; which word follows which is noted in `after`."""
    having: dict[int, list[str]] = {}
    for task, text in tasks.items():
        said = _words(text)
        for first, second in itertools.pairwise(said):
            after[first].add(second)
        for ngram in {_hashed(said[start : start + words]) for start in range(len(said) - words + 1)}:
            having.setdefault(ngram, []).append(task)
    most = max(2, MOST_OF_ALL_TASKS * len(tasks))
    return {ngram: named for ngram, named in having.items() if len(named) <= most}


def _known_ngrams(said: list[str], words: int, after: Mapping[str, set[str]]) -> Iterator[int]:
    """The n-grams each of whose words follows the one before it in some task: most documents have few."""
    known, following = 0, _NOTHING
    get = after.get
    for end, word in enumerate(said, start=1):
        known = known + 1 if word in following else 1
        following = get(word, _NOTHING)
        if known >= words:
            yield _hashed(said[end - words : end])


def whole_text(document: Document) -> str:
    """What is read of a document, its prompt first."""
    prompt = document.prompt
    if isinstance(prompt, tuple):
        prompt = "\n".join(turn.content for turn in prompt)
    return f"{prompt}\n{document.text}" if prompt else document.text


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _hashed(run: list[str]) -> int:
    """Of 8 bytes, the same in every process."""
    joined = " ".join(run).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "big")

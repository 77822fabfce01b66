"""The contract of corpora, as tests."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from opendllm.core.testing.contract import PluginContract, examples_of, passed_over
from opendllm.core.testing.moved_data import changes, copied, varied
from opendllm.core.testing.other_process import asked_elsewhere, said_by
from opendllm.registries.corpora import Corpus, Document, Split
from opendllm.registries.errors import UserError

FIRST, MANY = 50, 2000
"""How many documents are compared, where each is read several times, and where twice."""


class CorpusContract(PluginContract):
    """The same documents every time, and held-out ones that are not trained on."""

    kind = "corpora"

    def corpus(self) -> Corpus:
        """The plugin."""
        return self.built(Corpus)  # type: ignore[type-abstract]

    def first(self, split: Split) -> list[Document]:
        """The first documents of a split."""
        return list(islice(self.corpus().documents(split), FIRST))

    def test_documents_come_in_the_same_order_every_time(self) -> None:
        """Resuming a run relies on it."""
        first, again = (list(islice(self.corpus().documents("train"), MANY)) for _ in range(2))
        here = next((n for n, pair in enumerate(zip(first, again, strict=False)) if pair[0] != pair[1]), 0)
        assert first == again, (
            f"read twice, its documents from number {here} on are {_names(first[here:])} and "
            f"{_names(again[here:])}, and the same were expected: sort, and seed what is drawn"
        )
        empty = [document.name for document in first if not document.text]
        assert not empty, f"documents without text: {empty}: leave them out"

    def test_another_process_reads_the_same(self) -> None:
        """A run that goes on does; it also finds what was prepared, by the fingerprint."""
        here = said_by(self.corpus())
        there = asked_elsewhere(self.registration(), self.plugin_options())
        mend = "order by nothing that hash() has a part in, as in a set, nor by what a process is"
        assert here["names"] == there["names"] and here["digest"] == there["digest"], (  # noqa: PT018
            f"documents {here['names'][:3]} were expected, as here, and another process reads "
            f"{there['names'][:3]}: {mend}"
        )
        assert here["fingerprint"] == there["fingerprint"], (
            f"the fingerprint {here['fingerprint']} was expected, as here, and in another process it is "
            f"{there['fingerprint']}: hash the documents' content, with hashlib; {mend}"
        )

    def test_each_document_has_a_name_of_its_own(self) -> None:
        """What is drawn for a document is seeded by it."""
        for split in ("train", "held-out"):
            try:
                names = Counter(document.name for document in self.corpus().documents(split))
            except UserError:  # it has no such split, and says so
                continue
            name, times = names.most_common(1)[0] if names else ("", 0)
            assert times <= 1, (
                f"{times} documents of the {split} split are called {name!r}, and a name was expected once: "
                f"name each by its file and its number there"
            )

    def test_a_reading_can_be_taken_up_again(self) -> None:
        """A run that goes on reads anew and skips what it has: a second reader beside a first, half-read one
        begins at the beginning, and both go on to the same documents."""
        corpus, wanted = self.corpus(), self.first("train")
        begun = corpus.documents("train")
        half = list(islice(begun, len(wanted) // 2))
        anew = list(islice(corpus.documents("train"), FIRST))
        rest = list(islice(begun, len(wanted) - len(half)))
        assert anew == wanted, (
            f"a second reading was expected to begin with {_names(wanted)}, and begins with {_names(anew)}: "
            f"let `documents` start from the first document each time it is called"
        )
        assert half + rest == wanted, (
            f"a half-read iterator was expected to go on with {_names(wanted[len(half) :])}, and goes on "
            f"with {_names(rest)}, once another reading has begun: keep its place in the iterator, not in "
            f"the corpus"
        )

    def test_the_held_out_split_is_there(self) -> None:
        """Held-out losses and perplexity are of it; where there is none, it says so."""
        try:
            found = self.first("held-out")
        except UserError:
            return
        assert found, (
            "the held-out split yields nothing: give some documents, or raise a UserError that says why"
        )

    def test_they_can_be_read_in_another_thread(self) -> None:
        """They are read ahead there while others are encoded, whoever asked for them first."""
        corpus, wanted = self.corpus(), self.first("train")
        documents = corpus.documents("train")
        with ThreadPoolExecutor(1) as pool:
            try:
                found = pool.submit(lambda: list(islice(documents, FIRST))).result()
            except Exception as error:
                raise AssertionError(
                    f"another thread can't read it: {error}: open files and connections in `documents`"
                ) from error
        assert found == wanted, "another thread reads other documents: keep nothing that belongs to a thread"

    def test_the_splits_do_not_overlap(self) -> None:
        """By name, nor by what stands in them."""
        train = {(each.prompt, each.text): each.name for each in self.corpus().documents("train")}
        assert train, "the train split has no documents: yield some, or raise a UserError that says why"
        try:
            held_out = list(self.corpus().documents("held-out"))
        except UserError as error:
            passed_over(f"it has no held-out split: {error}")
        both = sorted({each.name for each in held_out} & set(train.values()))
        assert not both, f"in both splits: {both[:5]}: hold documents out by name or text, not by chance"
        same = [
            (train[each.prompt, each.text], each.name)
            for each in held_out
            if (each.prompt, each.text) in train
        ]
        assert not same, (
            f"the same text is in both splits, as {same[0][0]!r} and as {same[0][1]!r}, and {len(same)} such "
            f"texts in all; none was expected: hold documents out by their text"
        )

    def test_the_fingerprint_is_stable(self) -> None:
        """Prepared data is looked up by it."""
        first, again = (self.corpus().fingerprint() for _ in range(2))
        assert first == again, f"fingerprints of the same documents: {first} and {again}: hash their content"
        assert isinstance(first, str), f"the fingerprint is a {type(first).__name__}: give a string"
        assert first, "the fingerprint is empty: hash the documents' content"

    def test_the_fingerprint_follows_the_data(self, tmp_path: Path) -> None:
        """It is another one when a document is another, and the same when files only lie elsewhere."""
        given, files = copied(self.plugin_options(), tmp_path)
        if not given:
            passed_over("its options name no file or folder on this machine, whose copy could be changed")
        corpus, moved = self.corpus(), self._of(given)
        wanted, found = (
            list(islice(corpus.documents("train"), MANY)),
            list(islice(moved.documents("train"), MANY)),
        )
        assert found == wanted, (
            f"of the same files in another folder, documents {_names(wanted)} were expected, and "
            f"{_names(found)} came: name them relative to what the option names"
        )
        fingerprints = corpus.fingerprint(), moved.fingerprint()
        assert fingerprints[0] == fingerprints[1], (
            f"of the same files in another folder the fingerprint {fingerprints[0]} was expected, and "
            f"{fingerprints[1]} came: hash what is read, not where it lies"
        )
        for word in changes(iter(wanted), files):
            changed = None
            with contextlib.suppress(Exception):  # where that word is no text, but holds the file together
                changed = list(islice(self._of(given).documents("train"), MANY))
            if changed is None or changed == wanted:
                continue
            after = self._of(given).fingerprint()
            assert after != fingerprints[0], (
                f"with {word!r} exchanged in its files, the documents are others, and another fingerprint "
                f"was expected; {after} came as before: hash the content of every file that is read"
            )
            return
        passed_over("no word of its documents could be exchanged in its files")

    def test_the_fingerprint_follows_the_options(self) -> None:
        """Of the `examples`, and with a number or switch changed: other documents, another fingerprint."""
        options = self.plugin_options()
        found: dict[str, tuple[Mapping[str, Any], list[Document]]] = {}
        for given in (self.given(), *examples_of(type(options)), *varied(self.given(), options)):
            try:
                corpus: Corpus = self.registration().build(given)
                documents = list(islice(corpus.documents("train"), MANY))
                with contextlib.suppress(UserError):  # it has no such split, and says so
                    documents += islice(corpus.documents("held-out"), MANY)
                fingerprint = corpus.fingerprint()
            except Exception:  # noqa: S112 (options that it refuses, or that lead nowhere)
                continue
            known, same = found.setdefault(fingerprint, (given, documents))
            assert documents == same, (
                f"with {_brief(given)} its documents are others than with {_brief(known)}, and another "
                f"fingerprint than {fingerprint} was expected: hash the options that they hang on too"
            )

    def _of(self, paths: dict[str, str]) -> Corpus:
        """Of other paths."""
        given: dict[str, Any] = {**self.given(), **paths}
        corpus: Corpus = self.registration().build(given)
        return corpus


def _names(documents: list[Document]) -> list[str]:
    return [document.name for document in documents[:3]]


def _brief(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in given.items()) or "the defaults"

"""Text files: what there is to read, and what is said where there is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from opendllm.registries.corpora import Corpus
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError


def corpus(pattern: Path, **options: str) -> Corpus:
    built: Corpus = installed_plugins().corpora.get("text-files").build({"train": str(pattern), **options})
    return built


def test_empty_files_are_no_documents(tmp_path: Path) -> None:
    for name, text in (("a", ""), ("b", "text"), ("c", "")):
        (tmp_path / f"{name}.txt").write_text(text)
    found = corpus(tmp_path / "*.txt", held_out=str(tmp_path / "b.txt"))
    assert [document.text for document in found.documents("train")] == ["text"]


def test_a_corpus_too_small_to_hold_anything_out_says_so(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("text")
    found = corpus(tmp_path / "*.txt")
    assert len(list(found.documents("train"))) == 3
    with pytest.raises(UserError, match=r"of 3 files that match .* none happen to be held out"):
        list(found.documents("held-out"))


def test_a_text_is_all_that_its_file_holds_but_for_the_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\rthree\n\ufeff".encode())
    [found] = corpus(tmp_path / "a.txt", held_out=str(tmp_path / "a.txt")).documents("train")
    assert found.text == "one\r\ntwo\rthree\n\ufeff"


def test_names_and_fingerprint_do_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    said = set()
    for place in ("a", "b/c [1]"):
        (tmp_path / place / "sub").mkdir(parents=True)
        for name in ("held.txt", "sub/x.txt"):
            (tmp_path / place / name).write_text(name)
        found = corpus(tmp_path / place / "**" / "*.txt", held_out=str(tmp_path / place / "held.txt"))
        names = tuple(document.name for document in found.documents("train"))
        assert names == ("held.txt", "sub/x.txt")
        said.add(found.fingerprint())
    assert len(said) == 1
    (tmp_path / "a" / "held.txt").write_text("held.txu")
    changed = corpus(tmp_path / "a" / "**" / "*.txt", held_out=str(tmp_path / "a" / "held.txt"))
    assert changed.fingerprint() not in said

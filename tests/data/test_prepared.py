"""Tokenizers and prepared data."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from pathlib import Path

import pytest

from opendllm.core.checkpoints.tokenizer_files import read_tokenizer
from opendllm.core.data.encoding import EncodedBatch
from opendllm.core.data.prepared import PreparedData
from opendllm.core.data.prepared import prepare as prepare_data
from opendllm.core.data.token_files import SplitWriter
from opendllm.core.data.tokenizers import train_tokenizer
from opendllm.core.manifest.schema import Data
from opendllm.registries.corpora import Corpus, Document
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

TEXTS = ["def add(a, b):\n    return a + b\n", "naïve café ☕\t\r\n  x = 1\n\n", "  leading\n<|mask|>ed"]


def data(**changes: object) -> Data:
    content = {
        "corpus": {"name": "text-files"},
        "tokenizer": {"train": {"vocab_size": 300}},
        "sequence_length": 16,
    }
    return Data.model_validate(content | changes)


def prepare(section: Data, source: Corpus, folder: Path) -> PreparedData:
    assert section.tokenizer is not None
    return prepare_data(section, section.tokenizer, source, folder)


def corpus(folder: Path) -> Corpus:
    folder.mkdir(exist_ok=True)
    for number in range(3):
        (folder / f"train{number}.txt").write_text(f"text number {number} " * (number + 3))
    (folder / "held.txt").write_text("held out text")
    options = {"train": str(folder / "train*.txt"), "held_out": str(folder / "held.txt")}
    return installed_plugins().corpora.get("text-files").build(options)


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_encoding_and_decoding(text: str) -> None:
    tokenizer = train_tokenizer([Document("a", "def f(x): return x")], 280)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_the_tokenizer_beside_a_checkpoint_gives_the_ids_it_was_trained_with(tmp_path: Path) -> None:
    """Beside a config.json of model_type qwen2, AutoTokenizer would swap the pre-tokenizer."""
    texts = [
        Document(str(n), f"value_{n} = call(arg{n})  # note\n    if x == {n}: pass\n") for n in range(99)
    ]
    tokenizer = train_tokenizer(texts, 320)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    sample = "    value_77 = call(arg3)\n\n  # note 12345"
    assert read_tokenizer(tmp_path)(sample)["input_ids"] == tokenizer(sample)["input_ids"]


def test_every_document_ends_in_eos(tmp_path: Path) -> None:
    prepared = prepare(data(), corpus(tmp_path / "texts"), tmp_path / "data")
    ids = prepared.tokens["train"].tolist()
    assert ids.count(prepared.tokenizer.eos_token_id) == 3
    assert ids[-1] == prepared.tokenizer.eos_token_id


def test_prepared_data_is_made_once_and_again_when_the_corpus_changes(tmp_path: Path) -> None:
    first = prepare(data(), corpus(tmp_path / "texts"), tmp_path / "data")
    made = {path: path.stat().st_mtime_ns for path in folders(tmp_path / "data")}
    assert len(made) == 2  # the tokenizer and the tokens
    again = prepare(data(), corpus_as_is(tmp_path / "texts"), tmp_path / "data")
    assert {path: path.stat().st_mtime_ns for path in folders(tmp_path / "data")} == made
    assert again.digest == first.digest
    (tmp_path / "texts" / "train1.txt").write_text("something else entirely")
    changed = prepare(data(), corpus_as_is(tmp_path / "texts"), tmp_path / "data")
    assert len(folders(tmp_path / "data")) == 4
    assert changed.digest != first.digest


def folders(data_folder: Path) -> list[Path]:
    return sorted(path for path in data_folder.iterdir() if path.is_dir())


def test_a_tokenizer_is_known_by_its_content_not_by_its_path(tmp_path: Path) -> None:
    source = corpus(tmp_path / "texts")
    prepare(data(), source, tmp_path / "data")
    (trained,) = (tmp_path / "data").glob("tokenizer-*")
    for name in ("one", "other"):
        shutil.copytree(trained, tmp_path / name)
        prepare(data(tokenizer={"path": str(tmp_path / name)}), source, tmp_path / "data")
    assert len(list((tmp_path / "data").glob("tokens-*"))) == 1
    described = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    described["model"]["merges"].pop()
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(described))
    prepare(data(tokenizer={"path": str(tmp_path / "other")}), source, tmp_path / "data")
    assert len(list((tmp_path / "data").glob("tokens-*"))) == 2


def test_another_mask_token_is_not_taken_from_what_was_made_before(tmp_path: Path) -> None:
    """Both are in the vocabulary already, so that tokenizer.json says nothing of the choice."""
    source = corpus(tmp_path / "texts")
    tokenizer = train_tokenizer(source.documents("train"), 280, "<one>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<other>"]})
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    for token in ("<one>", "<other>"):
        choice = {"path": str(tmp_path / "tokenizer"), "mask_token": token}
        prepared = prepare(data(tokenizer=choice), source, tmp_path / "data")
        assert prepared.tokenizer.mask_token == token


def test_what_does_not_fit_beside_its_prompt_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Pairs(Corpus):
        def documents(self, split: str):  # type: ignore[no-untyped-def]
            long = " ".join(map(str, range(99)))
            for prompt, text in (("a", "b"), ("a", long), (long, "b")):
                yield Document("", f"{text} {split}", prompt)

        def fingerprint(self) -> str:
            return "x"

    for again in (False, True):
        prepare(data(sequence_length=16), Pairs(), tmp_path / "data")
        said = capsys.readouterr().err
        assert ("of 3 train documents with a prompt 1 lost their end, and 1 are left out" in said) != again


def test_other_settings_are_other_data(tmp_path: Path) -> None:
    source = corpus(tmp_path / "texts")
    for changes in ({}, {"sequence_length": 24}, {"packed": False}):
        prepare(data(**changes), source, tmp_path / "data")
    assert len(list((tmp_path / "data").glob("tokens-*"))) == 3
    assert len(list((tmp_path / "data").glob("tokenizer-*"))) == 1


def corpus_as_is(folder: Path) -> Corpus:
    options = {"train": str(folder / "train*.txt"), "held_out": str(folder / "held.txt")}
    return installed_plugins().corpora.get("text-files").build(options)


def test_an_interrupted_preparation_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    class Breaking(Corpus):
        def documents(self, split: str):  # type: ignore[no-untyped-def]
            yield Document("a", "some text")
            if split == "held-out":
                raise KeyboardInterrupt

        def fingerprint(self) -> str:
            return "x"

    with pytest.raises(KeyboardInterrupt):
        prepare(data(), Breaking(), tmp_path / "data")
    assert not list((tmp_path / "data").glob("tokens-*"))
    assert not list((tmp_path / "data").glob(".tokens-*.partial"))


def test_a_corpus_without_files_is_named(tmp_path: Path) -> None:
    empty = installed_plugins().corpora.get("text-files").build({"train": str(tmp_path / "*.none")})
    with pytest.raises(UserError, match=r"no train file matches .*\.none"):
        prepare(data(), empty, tmp_path / "data")


def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        prepare(
            data(tokenizer={"path": str(tmp_path / "nowhere")}), corpus(tmp_path / "texts"), tmp_path / "data"
        )


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: SplitWriter, batch: EncodedBatch) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SplitWriter, "add", full)
    with pytest.raises(
        UserError, match=r"data cannot be prepared in .*data: No space left on device: make room"
    ):
        prepare(data(), corpus(tmp_path / "texts"), tmp_path / "data")
    assert not list((tmp_path / "data").glob("*tokens-*/"))


@pytest.mark.parametrize("kibibytes", [2, 6])
def test_a_tokenizer_that_does_not_fit_on_the_disk_is_one_line(tmp_path: Path, kibibytes: int) -> None:
    source = corpus(tmp_path / "texts")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kibibytes << 10, before[1]))
    try:
        with pytest.raises(UserError, match=r"data cannot be prepared in .*data: File too large"):
            prepare(data(), source, tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not folders(tmp_path / "data")


@pytest.mark.parametrize("kept", [0, 3, 8])
@pytest.mark.parametrize("name", ["train-tokens.bin", "train-lengths.bin", "held-out-row-ends.bin"])
def test_prepared_data_that_was_cut_short_is_named(tmp_path: Path, name: str, kept: int) -> None:
    source = corpus(tmp_path / "texts")
    prepare(data(), source, tmp_path / "data")
    [folder] = (tmp_path / "data").glob("tokens-*")
    size = (folder / name).stat().st_size
    os.truncate(folder / name, kept if size > 8 else kept // 2)
    with pytest.raises(UserError, match=rf"{folder.name} is damaged \(.*\): delete it, and it is made again"):
        prepare(data(), source, tmp_path / "data")

"""What is held out is not trained on, by its text, whichever corpus holds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from opendllm.core.data.prepared import PreparedData, prepare_all
from opendllm.core.manifest.schema import Data
from opendllm.core.toolkit.held_out import text_key
from opendllm.registries.corpora import Document, Message
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError


def prepare(
    folder: Path, *choices: dict[str, Any], tokenizer: dict[str, Any] | None = None
) -> list[PreparedData]:
    corpora = [installed_plugins().corpora.get(choice["name"]).build(choice["options"]) for choice in choices]
    content = {"corpus": choices[0]} if len(choices) == 1 else {"mixture": [{"corpus": c} for c in choices]}
    tokenizer = tokenizer or {"train": {"vocab_size": 280}}
    data = Data.model_validate({"sequence_length": 64, "tokenizer": tokenizer, **content})
    assert data.tokenizer is not None
    return prepare_all(data, data.tokenizer, corpora, folder / "data")


def trained_on(prepared: PreparedData) -> list[str]:
    ids = prepared.tokens["train"].tolist()
    text = prepared.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return text.split(prepared.tokenizer.eos_token)[:-1]


def facts(prepared: PreparedData) -> dict[str, Any]:
    return json.loads((prepared.folder / "data.json").read_text())["train"]


def text_files(folder: Path, train: str, held_out: str) -> dict[str, Any]:
    return {
        "name": "text-files",
        "options": {"train": str(folder / train), "held_out": str(folder / held_out)},
    }


def lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_overlapping_globs_and_copies_under_other_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in {
        "a.txt": "ordinary",
        "held-1.txt": "secret one\nand more",
        "held-2.txt": "secret two",
        "copy.txt": "secret one\r\nand more\r\n",
        "near.txt": "secret  two",
    }.items():
        (tmp_path / name).write_bytes(text.encode())
    [prepared] = prepare(tmp_path, text_files(tmp_path, "*.txt", "held-*.txt"))
    assert trained_on(prepared) == ["ordinary", "secret  two"]
    assert (facts(prepared)["documents"], facts(prepared)["held_out"]) == (2, 3)
    said = capsys.readouterr().err
    assert "corpus text-files: of 5 train documents 3 are held out as well, by their text" in said


def test_rows_of_a_data_set_that_come_again(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    lines(tmp_path / "set" / "train.jsonl", ["one", "two", "three", "one", "four", "two"])
    options = {"dataset": str(tmp_path / "set"), "held_out_documents": 2}
    [prepared] = prepare(tmp_path, {"name": "huggingface", "options": options})
    assert trained_on(prepared) == ["three", "four"]
    assert facts(prepared)["held_out"] == 2


def test_what_one_corpus_of_a_mixture_holds_out_no_other_trains_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ordinary")
    (tmp_path / "held.txt").write_text("held by the first")
    train = lines(tmp_path / "train.jsonl", ["held by the first", "a line", "held by the second"])
    held_out = lines(tmp_path / "held.jsonl", ["held by the second", "ordinary, but not quite"])
    (tmp_path / "b.txt").write_text("held by the second")
    first, second = prepare(
        tmp_path,
        text_files(tmp_path, "[ab].txt", "held.txt"),
        {"name": "jsonl", "options": {"train": str(train), "held_out": str(held_out)}},
    )
    assert (trained_on(first), trained_on(second)) == (["ordinary"], ["a line"])
    assert (facts(first)["held_out"], facts(second)["held_out"]) == (1, 2)


def test_a_tokenizer_is_not_trained_on_what_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab " * 9)
    (tmp_path / "held.txt").write_text("xyzzy xyzzy " * 9)
    [prepared] = prepare(tmp_path, text_files(tmp_path, "*.txt", "held.txt"))
    tokenizer = prepared.tokenizer.backend_tokenizer
    assert isinstance(tokenizer, Tokenizer)
    assert "ab" in tokenizer.get_vocab()
    assert "xy" not in tokenizer.get_vocab()


def test_another_held_out_part_is_other_training_data(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"text {name}")
    for held_out, expected in (("b.txt", ["text a", "text c"]), ("c.txt", ["text a", "text b"])):
        [prepared] = prepare(tmp_path, text_files(tmp_path, "*.txt", held_out))
        assert trained_on(prepared) == expected


def test_what_another_corpus_holds_out_is_part_of_what_was_prepared(tmp_path: Path) -> None:
    for name in ("a", "b", "held"):
        (tmp_path / f"{name}.txt").write_text(f"text {name}")
    train, held_out = lines(tmp_path / "train.jsonl", ["a line"]), lines(tmp_path / "held.jsonl", ["text a"])
    choices = (
        text_files(tmp_path, "[ab].txt", "held.txt"),
        {"name": "jsonl", "options": {"train": str(train), "held_out": str(held_out)}},
    )
    first, _ = prepare(tmp_path, *choices)
    assert trained_on(first) == ["text b"]
    tokenizer = {"path": str(first.folder / "tokenizer")}
    for text, expected in (("text a", ["text b"]), ("text b", ["text a"])):
        lines(held_out, [text])
        first, _ = prepare(tmp_path, *choices, tokenizer=tokenizer)
        assert trained_on(first) == expected


def test_a_corpus_of_nothing_but_held_out_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match=r"text-files has no train documents: all 1 that it has are held out"):
        prepare(tmp_path, text_files(tmp_path, "a.txt", "a.txt"))


def test_skipped_records_are_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lines(tmp_path / "train.jsonl", ["one", "two"])
    path.write_text(path.read_text() + '{"text": 3}\n')
    held_out = lines(tmp_path / "held.jsonl", ["three"])
    options = {"train": str(path), "held_out": str(held_out), "on_bad_record": "skip"}
    [prepared] = prepare(tmp_path, {"name": "jsonl", "options": options})
    assert (facts(prepared)["documents"], facts(prepared)["skipped"]) == (2, 1)
    said = capsys.readouterr().err
    assert "corpus jsonl: 1 train records can't be read and are left out, the first: " in said
    assert f"{path}:3: no text in field 'text'" in said


def test_a_moved_folder_is_not_prepared_again(tmp_path: Path) -> None:
    made = set()
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for name in ("a", "held"):
            (tmp_path / place / f"{name}.txt").write_text(f"text {name}")
        [prepared] = prepare(tmp_path, text_files(tmp_path / place, "*.txt", "held.txt"))
        made.add(prepared.folder)
    assert len(made) == 1
    (tmp_path / "there" / "a.txt").write_text("text b")
    [prepared] = prepare(tmp_path, text_files(tmp_path / "there", "*.txt", "held.txt"))
    assert prepared.folder not in made


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Document("a", "x\r\ny \n"), Document("b", "x\ny"), True),
        (Document("a", "x y"), Document("b", "x  y"), False),
        (Document("a", "x", "p"), Document("b", "x"), False),
        (Document("a", "x", "p"), Document("b", "x", "q"), False),
        (Document("a", "x", "p"), Document("b", "x", (Message("user", "p"),)), True),
        (Document("a", "x", "p"), Document("b", "x", (Message("system", "p"),)), False),
        (Document("a", "x", ""), Document("b", "x"), True),
        (Document("a", "x\ry"), Document("b", "x\ny"), True),
        (Document("a", "x", (Message("user", "p"),)), Document("b", "x", (Message("user", "p\n"),)), True),
        (Document("a", "bc", "a"), Document("b", "c", "ab"), False),
    ],
)
def test_which_texts_are_the_same(one: Document, other: Document, same: bool) -> None:
    assert (text_key(one) == text_key(other)) == same

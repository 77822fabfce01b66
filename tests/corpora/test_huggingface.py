"""Hugging Face data sets, from folders; no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import parquet

from opendllm.plugins.corpora import HuggingfaceOptions
from opendllm.plugins.corpora.huggingface import Huggingface
from opendllm.registries.errors import UserError

TEXTS = [f"def f{number}():\n    return {number}\n" for number in range(12)]


def corpus(folder: Path | str, **options: Any) -> Huggingface:
    return Huggingface(HuggingfaceOptions(dataset=str(folder), **{"held_out_documents": 3, **options}))


def write_lines(folder: Path, rows: list[Any], name: str = "train.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_parquet(folder: Path, rows: list[dict[str, Any]], name: str = "train.parquet") -> Path:
    folder.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)
    return folder


def texts(found: Huggingface, split: Any) -> list[str]:
    return [document.text for document in found.documents(split)]


@pytest.mark.parametrize("write", [write_lines, write_parquet])
def test_the_first_documents_are_held_out_and_the_rest_is_trained_on(tmp_path: Path, write: Any) -> None:
    found = corpus(write(tmp_path / "data", [{"text": text, "n": n} for n, text in enumerate(TEXTS)]))
    assert texts(found, "held-out") == TEXTS[:3]
    assert texts(found, "train") == TEXTS[3:]
    names = [document.name for split in ("held-out", "train") for document in found.documents(split)]
    assert len(set(names)) == 12


def test_both_kinds_of_file_give_the_same_names(tmp_path: Path) -> None:
    rows = [{"text": text} for text in TEXTS]
    write_lines(tmp_path / "data", rows)
    first = [document.name for document in corpus(tmp_path / "data").documents("train")]
    (tmp_path / "data" / "train.jsonl").unlink()
    write_parquet(tmp_path / "data", rows)
    assert [document.name for document in corpus(tmp_path / "data").documents("train")] == first


def test_another_column_and_empty_texts(tmp_path: Path) -> None:
    rows = [{"content": text if number % 2 else ""} for number, text in enumerate(TEXTS)]
    found = corpus(write_lines(tmp_path / "data", rows), text_field="content", held_out_documents=4)
    assert texts(found, "held-out") == [TEXTS[1], TEXTS[3]]
    assert texts(found, "train") == TEXTS[5::2]


def test_another_split_and_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_lines(tmp_path / "data", [{"text": "a"}] * 4)
    write_lines(tmp_path / "data", [{"text": text} for text in TEXTS], "test.jsonl")
    assert texts(corpus("~/data", split="test"), "train") == TEXTS[3:]


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_a_wrong_column_names_the_right_ones(tmp_path: Path, split: str) -> None:
    folder = write_lines(tmp_path / "data", [{"content": "a", "lang": "b"}] * 5)
    with pytest.raises(UserError, match=r"train:\d: no text in field 'text'; its fields: content, lang"):
        texts(corpus(folder), split)


def test_a_column_of_numbers_is_refused(tmp_path: Path) -> None:
    folder = write_lines(tmp_path / "data", [{"text": 3}] * 5)
    with pytest.raises(UserError, match="no text in field 'text'"):
        texts(corpus(folder), "held-out")


@pytest.mark.parametrize("rows", [0, 2, 3])
def test_a_split_without_documents_is_refused(tmp_path: Path, rows: int) -> None:
    folder = write_lines(tmp_path / "data", [{"text": "a"}] * rows)
    with pytest.raises(UserError, match=f"{folder}.*(no train documents|cannot be read)"):
        texts(corpus(folder), "train")


@pytest.mark.parametrize("splits", [False, True], ids=["one", "by name"])
def test_a_data_set_that_was_saved_to_disk(tmp_path: Path, splits: bool) -> None:
    rows = Dataset.from_list([{"text": text} for text in TEXTS])
    saved = DatasetDict({"train": rows, "test": rows.select([0])}) if splits else rows
    saved.save_to_disk(tmp_path / "data")
    assert texts(corpus(tmp_path / "data"), "train") == TEXTS[3:]


def test_the_first_documents_of_a_long_data_set(tmp_path: Path) -> None:
    found = corpus(write_lines(tmp_path / "data", [{"text": text} for text in TEXTS]), train_documents=4)
    assert texts(found, "train") == TEXTS[3:7]


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    folder = write_lines(tmp_path / "data", [{"text": "a"}] * 3)
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"text": "cut sho')
    with pytest.raises(UserError, match=str(folder)) as caught:
        texts(corpus(folder, held_out_documents=1), "train")
    assert "\n" not in str(caught.value)
    (folder / "train.jsonl").rename(folder / "notes.md")
    with pytest.raises(UserError, match=str(folder)):
        texts(corpus(folder), "train")


def test_files_with_other_columns_are_said_to_have_them(tmp_path: Path) -> None:
    folder = write_lines(tmp_path / "data", [{"text": text, "id": 1} for text in TEXTS], "a.jsonl")
    write_lines(folder, [{"id": "1", "text": text, "more": 1} for text in TEXTS], "b.jsonl")
    with pytest.raises(
        UserError, match=r"because column names don't match\): .* with the corpus jsonl"
    ) as caught:
        texts(corpus(folder), "train")
    assert "\n" not in str(caught.value)


def test_a_split_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    folder = write_lines(tmp_path / "data", [{"text": "a"}] * 3)
    with pytest.raises(UserError, match=r"data set .* cannot be read \(.*validation") as caught:
        texts(corpus(folder, split="validation"), "train")
    assert "\n" not in str(caught.value)


def test_the_fingerprint_changes_with_files_and_options(tmp_path: Path) -> None:
    folder = write_lines(tmp_path / "data", [{"text": text} for text in TEXTS])
    first = corpus(folder).fingerprint()
    assert corpus(folder).fingerprint() == first
    assert corpus(folder, held_out_documents=4).fingerprint() != first
    write_lines(folder, [{"text": text} for text in TEXTS[1:]])
    second = corpus(folder).fingerprint()
    assert second != first
    write_lines(folder, [{"text": "a"}], "test.jsonl")
    assert corpus(folder).fingerprint() not in (first, second)


@pytest.mark.parametrize(
    "variables",
    [
        {"HF_HUB_OFFLINE": "1"},
        {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"},
        {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://no-such-host.invalid"},
    ],
    ids=["offline", "refused", "nameless"],
)
def test_a_data_set_that_cannot_be_had_is_one_line_at_once(tmp_path: Path, variables: dict[str, str]) -> None:
    script = (
        "from opendllm.plugins.corpora import HuggingfaceOptions\n"
        "from opendllm.plugins.corpora.huggingface import Huggingface\n"
        "from opendllm.registries.errors import UserError\n"
        "found = Huggingface(HuggingfaceOptions(dataset='nobody/nothing'))\n"
        "found.fingerprint()\n"
        "try: list(found.documents('train'))\n"
        "except UserError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_HOME": str(tmp_path), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    [line] = result.stdout.splitlines()
    assert line.startswith("data set nobody/nothing cannot be read (")
    assert line.endswith("where there is no network, fetch it elsewhere and give its folder")

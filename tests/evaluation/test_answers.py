"""Answers on file: none lost, doubled, or mixed with those of other settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opendllm.core.evaluation.answering import answer_seed
from opendllm.core.evaluation.answers import AnswerFile
from opendllm.core.evaluation.shards import Shard, take_shard
from opendllm.core.foundation.sample_records import SampleRecord
from opendllm.registries.benchmarks import GeneratedText
from opendllm.registries.errors import UserError

GENERATED = {"text": "x = 1", "tokens": [1, 2], "reference_tokens": [1, 3], "seconds": 0.1}


def generated(task_id: str, setting: str = "s", sample: int = 0, text: str = "x = 1") -> SampleRecord:
    return SampleRecord(GeneratedText(task_id, setting, sample, text, (1, 2), (1, 3)), "p", seconds=0.1)


def test_answers_are_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "samples" / "b.jsonl"
    AnswerFile(path, "d").add(generated("task", "oracle", 0))
    AnswerFile(path, "d").add(generated("task", "oracle", 1))
    assert set(AnswerFile(path, "d").records) == {("task", "oracle", 0), ("task", "oracle", 1)}


def test_a_line_cut_short_by_a_kill_is_dropped_and_made_again(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    file = AnswerFile(path, "d")
    file.add(generated("a"))
    file.add(generated("b"))
    path.write_text(path.read_text()[:-30])
    reopened = AnswerFile(path, "d")
    assert set(reopened.records) == {("a", "s", 0)}
    reopened.add(generated("b"))
    assert [json.loads(line)["task_id"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_answers_of_other_settings_are_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    AnswerFile(path, "one").add(generated("a"))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"b.jsonl:1 was made with other settings"):
        AnswerFile(path, "two")
    assert path.read_bytes() == before


def test_answers_of_other_settings_are_refused_by_all_processes_before_any_waits(tmp_path: Path) -> None:
    def wait() -> None:
        raise AssertionError("the others are gone by then")

    path = tmp_path / "b.jsonl"
    AnswerFile(path, "one").add(generated("a"))
    for rank in range(2):
        with pytest.raises(UserError, match=r"b.jsonl:1 was made with other settings"):
            AnswerFile(path, "two", Shard(rank, 2, wait))


def test_a_file_of_something_else_is_refused_and_bytes_that_are_no_text_cost_their_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "b.jsonl"
    AnswerFile(path, "d").add(generated("a"))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20] + b"\xff\xfe\0\n")
    assert set(AnswerFile(path, "d").records) == {("a", "s", 0)}
    assert path.read_bytes() == whole
    path.write_bytes(whole + b'{"task_id": "b", "completion": "x"}\n')
    with pytest.raises(UserError, match=r"b.jsonl:2 is no answer of an evaluation"):
        AnswerFile(path, "d")


def test_parts_of_several_processes_become_one_file_in_the_order_asked(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    AnswerFile(path, "d").add(generated("b"))
    second = AnswerFile(path, "d", Shard(1, 2))
    first = AnswerFile(path, "d", Shard(0, 2))
    assert second.records == first.records
    first.add(generated("c"))
    second.add(generated("a"))
    second.add(generated("b", text="made twice by a kill between merging and deleting"))
    assert len(path.read_text().splitlines()) == 1
    first.gather([("a", "s", 0), ("b", "s", 0)])
    assert [json.loads(line)["task_id"] for line in path.read_text().splitlines()] == ["a", "b", "c"]
    assert first.records[("b", "s", 0)].text == "x = 1"
    assert [file.name for file in tmp_path.iterdir()] == ["b.jsonl"]


def test_parts_of_a_killed_evaluation_are_taken_in_whatever_the_number_of_processes(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    for rank in range(3):
        AnswerFile(path, "d", Shard(rank, 3))
    for rank in range(1, 3):
        line = {"task_id": str(rank), "setting": "s", "sample": 0, **GENERATED, "digest": "d"}
        (tmp_path / f"b.jsonl.part-{rank}").write_text(json.dumps(line) + '\n{"task_id": "cut')
    assert set(AnswerFile(path, "d").records) == {("1", "s", 0), ("2", "s", 0)}
    (tmp_path / "b.jsonl.part-0").write_text(json.dumps({**line, "digest": "other"}) + "\n")
    with pytest.raises(UserError, match=r"b.jsonl.part-0:1 was made with other settings"):
        AnswerFile(path, "d")


def test_a_broken_line_in_the_middle_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    file = AnswerFile(path, "d")
    for task in "abc":
        file.add(generated(task))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:20], lines[2]]) + "\n")
    assert set(AnswerFile(path, "d").records) == {("a", "s", 0), ("c", "s", 0)}
    assert path.read_text().splitlines() == [lines[0], lines[2]]


def test_every_item_is_in_one_shard() -> None:
    items = list(range(11))
    assert sorted(item for rank in range(3) for item in take_shard(items, rank, 3)) == items


def test_every_answer_has_its_own_seed() -> None:
    keys = [(task, setting, sample) for task in "ab" for setting in ("x", "y") for sample in (0, 1)]
    seeds = {answer_seed(seed, key) for seed in (0, 1) for key in keys}
    assert len(seeds) == 16
    assert answer_seed(0, keys[0]) == answer_seed(0, keys[0])

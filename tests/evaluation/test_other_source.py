"""Answers that another source of a plugin made are kept and not used again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opendllm.core.evaluation.set_aside import set_aside_other_sources

NOW = {"samplers/mine": "bbb", "backbones/dream": "ccc"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path, text in {
        "samples/one.jsonl": "{}\n",
        "samples/one.jsonl.part-1": "{}\n",
        "samples/two.jsonl": "{}\n",
        "results/one.json": "{}",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def say(folder: Path, sources: object) -> None:
    (folder / "samples" / "one.about.json").write_text(json.dumps({"sources": sources}))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_answers_of_other_source_are_moved_away_and_it_is_said_in_one_line(folder: Path) -> None:
    say(folder, {**NOW, "samplers/mine": "aaa"})
    [line] = set_aside_other_sources(folder, "one", NOW)
    assert "samplers/mine (source aaa then, bbb now) has changed" in line
    assert str(folder / "before-other-source-1") in line
    kept = "before-other-source-1"
    assert files(folder) == [
        f"{kept}/results/one.json",
        f"{kept}/samples/one.about.json",
        f"{kept}/samples/one.jsonl",
        f"{kept}/samples/one.jsonl.part-1",
        "samples/two.jsonl",
    ]
    (folder / "samples" / "one.jsonl").write_text("{}\n")
    say(folder, {**NOW, "samplers/mine": "aab"})
    set_aside_other_sources(folder, "one", NOW)
    assert (folder / "before-other-source-2" / "samples" / "one.jsonl").is_file()


@pytest.mark.parametrize("sources", [NOW, None, {}, {"samplers/another": "aaa"}])
def test_answers_of_the_same_or_of_unknown_source_stay(folder: Path, sources: object) -> None:
    say(folder, sources)
    before = files(folder)
    assert set_aside_other_sources(folder, "one", NOW) == []
    assert files(folder) == before

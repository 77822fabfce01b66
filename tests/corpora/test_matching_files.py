"""What a glob matches: each real file once, whatever its name is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from opendllm.core.foundation.globs import matches_anything, matching_files


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def names(pattern: Path | str) -> list[str]:
    return [file.name for file in matching_files(str(pattern))]


def test_links_are_followed_and_each_file_counts_once(tmp_path: Path) -> None:
    make(tmp_path, "data/a.txt", "data/sub/b.txt", "elsewhere/c.txt")
    for link, target in (
        ("data/again", "sub"),
        ("data/sub/round", ".."),
        ("data/sub/and-round", "../.."),
        ("data/far", "../elsewhere"),
        ("data/z.txt", "a.txt"),
        ("data/gone.txt", "nowhere"),
    ):
        (tmp_path / link).symlink_to(target)
    os.link(tmp_path / "data/a.txt", tmp_path / "data/sub/hard.txt")
    found = matching_files(str(tmp_path / "data" / "**" / "*.txt"))
    assert sorted(file.path.read_text() for file in found) == [
        "data/a.txt",
        "data/sub/b.txt",
        "elsewhere/c.txt",
    ]
    assert found[0].name == "a.txt"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["a.txt", "b.txt"]),
        ("**/*.txt", ["a.txt", "b.txt", "sub/c.txt", "sub/deep/d.txt"]),
        ("sub/**/*.txt", ["c.txt", "deep/d.txt"]),
        ("sub/**", ["c.txt", "deep/d.txt", "e.py"]),
        ("**/deep/*", ["sub/deep/d.txt"]),
        ("[ab].txt", ["a.txt", "b.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("a.txt", ["a.txt"]),
        ("*/*.txt", ["sub/c.txt"]),
        (".*", [".hidden"]),
        ("none/*.txt", []),
        ("a.txt/*", []),
    ],
)
def test_globs(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    make(tmp_path, "b.txt", "a.txt", "sub/c.txt", "sub/e.py", "sub/deep/d.txt", ".hidden", ".git/x.txt")
    assert names(tmp_path / pattern) == expected
    assert matches_anything(str(tmp_path / pattern)) == bool(expected)


def test_brackets_spaces_and_stars_in_names(tmp_path: Path) -> None:
    make(tmp_path, "my data [v2]/part [1].txt", "my data [v2]/part [2].txt", "my data [v2]/x*.txt")
    folder = tmp_path / "my data [v2]"
    assert names(folder / "part [1].txt") == ["part [1].txt"]
    assert names(folder / "part [[]*.txt") == ["part [1].txt", "part [2].txt"]
    assert names(folder / "part [1]*") == ["part [1].txt"]
    assert names(folder / "x*.txt") == ["x*.txt"]
    assert names(tmp_path / "my*" / "part [2].txt") == ["my data [v2]/part [2].txt"]


def test_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make(tmp_path, "data/a.txt")
    assert names("~/data/*.txt") == ["a.txt"]


def test_names_that_are_not_utf8_can_be_read_printed_and_hashed(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    Path(os.fsdecode(raw)).write_text("text")
    [found] = matching_files(str(tmp_path / "*.txt"))
    assert found.name == "caf\\xe9.txt"
    assert found.path.read_text() == "text"

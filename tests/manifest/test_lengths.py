"""What the file system can't hold is refused by `validate`, with the line that says it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.registries import UserError
from opendllm.registries.discovery import installed_plugins

MANIFEST = """
name: m
model: {{backbone: {{name: llada, options: {{pretrained: GSAI-ML/LLaDA-8B-Base}}}}}}
evaluate:
  - {{benchmark: {{name: humaneval}}, label: {label}}}
variants:
  {variant}: {{}}
"""


def read(folder: Path, label: str = "short", variant: str = "v", *settings: str) -> Path:
    (folder / "m.yaml").write_text(MANIFEST.format(label=label, variant=variant))
    return read_experiment(folder / "m.yaml", settings, installed_plugins()).output


def longest(folder: Path) -> int:
    return os.pathconf(folder, "PC_NAME_MAX")


def test_a_label_leaves_room_for_what_its_files_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fits = longest(tmp_path) - 23
    read(tmp_path, "b" * fits)
    name = f".{'b' * fits}.jsonl.{4194304}.partial"
    (tmp_path / name).touch()
    with pytest.raises(
        UserError, match=rf"m\.yaml:5\S*: evaluate\.0: b+\.\.\. .* {fits} bytes that a label may"
    ):
        read(tmp_path, "b" * (fits + 1))


def test_a_variants_name_is_a_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fits = longest(tmp_path)
    read(tmp_path, "short", "v" * fits)
    with pytest.raises(UserError, match=rf"m\.yaml:\d+\S*: variants\.v+.*: is longer than the {fits} bytes"):
        read(tmp_path, "short", "v" * (fits + 1))


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("o" * 256, "is longer than the 255 bytes that a name may have"),
        ("/".join(["o" * 200] * 21), "bytes that leave room for what a run writes"),
    ],
)
def test_an_output_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"--set output: .*{why}"):
        read(tmp_path, "short", "v", f"output={output}")


def test_the_users_home_and_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert read(tmp_path, "short", "v", "output=~/my runs/a [b]*") == tmp_path / "me" / "my runs" / "a [b]*"
    with pytest.raises(UserError, match="output: ~nobody-of-that-name/x names no folder"):
        read(tmp_path, "short", "v", "output=~nobody-of-that-name/x")

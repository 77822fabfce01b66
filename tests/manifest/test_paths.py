"""Relative paths are relative to the manifest that says them, and where files lie is in no digest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.manifest.experiment_manifest import Experiment, read_experiment
from opendllm.core.run.folder import training_folders
from opendllm.registries import UserError
from opendllm.registries.discovery import installed_plugins

MANIFEST = """
name: m
model: {backbone: {name: llada}}
data:
  corpus: {name: text-files, options: {train: 'texts/*.txt', held_out: texts/held.txt}}
  tokenizer: {path: tokenizer}
  sequence_length: 32
train: {objective: {name: llada}, steps: 2}
evaluate: [{benchmark: {name: humaneval, options: {problems: problems.jsonl}}}]
"""


def write(folder: Path, text: str = MANIFEST, name: str = "m.yaml") -> Path:
    for path in ("texts/held.txt", "texts/a.txt", "tokenizer/tokenizer.json", "problems.jsonl"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f"of {path}")
    (folder / name).write_text(text)
    return folder / name


def read(path: Path, *settings: str) -> Experiment:
    return read_experiment(path, settings, installed_plugins())


def paths(experiment: Experiment) -> dict[str, Any]:
    manifest = experiment.variants[0].manifest
    assert manifest.data is not None
    assert manifest.data.corpus is not None
    assert manifest.data.tokenizer is not None
    problems = manifest.evaluate[0].benchmark.options["problems"]
    return {**manifest.data.corpus.options, "tokenizer": manifest.data.tokenizer.path, "problems": problems}


def below(folder: Path) -> dict[str, str]:
    return {
        "train": f"{folder}/texts/*.txt",
        "held_out": f"{folder}/texts/held.txt",
        "tokenizer": f"{folder}/tokenizer",
        "problems": f"{folder}/problems.jsonl",
    }


def test_paths_are_relative_to_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "there")
    (tmp_path / "elsewhere").mkdir()
    for folder in (tmp_path, tmp_path / "there", tmp_path / "elsewhere"):
        monkeypatch.chdir(folder)
        found = read(Path(os.path.relpath(tmp_path / "there" / "m.yaml")))
        assert {key: os.path.normpath(path) for key, path in paths(found).items()} == below(
            tmp_path / "there"
        )


def test_paths_of_an_extended_manifest_are_relative_to_that(tmp_path: Path) -> None:
    write(tmp_path / "base")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "mine.txt").write_text("mine")
    text = "extends: base/m.yaml\ndata: {corpus: {options: {held_out: texts/mine.txt}}}\n"
    (tmp_path / "child.yaml").write_text(text)
    expected = {**below(tmp_path / "base"), "held_out": f"{tmp_path}/texts/mine.txt"}
    assert paths(read(tmp_path / "child.yaml")) == expected


def test_what_is_not_beside_the_manifest_is_looked_for_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    (tmp_path / "manifests").mkdir()
    (tmp_path / "m.yaml").rename(tmp_path / "manifests" / "m.yaml")
    monkeypatch.chdir(tmp_path)
    assert paths(read(Path("manifests/m.yaml"))) == below(tmp_path)


def test_a_setting_is_relative_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "there")
    write(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    found = read(tmp_path / "there" / "m.yaml", "data.corpus.options.train=texts/*.txt")
    assert paths(found)["train"] == f"{tmp_path}/here/texts/*.txt"


def test_hub_ids_stay_what_they_are(tmp_path: Path) -> None:
    text = MANIFEST.replace("name: llada}}", "name: llada, options: {pretrained: GSAI-ML/LLaDA-8B-Base}}}", 1)
    corpus = "{name: huggingface, options: {dataset: fredzzp/fine_code}}"
    text = text.replace("path: tokenizer", "path: Qwen/Qwen2.5-Coder-0.5B")
    manifest = (
        read(write(tmp_path, text), f"data.corpus={corpus}").variants[0].manifest.model_dump(mode="json")
    )
    assert manifest["model"]["backbone"]["options"]["pretrained"] == "GSAI-ML/LLaDA-8B-Base"
    assert manifest["data"]["corpus"]["options"]["dataset"] == "fredzzp/fine_code"
    assert manifest["data"]["tokenizer"]["path"] == "Qwen/Qwen2.5-Coder-0.5B"


def test_a_moved_experiment_has_the_same_digest_and_a_changed_tokenizer_another(tmp_path: Path) -> None:
    before = read(write(tmp_path / "a")).variants[0].training_digest
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert read(tmp_path / "b" / "m.yaml").variants[0].training_digest == before
    (tmp_path / "b" / "tokenizer" / "tokenizer.json").write_text("another")
    assert read(tmp_path / "b" / "m.yaml").variants[0].training_digest != before


def test_hub_data_sets_and_options_are_in_the_digest(tmp_path: Path) -> None:
    path = write(tmp_path)
    corpora = [
        "{name: huggingface, options: {dataset: a/b}}",
        "{name: huggingface, options: {dataset: a/c}}",
        "{name: huggingface, options: {dataset: a/c, split: test}}",
        "{name: jsonl, options: {train: x}}",
        "{name: jsonl, options: {train: x, text_field: y}}",
    ]
    digests = {read(path, f"data.corpus={corpus}").variants[0].training_digest for corpus in corpora}
    assert len(digests) == len(corpora)


def test_variants_of_other_files_do_not_share_a_training_run(tmp_path: Path) -> None:
    text = """
variants:
  one: {}
  same: {generate: {steps: 3}}
  other: {data: {corpus: {options: {train: 'texts/a.txt'}}}}
"""
    experiment = read(write(tmp_path, MANIFEST + text))
    assert training_folders(experiment) == {"one": "one", "same": "one", "other": "other"}


def test_a_folder_whose_name_is_no_unicode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    path = write(folder)
    monkeypatch.chdir(folder)
    assert paths(read(Path("m.yaml")))["train"] == "texts/*.txt"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="name is not UTF-8: run from within that folder"):
        read(path)

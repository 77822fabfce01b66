"""A checkpoint of the hub may change between two runs of a manifest: its answers are not mixed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from opendllm.core.experiment import run_experiment
from opendllm.core.manifest.experiment_manifest import experiment_of
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from tests.tiny_checkpoint import save_tiny_checkpoint


def test_answers_of_two_commits_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made").mkdir()
    model = save_tiny_checkpoint(tmp_path / "made")
    commits = [tmp_path / "models--org--name" / "snapshots" / (digit * 40) for digit in "ab"]
    for folder in commits:
        shutil.copytree(model, folder)
    newest = commits[0]
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(newest))
    (tmp_path / "held_out.txt").write_text("a = b\n" * 20)
    (tmp_path / "train.txt").write_text("a = c\n" * 20)
    texts = {name: str(tmp_path / f"{name}.txt") for name in ("train", "held_out")}
    manifest = {
        "name": "hub",
        "output": str(tmp_path / "run"),
        "device": "cpu",
        "model": {"backbone": {"name": "llada", "options": {"pretrained": "org/name"}}},
        "data": {"corpus": {"name": "text-files", "options": texts}, "sequence_length": 32},
        "evaluate": [{"benchmark": {"name": "perplexity"}, "likelihood_draws": 2}],
    }
    experiment = experiment_of(manifest, "a test", "only", installed_plugins())
    run_experiment(experiment, ["evaluate"])
    result = json.loads((tmp_path / "run" / "only" / "results" / "perplexity.json").read_text())
    assert result["provenance"]["commit"] == "a" * 40
    run_experiment(experiment, ["evaluate"])  # the same again is nothing new
    newest = commits[1]
    with pytest.raises(UserError, match=f"answers of the hub's commit {'a' * 40}, and it has {'b' * 40} now"):
        run_experiment(experiment, ["evaluate"])

"""The README's examples are true, word for word."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.registries.discovery import installed_plugins


@pytest.fixture(scope="module")
def blocks(repository: Path) -> dict[str, list[str]]:
    """The README's fenced code blocks by language."""
    found: dict[str, list[str]] = {}
    text = (repository / "README.md").read_text()
    for language, block in re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL):
        found.setdefault(language, []).append(block)
    return found


def cells(table: str) -> dict[tuple[str, str], str]:
    """(variant, column) -> what stands there, without the mark of the best."""
    rows = [[word.strip(" *") for word in line.split("|")[1:-1]] for line in table.strip().splitlines()]
    return {
        (row[0], name): re.sub(r"\*", "", cell)
        for row in rows[2:]
        for name, cell in zip(rows[0][1:], row[1:], strict=True)
    }


def test_its_scores_are_those_of_the_run_that_its_pictures_are_of(repository: Path) -> None:
    """docs/screenshots.py keeps them beside the pictures."""
    readme, kept = (repository / name for name in ("README.md", "docs/images/scores.txt"))
    [shown] = re.findall(r"(?:^\| *variant .*\n)(?:^\|.*\n)+", readme.read_text(), re.MULTILINE)
    measured: dict[tuple[str, str], str] = {}
    for table in re.findall(r"(?:^\|.*\n)+", kept.read_text(), re.MULTILINE):
        measured |= cells(table)
    assert cells(shown).items() <= measured.items()
    assert {variant for variant, _ in cells(shown)} == {variant for variant, _ in measured}


def test_the_example_manifest_is_valid(
    blocks: dict[str, list[str]], repository: Path, tmp_path: Path
) -> None:
    quickstart = (repository / "experiments" / "quickstart.yaml").read_text()
    base = quickstart.split("variants:")[0]
    (tmp_path / "base.yaml").write_text(base)
    (tmp_path / "example.yaml").write_text(blocks["yaml"][0])
    experiment = read_experiment(tmp_path / "example.yaml", [], installed_plugins())
    names = [variant.name for variant in experiment.variants]
    assert names == [f"{name}-seed-{seed}" for name in ("fast", "slow", "untrained") for seed in (0, 1)]
    digests = {variant.name: variant.training_digest for variant in experiment.variants}
    assert digests["fast-seed-0"] == digests["slow-seed-0"] != digests["fast-seed-1"]


def test_the_error_it_shows_is_the_error_one_gets(tmp_path: Path, repository: Path) -> None:
    text = (repository / "experiments" / "quickstart.yaml").read_text()
    (tmp_path / "x.yaml").write_text(text.replace("  steps: 100", "  stepz: 100"))
    done = subprocess.run(
        [sys.executable, "-m", "opendllm.core", "validate", "x.yaml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert re.search(
        r"^error: x\.yaml:\d+:3: train\.stepz: unknown key; did you mean 'steps'\?", done.stderr, re.MULTILINE
    )

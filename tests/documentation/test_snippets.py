"""What the documentation shows works: manifests are valid, code runs, commands are there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import typer.main
from ruamel.yaml import YAML

from opendllm.core.cli.main import app
from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.registries.discovery import installed_plugins

from .conftest import QUICK
from .snippets import Snippet, shown_commands, snippets

DOCS = Path(__file__).parents[2] / "docs"
ALL = list(snippets(DOCS))
MANIFESTS = [each for each in ALL if each.language == "yaml"]
TUTORIAL = [each for each in ALL if each.page == "tutorial.md"]
PROGRAMS: dict[str, list[Snippet]] = defaultdict(list)
for each in ALL:
    if each.language == "python" and each.title is None:
        PROGRAMS[each.page].append(each)


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {each.language for each in ALL} <= {"python", "yaml", "sh"}
    assert {each.page for each in ALL if each.language == "sh"} <= {"tutorial.md", "coming-from.md"}
    not_run = [each for each in ALL if each.language == "sh" and each.page != "tutorial.md"]
    assert all(each.reason for each in not_run), "only the tutorial's shell blocks are run"


@pytest.mark.parametrize("snippet", MANIFESTS, ids=lambda each: each.where)
def test_manifests_are_valid(snippet: Snippet, repository: Path, tmp_path: Path) -> None:
    quickstart = (repository / "experiments" / "quickstart.yaml").read_text()
    (tmp_path / "base.yaml").write_text(quickstart.split("variants:")[0])
    for name in ("chats.jsonl", "santacoder-fim.jsonl"):  # files that they name
        (tmp_path / name).write_text("{}\n")
    said = YAML(typ="safe").load(snippet.text)
    (tmp_path / "shown.yaml").write_text(snippet.text if "name" in said else _extending(said))
    assert read_experiment(tmp_path / "shown.yaml", [], installed_plugins()).variants


def _extending(said: dict[str, Any]) -> str:
    """A part of a manifest on the quickstart's; a corpus or mixture takes the place of the one there."""
    if "mixture" in said.get("data", {}):
        said["data"]["corpus"] = None
    if (said.get("data") or {}).get("tokenizer", {}).get("path"):
        said["data"]["tokenizer"]["train"] = None
    noise = (said.get("train") or {}).get("noise_schedule", {}).get("options", {}).get("destination")
    if noise == "uniform":
        said["generate"] = {"sampler": {"name": "uniform-ancestral"}}
    return json.dumps({"extends": "base.yaml", **said})


@pytest.mark.slow
@pytest.mark.parametrize("page", PROGRAMS)
def test_programs_run(page: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    names: dict[str, Any] = {"__name__": "documentation"}
    for snippet in PROGRAMS[page]:
        if snippet.reason is None:
            exec(compile("\n" * (snippet.line - 1) + snippet.text, str(DOCS / page), "exec"), names)


@pytest.mark.parametrize(
    ("where", "words"), list(shown_commands(DOCS)), ids=lambda each: each if isinstance(each, str) else ""
)
def test_commands_take_what_they_are_shown_with(where: str, words: list[str], repository: Path) -> None:
    words = words[: words.index(">")] if ">" in words else words
    command: Any = typer.main.get_command(app)
    name = "platform"
    while words and words[0] in getattr(command, "commands", {}):
        name, command = f"{name} {words[0]}", command.commands[words[0]]
        words = words[1:]
    if words[:1] == ["M"] or not words or words == ["--help"] or words[0] == "COMMAND":
        words = ["experiments/quickstart.yaml", *words[1:]] if words[:1] == ["M"] else words
    if not getattr(command, "commands", {}):
        command.make_context(name, list(words))
    for manifest in (word for word in words if word.startswith("experiments/")):
        assert read_experiment(repository / manifest, [], installed_plugins()).variants, where


@pytest.mark.slow
def test_the_tutorial_goes_from_nothing_to_a_compared_sampler(tmp_path: Path) -> None:
    """Its commands one after the other; training is shortened, pip is replaced by a path."""
    installed = tmp_path / "installed" / "my_sampler-0.1.0.dist-info"
    path = os.pathsep.join([str(tmp_path / "my-sampler" / "src"), str(installed.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ran = []
    for snippet in TUTORIAL:
        if snippet.title is not None:
            assert (tmp_path / snippet.title).is_file(), f"new-plugin writes no {snippet.title}"
            (tmp_path / snippet.title).write_text(snippet.text)
        elif snippet.reason is None:
            for words in snippet.commands():
                program = ["-m", "opendllm.core", *words[1:]] if words[0] == "platform" else words[1:]
                more = QUICK if words[1] == "run" else ()
                done = subprocess.run(
                    [sys.executable, *program, *more],
                    cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
                )  # fmt: skip
                assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
                ran.append(words[1])
        else:
            installed.mkdir(parents=True)
            (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-sampler\nVersion: 0.1.0\n")
            (installed / "entry_points.txt").write_text("[opendllm]\nmy-sampler = my_sampler\n")
    assert ran == ["new-plugin", "plugins", "-m", "validate", "run"]
    assert "my-sampler" in (tmp_path / "runs" / "my-sampler" / "report.md").read_text()

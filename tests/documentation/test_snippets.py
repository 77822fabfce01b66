"""What the documentation shows works: manifests are valid as they stand, code and commands run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from ruamel.yaml import YAML

from opendllm.core.cli.main import app
from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.registries.discovery import installed_plugins

from .commands import QUICK, run_command
from .snippets import Snippet, indented_blocks, pages, snippets

REPOSITORY = Path(__file__).parents[2]
ALL = list(snippets(REPOSITORY))
LANGUAGES = {"python", "yaml", "sh", "toml", "json", "text"}
MANIFESTS = [each for each in ALL if each.language == "yaml"]
TUTORIAL = [each for each in ALL if each.page == "docs/tutorial.md"]
SHELL = [each for each in ALL if each.language == "sh" and each not in TUTORIAL]
PROGRAMS: dict[str, list[Snippet]] = defaultdict(list)
for each in ALL:
    if each.language == "python" and each.title is None and each.reason is None:
        PROGRAMS[each.page].append(each)


def test_every_block_says_what_it_is() -> None:
    """One that doesn't, or that is only indented, would be looked at by no test."""
    assert not [each.where for each in ALL if each.language not in LANGUAGES]
    found = {page.name: lines for page in pages(REPOSITORY) if (lines := indented_blocks(page))}
    assert not found, f"fence them, with a language: {found}"


def test_no_command_hides_in_a_block_of_text() -> None:
    for each in ALL:
        programs = {line.split()[0] for line in each.text.splitlines() if line.strip()}
        assert each.language != "text" or not programs & {"platform", "python", "pip", "make"}, each.where


@pytest.mark.parametrize("snippet", MANIFESTS, ids=lambda each: each.where)
def test_manifests_are_valid_as_they_stand(snippet: Snippet, tmp_path: Path) -> None:
    """A part of one goes into a manifest that says the rest, and nothing in it is changed."""
    quickstart = (REPOSITORY / "experiments" / "quickstart.yaml").read_text()
    (tmp_path / "experiments").symlink_to(REPOSITORY / "experiments")
    (tmp_path / "base.yaml").write_text(quickstart.split("variants:")[0])
    for name in ("chats.jsonl", "texts.jsonl", "santacoder-fim.jsonl"):  # files that they name
        (tmp_path / name).write_text("{}\n")
    is_whole = "name" in YAML(typ="safe").load(snippet.text)
    head = "" if is_whole else "name: shown\nextends: base.yaml\n"
    (tmp_path / "shown.yaml").write_text(head + snippet.text)
    assert read_experiment(tmp_path / "shown.yaml", [], installed_plugins()).variants


@pytest.mark.slow
@pytest.mark.parametrize("page", PROGRAMS)
def test_programs_run(
    page: str, working_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(working_folder(page))
    names: dict[str, Any] = {"__name__": "documentation"}
    for snippet in PROGRAMS[page]:
        exec(compile("\n" * (snippet.line - 1) + snippet.text, str(REPOSITORY / page), "exec"), names)


def shell_blocks() -> list[Any]:
    """Each by its place; one that isn't run stands among the skipped tests with its reason."""
    return [
        pytest.param(
            each,
            id=each.where,
            marks=[pytest.mark.skip(reason=f"{each.where} is not run: {each.reason}")] if each.reason else [],
        )
        for each in SHELL
    ]


@pytest.mark.slow
@pytest.mark.parametrize("snippet", shell_blocks())
def test_commands_run(
    snippet: Snippet, working_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that has the quickstart's run, with the files that its page shows above it."""
    monkeypatch.chdir(working_folder(snippet.page))
    for each in ALL:
        if each.page == snippet.page and each.line < snippet.line and each.title is not None:
            Path(each.title).parent.mkdir(parents=True, exist_ok=True)
            Path(each.title).write_text(each.text)
    for words in snippet.commands():
        run_command(words)


@pytest.mark.parametrize(
    "snippet", [each for each in ALL if each.language == "sh"], ids=lambda each: each.where
)
def test_commands_take_what_they_are_shown_with(snippet: Snippet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those too that are not run."""
    monkeypatch.chdir(REPOSITORY)
    for words in snippet.commands():
        if words[0] != "platform":
            continue
        command: Any = typer.main.get_command(app)
        rest, name = words[1 : words.index(">")] if ">" in words else words[1:], "platform"
        while rest and rest[0] in getattr(command, "commands", {}):
            name, command = f"{name} {rest[0]}", command.commands[rest[0]]
            rest = rest[1:]
        written = {each.title for each in ALL if each.page == snippet.page} | {"my-sampler/compare.yaml"}
        there = ["experiments/quickstart.yaml" if word in written else word for word in rest]
        if not getattr(command, "commands", {}):
            command.make_context(name, there)
        for manifest in (word for word in there if word.startswith("experiments/")):
            assert read_experiment(REPOSITORY / manifest, [], installed_plugins()).variants


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
        elif "pip" in snippet.text:
            installed.mkdir(parents=True)
            (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-sampler\nVersion: 0.1.0\n")
            (installed / "entry_points.txt").write_text("[opendllm]\nmy-sampler = my_sampler\n")
    assert ran == ["new-plugin", "plugins", "-m", "validate", "run"]
    run = tmp_path / "runs" / "my-sampler"
    assert "my-sampler" in (run / "report.md").read_text()
    written = [
        [json.loads(line)["tokens"] for line in answers.read_text().splitlines()]
        for answers in sorted(run.glob("*/samples/stdlib-infilling.jsonl"))
    ]
    assert written[0] != written[1], "a comparison of samplers that write the same says nothing"

"""`platform new-plugin`: what it writes installs, passes its own tests and works, whatever the kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from opendllm.core.scaffold.new_plugin import kinds, write_plugin
from opendllm.registries.discovery import Plugins, installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.extension_points import EXTENSION_POINTS
from opendllm.registries.version import requirement

from .conftest import Fresh, new_name


@pytest.mark.slow
def test_the_tests_of_all_packages_pass_in_the_fresh_environment(fresh: Fresh) -> None:
    done = fresh.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=fresh.packages)
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.slow
def test_each_is_listed_from_its_own_package(fresh: Fresh) -> None:
    done = fresh.run("platform", "plugins", "--json", "--check", cwd=fresh.packages)
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert listed["problems"] == []
    found = {
        (entry["package"], kind)
        for kind in EXTENSION_POINTS
        for entry in listed[kind]
        if entry["package"] != "open-dllm"
    }
    own = {(new_name(kind), kind) for kind in kinds()}
    assert found == own | {("opendllm-examples", kind) for kind in EXTENSION_POINTS}


RUN_ALL = """
import sys
from pathlib import Path
from opendllm.core.experiment import run_experiment
from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.registries.discovery import installed_plugins

TEXTS, *FOLDERS = map(Path, sys.argv[1:])
SETTINGS = [
    "train.steps=2", "train.global_batch_size=2", "generate.steps=2",
    "data.tokenizer={train: {vocab_size: 300}}",
]
OF_DOCUMENTS = ["train.held_out={rows: 2, draws: 1}", "evaluate.0.likelihood_draws=1"]
OF_REWARDS = ["train.rl.group_size=2", "train.rl.rollout.steps=1"]
CORPUS = f"data.corpus={{name: text-files, options: {{train: {TEXTS}/train*, held_out: {TEXTS}/held*}}}}"
for folder in FOLDERS:
    settings = [*SETTINGS, *(OF_REWARDS if folder.name == "my-reward" else OF_DOCUMENTS)]
    settings.append(f"output={folder}/run")
    if folder.name != "my-corpus":  # which brings a small one
        settings.append(CORPUS)
    found = read_experiment(folder / "compare.yaml", settings, installed_plugins())
    run_experiment(found, only_variants=[found.variants[-1].name], limit=2)
"""


@pytest.mark.slow
def test_each_manifest_runs_and_shows_the_new_plugin(fresh: Fresh, tmp_path: Path) -> None:
    """All in one process, for two steps on small texts; the sampler's is run by the tutorial's test."""
    for name in ("train_1", "train_2", "held_1"):
        (tmp_path / name).write_text("\n".join(f"{name} has a line {n} of words" for n in range(60)))
    folders = [fresh.packages / new_name(kind) for kind in kinds() if kind != "samplers"]
    done = fresh.run("python", "-c", RUN_ALL, tmp_path, *folders, cwd=fresh.packages)
    assert done.returncode == 0, done.stderr[-3000:]
    for folder in folders:
        assert folder.name in (folder / "run" / "report.md").read_text()


def test_a_new_rewards_comparison_scores_nothing_that_rewards_have_no_part_in(tmp_path: Path) -> None:
    folder = write_plugin("my-reward", "reward", tmp_path, installed_plugins())
    assert "evaluate:" not in (folder / "compare.yaml").read_text()


def test_there_is_a_template_for_every_extension_point() -> None:
    assert kinds() == sorted(EXTENSION_POINTS)


@pytest.mark.parametrize("spelt", ["noise_schedules", "noise-schedule", "noise-schedules", "NoiseSchedule"])
def test_a_kind_is_taken_however_it_is_spelt(tmp_path: Path, spelt: str) -> None:
    folder = write_plugin("my-noise-schedule", spelt, tmp_path, Plugins())
    assert (folder / "src/my_noise_schedule/schedule.py").is_file()
    assert (
        f'OPENDLLM_INTERFACE = "{requirement()}"'
        in (folder / "src/my_noise_schedule/__init__.py").read_text()
    )


@pytest.mark.parametrize("name", ["x", "a-plugin-with-a-name-of-forty-characters"])
def test_what_is_written_is_linted_and_formatted(tmp_path: Path, name: str) -> None:
    for kind in kinds():
        write_plugin(name, kind, tmp_path, Plugins()).rename(tmp_path / kind)
    for check in (["check", "--no-cache"], ["format", "--no-cache", "--check"]):
        command = [str(Path(sys.executable).parent / "ruff"), *check, "."]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_it_is_a_folder_and_a_plugin_of_that_name(tmp_path: Path) -> None:
    folder = write_plugin("my-sampler", "sampler", tmp_path, installed_plugins())
    assert folder == tmp_path / "my-sampler"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        ".github/workflows/tests.yml",
        ".gitignore",
        "README.md",
        "compare.yaml",
        "pyproject.toml",
        "src/my_sampler/__init__.py",
        "src/my_sampler/py.typed",
        "src/my_sampler/sampler.py",
        "tests/test_my_sampler.py",
    }
    assert 'my-sampler = "my_sampler"' in (folder / "pyproject.toml").read_text()
    assert "class MySampler(Sampler):" in (folder / "src/my_sampler/sampler.py").read_text()


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("my-sampler", "samler", "did you mean 'samplers'"),
        ("common", "common", "no such kind"),
        ("My-Sampler", "sampler", "is no name for a plugin"),
        ("../sampler", "sampler", "is no name for a plugin"),
        ("my--sampler", "sampler", "is no name for a plugin"),
        ("2fast", "sampler", "is no name for a plugin"),
        ("", "sampler", "is no name for a plugin"),
        ("a" * 41, "sampler", "too long"),
        ("sampler", "sampler", "means something already"),
        ("lambda", "sampler", "means something already"),
        ("null", "sampler", "means something already"),
        ("p2", "sampler", "samplers/p2 is built in already"),
        ("python-stdlib", "corpus", "corpora/python-stdlib is built in already"),
        ("json", "sampler", "installed already"),
        ("torch", "sampler", "installed already"),
        ("open-dllm", "sampler", "installed already"),
        ("there", "sampler", "is there already"),
        ("a-file", "sampler", "is there already"),
    ],
)
def test_what_would_do_harm_is_refused(tmp_path: Path, name: str, kind: str, message: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "a-file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as refused:
        write_plugin(name, kind, tmp_path, installed_plugins())
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "a-file").read_text() == "mine"


def test_a_name_of_another_kind_is_free(tmp_path: Path) -> None:
    assert write_plugin("p2", "benchmark", tmp_path, installed_plugins()).is_dir()


def test_the_command_says_what_to_do_next_and_ends_with_2_on_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from opendllm.core.cli.main import main

    monkeypatch.chdir(tmp_path)
    codes = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["platform", "new-plugin", "my-sampler", "--kind", "sampler"])
        with pytest.raises(SystemExit) as left:
            main()
        codes.append(left.value.code)
    assert codes == [0, 2]
    printed = capsys.readouterr()
    assert "pip install -e './my-sampler[dev]'" in printed.out
    assert printed.err.splitlines() == [
        "error: my-sampler is there already: choose another name, or move it away"
    ]

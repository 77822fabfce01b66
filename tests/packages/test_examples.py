"""The examples: the package's seven plugins in runs of the installed wheel, and every script."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from opendllm.core import load
from opendllm.core.experiment import run_experiment
from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.registries.discovery import installed_plugins

from .conftest import Fresh

pytestmark = pytest.mark.slow
TINY = """\
name: tiny
model: {backbone: {name: llada}}
data:
  corpus: {name: text-files, options: {train: "train*.txt", held_out: "held*.txt"}}
  tokenizer: {train: {vocab_size: 300}}
  sequence_length: 32
train: {objective: {name: mdlm}, steps: 2, global_batch_size: 2, held_out: {rows: 2, draws: 1}}
variants: {one: {}, two: {seed: 1}}
"""


@pytest.fixture(scope="module")
def run_of_all(fresh: Fresh) -> Path:
    folder = fresh.packages / "examples"
    made = fresh.run("python", "make_notes.py", "notes.db", cwd=folder)
    assert made.returncode == 0, made.stderr
    done = fresh.run(
        "platform", "run", "compare.yaml", "--limit", "4", "--set", "train.steps=6",
        "--set", "evaluate.0.likelihood_draws=1", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "examples"


def test_one_manifest_runs_all_six_beside_p2(run_of_all: Path) -> None:
    report = (run_of_all / "report.md").read_text()
    for variant in ("p2", "settled", "sigmoid", "focal", "olmo2"):
        assert f"| {variant} " in report
    for plugin in ("backbones/olmo2", "benchmarks/cloze", "corpora/sqlite"):
        assert f"{plugin} | opendllm-examples 0.1.0" in " ".join(report.split())
    for plugin in ("noise_schedules/sigmoid", "objectives/focal", "samplers/settled"):
        assert f"{plugin} | opendllm-examples 0.1.0" in " ".join(report.split())
    assert (run_of_all / "report.html").is_file()


def test_another_manifest_learns_from_the_seventh(run_of_all: Path, fresh: Fresh) -> None:
    """The judging process of the installed wheel finds the package's reward."""
    folder = fresh.packages / "examples"
    done = fresh.run(
        "platform", "run", "rewarded.yaml", "--only", "train,report", "--variant", "repetition",
        "--set", "train.steps=2", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (folder / "runs" / "rewarded" / "repetition" / "train.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert -1 <= last["reward_repetition"] <= 0
    assert last["reward"] == pytest.approx(last["reward_length"] + 0.5 * last["reward_repetition"])


def test_the_wheel_ran_it_and_not_the_checkout(fresh: Fresh, repository: Path) -> None:
    code = "import opendllm.core, opendllm_examples as e; print(opendllm.core.__file__, e.__file__)"
    done = fresh.run("python", "-c", code, cwd=fresh.packages)
    assert str(repository) not in done.stdout
    assert done.stdout.count(str(fresh.scripts.parent)) == 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("train_1", "train_2", "held_1"):
        words = " ".join(f"{name} has a line {number} of words" for number in range(40))
        (folder / f"{name}.txt").write_text(words)
    (folder / "tiny.yaml").write_text(TINY)
    return run_experiment(
        read_experiment(folder / "tiny.yaml", [f"output={folder}/run"], installed_plugins())
    )


@pytest.fixture
def script(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], ModuleType]]:
    """A script, imported, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    imported = []

    def import_script(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, repository / "examples" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        imported.append(name)
        spec.loader.exec_module(module)
        return module

    yield import_script
    for name in imported:
        del sys.modules[name]


def test_a_sampler_is_tried_beside_p2(
    script: Callable[[str], ModuleType], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samplers = installed_plugins().samplers
    monkeypatch.setattr(samplers, "_by_name", dict(samplers._by_name))
    texts = script("add_a_sampler").main(str(trained / "one"))
    assert list(texts) == ["p2", "outside-in"]
    assert all(len(found) == 2 for found in texts.values())


def test_checkpoints_are_compared(script: Callable[[str], ModuleType], trained: Path) -> None:
    run = script("compare_checkpoints").main(str(trained / "one"), str(trained / "two"), limit=2)
    report = (run / "report.md").read_text()
    assert "| one " in report
    assert "| two " in report


@pytest.mark.parametrize(
    ("given", "said"), [([], "usage: python "), (["gone"], "error: gone does not exist: ")]
)
def test_a_script_that_is_given_no_checkpoint_says_so_in_a_line(
    repository: Path, given: list[str], said: str
) -> None:
    script = repository / "examples" / "compare_checkpoints.py"
    result = subprocess.run([sys.executable, script, *given], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert result.stderr.startswith(said)
    assert result.stderr.count("\n") == 1


def test_chats_are_learnt(script: Callable[[str], ModuleType], trained: Path, tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Good day."}]
    chats.write_text(
        "".join(
            json.dumps({"messages": [{**turns[0], "content": f"Hello {number}?"}, turns[1]]}) + "\n"
            for number in range(60)
        )
    )
    run = script("finetune_on_chats").main(str(trained / "one"), str(chats), steps=2)
    [answer] = load(run / "finetuned", device="cpu").generate(
        ["Hello?"], chat=True, max_new_tokens=4, steps=2
    )
    assert isinstance(answer, str)


def test_samples_from_elsewhere_are_scored(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    metrics = script("score_samples").main(tmp_path)
    assert metrics["pass@1"].value == 0.5  # one of two programs is right for either problem


def test_the_readme_names_every_script(repository: Path) -> None:
    readme = (repository / "examples" / "README.md").read_text()
    for path in (repository / "examples").glob("*.py"):
        assert f"`{path.name}" in readme

"""`platform serve`, asked as any other server: its answers are those of the checkpoint itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from opendllm.core.experiment import run_experiment
from opendllm.core.manifest.experiment_manifest import experiment_of
from opendllm.registries.discovery import installed_plugins

from ..tiny_checkpoint import save_tiny_checkpoint
from .conftest import HUMANEVAL, INFILLING, PROBLEMS, Evaluated

pytestmark = pytest.mark.slow
TURNS = """
task: turns
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{documents}"}}}}
test_split: test
description: "Be brief."
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: ""
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def url(checkpoint: Path) -> Iterator[str]:
    """Where the checkpoint is served."""
    command = [sys.executable, "-m", "opendllm.core", "serve", str(checkpoint), "--port", "0"]
    with subprocess.Popen(
        [*command, "--device", "cpu", "--progress", "none"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", said)):
            line = process.stdout.readline()
            assert line, said
            said += line
        yield found[0]
        process.terminate()


@pytest.mark.parametrize("chat", [False, True])
def test_the_texts_are_those_that_the_checkpoint_writes_here(
    url: str, checkpoint: Path, tmp_path: Path, chat: bool
) -> None:
    """Completions, infilling and chat, at temperature 0: seeds are cut to 31 bits on the way."""
    decoding = {"max_new_tokens": 8, "chat": chat}
    written = HUMANEVAL
    if chat:  # of a local model an instruction's answer is begun, which a server can't be asked for
        (tmp_path / "docs.jsonl").write_text("\n".join(f'{{"question": "{n} + 1?"}}' for n in range(4)))
        (tmp_path / "turns.yaml").write_text(TURNS.format(documents=tmp_path / "docs.jsonl"))
        written = {"benchmark": {"name": "lm-eval", "options": {"task": "turns", "folder": str(tmp_path)}}}
    local = {"backbone": {"name": "llada", "options": {"pretrained": str(checkpoint)}}}
    [name] = json.loads(ask_models(url))
    served = {"endpoint": url, "model": name, "extra_body": {"steps": 4}, "concurrency": 4}
    variants = {
        "here": (local, {**decoding, "steps": 4}, [4, 8]),
        "there": (served, decoding, ["oracle", 4, 8]),
    }
    found = {}
    for variant, (model, generate, lengths) in variants.items():
        options = {**INFILLING["benchmark"]["options"], "lengths": lengths}
        entries = [written, {"benchmark": {**INFILLING["benchmark"], "options": options}}]
        manifest = {
            "name": "both",
            "output": str(tmp_path / variant),
            "device": "cpu",
            "model": model,
            "generate": generate,
            "evaluate": entries,
        }
        experiment = experiment_of(manifest, "a test", variant, installed_plugins())
        run_experiment(experiment, ["evaluate"])
        found[variant] = Evaluated(tmp_path / variant / variant)
    for label in ("lm-eval" if chat else "humaneval", "humaneval-infilling"):
        here, there = (sorted(found[variant].texts(label), key=str) for variant in ("here", "there"))
        assert [answer[:4] for answer in here] == [answer[:4] for answer in there]
        assert len({answer[3] for answer in here}) > 2


def test_a_prompt_longer_than_the_context_fails_alone(url: str, tmp_path: Path) -> None:
    """The others are answered; gone on with, nothing is asked again."""
    [name] = json.loads(ask_models(url))
    problems = [json.loads(line) for line in (PROBLEMS / "humaneval.jsonl").read_text().splitlines()]
    problems[1]["prompt"] = "# " + "long " * 2000 + "\n" + problems[1]["prompt"]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(each) + "\n" for each in problems))
    manifest = {
        "name": "long",
        "output": str(tmp_path),
        "model": {"endpoint": url, "model": name, "concurrency": 1},
        "generate": {"max_new_tokens": 8},
        "evaluate": [
            {"benchmark": {"name": "humaneval", "options": {"problems": str(tmp_path / "long.jsonl")}}}
        ],
    }
    for _ in range(2):
        experiment = experiment_of(manifest, "a test", "long", installed_plugins())
        run_experiment(experiment, ["evaluate"])
        answers = Evaluated(tmp_path / "long").texts()
        assert [task for task, *_, failure in answers if failure] == [problems[1]["task_id"]]
        assert len(answers) == len(problems)


def ask_models(url: str) -> str:
    """The names that it serves, as JSON."""
    from urllib.request import urlopen

    with urlopen(f"{url}/v1/models") as response:
        return json.dumps([model["id"] for model in json.load(response)["data"]])

"""lm-eval's own command with our model: the numbers are those of the benchmark `lm-eval`."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lm_eval.tasks.manager
import pytest
import torch
from lm_eval.api.registry import get_model
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

import opendllm.core.harness
from opendllm.core.experiment import run_experiment
from opendllm.core.harness.__main__ import main
from opendllm.core.manifest.experiment_manifest import experiment_of
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

DECODING = {"steps": 3, "max_new_tokens": 6, "temperature": 0.7}
DRAWS = 4


def by_benchmark(checkpoint: Path, folder: Path, task: str, chat: bool = False) -> tuple[Any, Any]:
    """Metrics and answers of our own benchmark."""
    manifest = {
        "name": "ours",
        "output": str(folder / "ours"),
        "device": "cpu",
        "seed": 3,
        "model": {"backbone": {"name": "llada", "options": {"pretrained": str(checkpoint)}}},
        "generate": {**DECODING, "chat": chat},
        "evaluate": [
            {
                "benchmark": {"name": "lm-eval", "options": {"task": task, "folder": str(folder / "tasks")}},
                "likelihood_draws": DRAWS,
            }
        ],
    }
    run_experiment(experiment_of(manifest, "a test", "ours", installed_plugins()), ["evaluate"])
    result = json.loads((folder / "ours" / "ours" / "results" / "lm-eval.json").read_text())
    samples = (folder / "ours" / "ours" / "samples" / "lm-eval.jsonl").read_text().splitlines()
    metrics = {name: metric["value"] for name, metric in result["metrics"].items()}
    return metrics, [json.loads(line) for line in samples]


def arguments(path: Path, **others: Any) -> dict[str, Any]:
    """As `--model_args` has them."""
    return {"checkpoint": str(path), "seed": 3, "likelihood_draws": DRAWS, **DECODING, **others}


def by_harness(model_args: Mapping[str, Any], task: str, **others: Any) -> Mapping[str, Any]:
    """What lm-eval says of the model that it finds under its name: `simple_evaluate` without its looks
    at the machine.
    """
    given = {"batch_size": others.pop("batch_size", 1), "max_batch_size": None, "device": "cpu"}
    model = get_model(opendllm.core.harness.MODEL).create_from_arg_obj(dict(model_args), given)
    loaded = TaskManager(include_path="tasks", include_defaults=False).load([task])
    loaded["tasks"][task].set_fewshot_seed(seed=1234)
    found = evaluate(model, loaded, bootstrap_iters=0, **others)
    assert found is not None
    return {**found, "model": model.get_model_info()}


def metrics_of(found: Mapping[str, Any], task: str) -> dict[str, float]:
    return {
        key.removesuffix(",none"): value
        for key, value in found["results"][task].items()
        if "," in key and "_stderr" not in key
    }


def answers_of(found: Mapping[str, Any], task: str) -> list[Any]:
    """Texts, or likelihoods, document by document."""
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    given = [answer for sample in samples for answers in sample["resps"] for answer in answers]
    return [answer[0] if isinstance(answer, list | tuple) else answer for answer in given]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("task", ["choice", "last_word", "whole", "written"])
def test_its_results_are_those_of_the_benchmark(
    checkpoint: Path, tasks: Path, tmp_path: Path, task: str, chat: bool
) -> None:
    """Metrics, every text and every likelihood; in the chat template or not."""
    if chat and task == "whole":
        pytest.skip("chat has no effect on the likelihood of a whole text")
    metrics, samples = by_benchmark(checkpoint, tmp_path, task, chat)
    found = by_harness(
        arguments(checkpoint), task, apply_chat_template=chat, fewshot_as_multiturn=chat, batch_size=2
    )
    ours = {name: value for name, value in metrics.items() if name not in ("empty", "truncated")}
    assert metrics_of(found, task) == pytest.approx(ours, rel=1e-12)
    given = [sample.get("text", sample.get("log_likelihood")) for sample in samples]
    if task == "written":  # of repeats lm-eval keeps only what the filter leaves
        assert answers_of(found, task) == given
        assert len(set(given)) > 5
    else:
        assert answers_of(found, task) == pytest.approx(given, rel=1e-12)


def test_what_the_user_says_holds_and_else_what_the_task_says(
    checkpoint: Path, tasks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = by_harness(arguments(checkpoint), "sampled")
    plain = {"checkpoint": str(checkpoint), "seed": 3, "steps": 3, "max_new_tokens": 6}
    with caplog.at_level(logging.WARNING):
        task = by_harness(plain, "sampled")
    assert "left out of generation_kwargs, since no decoder here knows it: ['num_beams']" in caplog.text
    same = by_harness({**plain, "temperature": 0.9, "top_p": 0.95}, "sampled")
    greedy = by_harness({**plain, "temperature": 0}, "sampled")
    assert answers_of(task, "sampled") == answers_of(same, "sampled")
    assert answers_of(task, "sampled") != answers_of(said, "sampled")
    assert answers_of(task, "sampled") != answers_of(greedy, "sampled")
    longer = by_harness({"checkpoint": str(checkpoint), "steps": 2}, "written")
    assert longer["model"]["opendllm"]["decoder"]["max_new_tokens"] == 64
    assert all(len(text) <= 7 * 8 for text in answers_of(longer, "written"))


def test_another_seed_and_another_batch(checkpoint: Path, tasks: Path) -> None:
    first, batched, other = (
        answers_of(by_harness(arguments(checkpoint, **change), "written", batch_size=size), "written")
        for change, size in (({}, 1), ({}, "auto"), ({"seed": 4}, 1))
    )
    assert first == batched
    assert first != other


def test_a_prompt_that_is_too_long_has_an_empty_answer_and_is_named(
    checkpoint: Path, tasks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [json.loads(line) for line in Path("docs.jsonl").read_text().splitlines()]
    rows[1]["question"] = "Q: " + "1 + " * 20_000
    Path("docs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with caplog.at_level(logging.WARNING):
        found = by_harness(arguments(checkpoint), "sampled")
    assert answers_of(found, "sampled")[1] == ""
    assert answers_of(found, "sampled")[2] != ""
    assert "1 of 5 prompts can't be asked, and have empty answers: sampled/1: prompt" in caplog.text


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"stepz": 3}, r"option stepz: neither the model, the decoder nor sampler .* did you mean 'steps'"),
        ({"sampler": "p3"}, "no plugin samplers/p3: did you mean 'p2'"),
        ({"steps": 0}, r"option steps: .*greater than or equal to 1 \(given: 0\)"),
        ({"seed": -1}, "option seed: "),
        ({"pretrained": "x"}, "option pretrained: is called checkpoint here"),
        ({"checkpoint": None}, "option checkpoint: is missing"),
        ({"checkpoint": "nowhere/at/all"}, "nowhere/at/all"),
        ({"top_p": 0.5, "temperature": 0}, "top_p and top_k have no effect"),
        ({"dtype": "float16"}, "option dtype: "),
    ],
)
def test_an_option_that_makes_no_sense_is_named(
    checkpoint: Path, tasks: Path, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named) as caught:
        by_harness(arguments(checkpoint, **change), "written")
    assert "\n" not in str(caught.value)


def test_several_processes_would_all_do_the_same(
    checkpoint: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="one process takes all GPUs of the machine"):
        by_harness(arguments(checkpoint), "written")


def test_a_task_that_wants_nothing_written_is_named(checkpoint: Path, tasks: Path) -> None:
    task = tasks / "written.yaml"
    task.write_text(task.read_text().replace("max_gen_toks: 7", "max_gen_toks: 0"))
    with pytest.raises(UserError, match="a task's max_gen_toks is 0"):
        by_harness({"checkpoint": str(checkpoint), "steps": 2}, "written")


def test_a_named_template_is_refused(checkpoint: Path, tasks: Path) -> None:
    from opendllm.core.harness.lm_eval_model import OpenDllm

    model = OpenDllm(**arguments(checkpoint), device="cpu")
    with pytest.raises(UserError, match="a checkpoint has one template"):
        model.chat_template("rag")
    assert model.chat_template(True).startswith("{% for m in messages %}")
    assert model.chat_template(False) == ""


WITHOUT_ITS_OWN_TASKS = """
import lm_eval.tasks.manager, runpy
lm_eval.tasks.manager.__file__ = "tasks/manager.py"  # reading its thousands of own tasks takes twelve seconds
runpy.run_module("opendllm.core.harness", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_lm_evals_command_knows_the_model(checkpoint: Path, tasks: Path, tmp_path: Path) -> None:
    """In a process of its own, with its own arguments."""
    said = ",".join(f"{name}={value}" for name, value in arguments(checkpoint).items())
    command = [sys.executable, "-c", WITHOUT_ITS_OWN_TASKS, "--model", "opendllm", "--tasks", "written"]
    command += ["--device", "cpu", "--batch_size", "8", "--output_path", str(tmp_path / "out.json")]
    done = subprocess.run([*command, "--model_args", said], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "|written|" in done.stdout
    [written] = tmp_path.glob("out*.json")
    results = json.loads(written.read_text())
    ours, _ = by_benchmark(checkpoint, tmp_path, "written")
    assert results["results"]["written"]["exact_match,first"] == ours["exact_match,first"]
    assert results["config"]["opendllm"]["sampler"] == "low-confidence"


def test_what_is_wrong_with_its_arguments_is_one_line(
    checkpoint: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lm_eval.tasks.manager, "__file__", "tasks/manager.py")
    said = ["--model", "opendllm", "--tasks", "written", "--model_args", f"checkpoint={checkpoint},stepz=3"]
    monkeypatch.setattr(sys, "argv", ["lm_eval", *said])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: option stepz: neither the model, the decoder nor sampler")


def test_the_device_of_the_command_is_the_cpu_where_there_is_no_gpu(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """lm-eval asks for `cuda:0` where nobody has said anything."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.WARNING):
        model = get_model("opendllm").create_from_arg_obj(
            {"checkpoint": str(checkpoint)}, {"device": "cuda:0"}
        )
    weight = next(model._model.asked.replicas[0].lm.module.parameters())
    assert weight.device.type == "cpu"
    assert "the CPU is taken in place of cuda:0" in caplog.text

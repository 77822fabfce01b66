"""Whatever is wrong with what was given: one line, exit code 2, no traceback."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.cli import experiment_commands

WITHOUT_PROBLEMS = [
    "--set",
    "evaluate=[{benchmark: {name: humaneval, options: {problems: nope.jsonl}}}]",
    "--set",
    "allow_code_execution=true",
]
NO_PROBLEMS = "nope.jsonl does not exist"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evalute"], "No such command 'evalute'"),
        (["plugins", "shwo"], "No such command 'shwo'"),
        (["run"], "Missing argument 'manifest'"),
        (["run", "tiny.yaml", "--lmit", "3"], "No such option: --lmit"),
        (["run", "tiny.yaml", "--limit", "0"], "--limit"),
        (["run", "gone.yaml"], "gone.yaml: No such file or directory"),
        (["run", "."], ".: Is a directory"),
        (["run", "bad.yaml"], "bad.yaml:2:1: not valid YAML"),
        (["run", "tiny.yaml", "--only", "trian"], "--only trian: no stage 'trian'; did you mean 'train'?"),
        (["run", "tiny.yaml", "--only", ""], "no stage ''; known: evaluate, report, train"),
        (
            ["run", "tiny.yaml", "--variant", "othr"],
            "the manifest has no variant 'othr': did you mean 'other'",
        ),
        (["run", "tiny.yaml", "--set", "train.stpes=3"], "unknown key; did you mean 'steps'?"),
        (["run", "tiny.yaml", "--set", "model.backbone.name=lada"], "no plugin backbones/lada: did you mean"),
        (
            ["run", "tiny.yaml", "--set", "train.deepspeed.zero_optimization.stage=7"],
            "0, 1, 2 or 3 (given: 7)",
        ),
        (["run", "tiny.yaml", "--set", "output=tiny.yaml"], "run folder tiny.yaml cannot be written"),
        (["run", "tiny.yaml", "--only", "evaluate"], "runs/tiny/trained holds no checkpoint yet"),
        (["run", "tiny.yaml", "--only", "report"], "no results to report"),
        (["generate", "--checkpoint", "gone", "--prompt", "a"], "gone does not exist"),
        (
            ["generate", "--checkpoint", ".", "--prompt", "a", "-o", "steps"],
            "-o 'steps': write it as key=value",
        ),
        (["generate", "--checkpoint", ".", "--prompt", "a", "-o", "steps=["], "'[' is not a YAML value"),
        (["generate", "--checkpoint", ".", "--prompt", "a"], ". holds no config.json, so no model"),
        (["report", "gone"], "gone"),
        (
            ["generate", "--checkpoint", ".", "--max-new-tokens", "3"],
            "No such option: --max-new-tokens: write -o max_new_tokens=VALUE (",
        ),
        (["generate", "--checkpoint", ".", "--threshold=0.9"], "--threshold: write -o threshold=VALUE"),
        (["generate", "--checkpoint", ".", "--documents", "3"], "No such option: --documents ("),
        (["evaluate", ".", "--batch-size", "4"], "--batch-size: write -o batch_size=VALUE"),
        (["evaluate", ".", "--problems", "p"], "--problems: write -o problems=VALUE"),
        (["score", "--batch-size", "4"], "No such option: --batch-size ("),
        (["run", "tiny.yaml", "--variant", "other", *WITHOUT_PROBLEMS], NO_PROBLEMS),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_is_refused(refused: Any, untouched: Path, arguments: list[str], expected: str) -> None:
    (untouched / "bad.yaml").write_text("a: [\n")
    assert expected in refused(*arguments)


def test_no_command_at_all_shows_the_help(accepted: Any) -> None:
    assert "Usage: platform" in accepted()


def test_every_mistake_of_several_manifests_has_its_line(untouched: Path, platform: Any) -> None:
    (untouched / "bad.yaml").write_text("a: [\n")
    result = platform("validate", "tiny.yaml", "bad.yaml", "gone.yaml", cwd=untouched)
    assert result.returncode == 2
    assert result.stdout == "tiny.yaml: valid; variants: trained, other\n"
    assert [line.split(":")[1].strip() for line in result.stderr.splitlines()] == ["bad.yaml", "gone.yaml"]


def test_debug_shows_where_an_error_comes_from(untouched: Path, platform: Any) -> None:
    plain = platform("validate", "gone.yaml", cwd=untouched)
    assert plain.stderr == "error: gone.yaml: No such file or directory\n"
    for arguments in (["--debug", "validate", "gone.yaml"], ["validate", "gone.yaml", "--debug"]):
        debugged = platform(*arguments, cwd=untouched)
        assert debugged.returncode == 2
        assert "Traceback (most recent call last)" in debugged.stderr
        assert debugged.stderr.endswith(plain.stderr)


@pytest.mark.parametrize(
    ("raised", "code", "expected"),
    [
        (ZeroDivisionError("by zero"), 1, "internal error: ZeroDivisionError: by zero (--debug shows where)"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_an_error_that_is_not_the_users_has_an_exit_code_of_its_own(
    here: Any, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, expected: str
) -> None:
    def broken(_: Any) -> None:
        raise raised

    monkeypatch.setattr(experiment_commands, "manifest_schema", broken)
    left, output, errors = here("schema")
    assert (left, output, errors.strip()) == (code, "", expected)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("data.tokenizer={path: nowhere}", "data.tokenizer.path: "),
        ("model.backbone.options={pretrained: nowhere}", "model.backbone.options.pretrained: "),
    ],
)
def test_a_run_names_the_key_of_a_folder_that_is_not_there(
    refused: Any, untouched: Path, setting: str, expected: str
) -> None:
    said = refused("run", "tiny.yaml", "--progress", "none", "--set", setting)
    assert f"{expected}nowhere does not exist: give a run's variant (whose manifest is run first)" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{}"), "as a manifest's model.backbone.name"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: cut(folder / "model.safetensors", -100), "is damaged or cut short"),
        (lambda folder: cut(folder / "model.safetensors", -(10**6)), "is damaged or cut short"),
        (lambda folder: cut(folder / "model.safetensors", None), "is damaged or cut short"),
        (lambda folder: lose_a_tensor(folder / "model.safetensors"), "lacks the weights model.norm.weight"),
        (
            lambda folder: (folder / "tokenizer.json").unlink(),
            "has no tokenizer, which prompts need: put its tokenizer's files there",
        ),
    ],
)
def test_an_incomplete_checkpoint_is_refused(refused: Any, model: Path, damage: Any, expected: str) -> None:
    damage(model)
    assert expected in refused(
        "generate", "--checkpoint", model, "--prompt", "def f", "-o", "max_new_tokens=2"
    )


def cut(path: Path, bytes_: int | None) -> None:
    path.write_bytes(path.read_bytes()[:bytes_] if bytes_ else b"")


def lose_a_tensor(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    del weights["model.norm.weight"]
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["-o", "stpes=3"],
            "neither the decoder nor sampler 'p2' has an option 'stpes': did you mean 'steps'",
        ),
        (["-o", "alg_temp=1"], "alg_temp has no effect with sampler 'p2'"),
        (["-o", "steps=0"], "steps"),
        (["--sampler", "entrpy"], "no plugin samplers/entrpy: did you mean 'entropy' or 'entropy-accept'?"),
    ],
)
def test_generate_refuses_an_option_that_is_not_there(
    refused: Any, model: Path, options: list[str], expected: str
) -> None:
    assert expected in refused("generate", "--checkpoint", model, "--prompt", "def f", *options)


def test_a_gpu_that_is_not_there_is_refused(
    refused: Any, untouched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees no GPU here" in refused("run", "tiny.yaml", "--set", "device=cuda")


def test_a_corpus_without_files_is_refused(refused: Any, untouched: Path) -> None:
    setting = "data.corpus.options.train=nowhere/*.py"
    place = Path.cwd() / "nowhere"
    assert f"no train file matches '{place}/*.py'" in refused("run", "tiny.yaml", "--set", setting)
    setting = "data.corpus.options.held_out=nowhere/*.py"
    assert f"no held-out file matches '{place}/*.py'" in refused("run", "tiny.yaml", "--set", setting)


def test_generate_prints_what_the_model_writes(accepted: Any, model: Path) -> None:
    arguments = ("generate", "--checkpoint", model, "--prompt", "def f", "-o", "max_new_tokens=3")
    completed = json.loads(accepted(*arguments, "--json"))
    assert (completed["prompt"], completed["suffix"]) == ("def f", None)
    assert accepted(*arguments) == completed["text"] + "\n"
    assert json.loads(accepted(*arguments, "--suffix", "\n", "--json"))["suffix"] == "\n"


@pytest.mark.parametrize("command", ["run", "validate"])
def test_what_is_not_here_is_missed_before_anything_is_prepared(
    here: Any, untouched: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else found(name))
    code, _, errors = here(command, "tiny.yaml", "--set", "train.lora={rank: 4}", *WITHOUT_PROBLEMS)
    assert code == 2
    assert "error: trained needs the package peft: pip install peft\n" in errors
    assert NO_PROBLEMS in errors
    assert not (untouched / "runs" / "tiny" / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "tiny.yaml"], "stopped; what was finished is kept; go on with: platform run tiny.yaml"),
        (["schema"], "stopped"),
    ],
)
def test_an_interrupt_outside_of_training_says_one_line(
    here: Any, untouched: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for name in ("read_experiment", "manifest_schema"):
        monkeypatch.setattr(experiment_commands, name, interrupted)
    code, _, errors = here(*arguments)
    assert (code, errors.splitlines()) == (130, [says])

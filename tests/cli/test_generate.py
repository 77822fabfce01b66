"""`platform generate`: prompts from anywhere, JSON lines out, traces."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opendllm.core import load
from opendllm.core.cli.main import main
from opendllm.registries.backbones import Vocabulary
from opendllm.registries.discovery import installed_plugins

LETTERS = "abcdefgh \n"
OPTIONS = ["-o", "max_new_tokens=5", "-o", "temperature=1"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaDA of one-letter tokens."""
    folder = tmp_path_factory.mktemp("checkpoint")
    vocabulary = {letter: number for number, letter in enumerate([*LETTERS, "</s>", "<M>"])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    raw.add_special_tokens(["</s>", "<M>"])
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", mask_token="<M>").save_pretrained(folder)
    torch.manual_seed(0)
    lm = installed_plugins().backbones.get("llada").build().build(Vocabulary(12, 11, 10))
    lm.save(folder, lm.module.state_dict())
    return folder


@pytest.fixture
def generate(checkpoint: Path, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """(arguments, standard input) -> exit code, output, errors."""

    def run(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        monkeypatch.setattr(
            "sys.argv",
            ["platform", "generate", "--checkpoint", str(checkpoint), *map(str, arguments), *OPTIONS],
        )
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def expected(checkpoint: Path, prompts: list[str]) -> list[str]:
    return load(checkpoint, device="cpu").generate(prompts, max_new_tokens=5, temperature=1)


def test_prompts_from_arguments_and_standard_input(generate, checkpoint) -> None:
    texts = expected(checkpoint, ["abc", "a b"])
    code, output, _ = generate("--prompt", "abc", "--prompt", "a b")
    assert (code, output) == (0, "".join(text + "\n" for text in texts))
    code, output, _ = generate(stdin="abc")
    assert (code, output) == (0, texts[0] + "\n")


def test_json_lines_in_and_out(generate, checkpoint, tmp_path) -> None:
    lines = [{"prompt": "abc", "task": 7}, {"prompt": "ab", "suffix": "cd"}, {"prompt": "a b"}]
    given = tmp_path / "prompts.jsonl"
    given.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    code, output, _ = generate("--input", given)
    assert code == 0
    found = [json.loads(line) for line in output.splitlines()]
    assert [line["prompt"] for line in found] == ["abc", "ab", "a b"]
    assert found[0]["task"] == 7
    assert found[0]["text"] == expected(checkpoint, ["abc"])[0]
    assert found[1]["suffix"] == "cd"
    assert all(1 <= line["forward_passes"] <= 5 and 0 <= line["tokens"] <= 5 for line in found)
    piped = generate("--input", "-", stdin=given.read_text())
    assert piped[1] == output
    target = tmp_path / "out.jsonl"
    code, nothing, _ = generate("--input", given, "--output", target)
    assert (code, nothing) == (0, "")
    assert target.read_text() == output


def test_an_existing_file_is_never_overwritten(generate, tmp_path) -> None:
    kept = tmp_path / "kept.jsonl"
    kept.write_text("mine")
    for option in ("--output", "--trace"):
        code, _, errors = generate("--prompt", "a", option, kept)
        assert code == 2
        assert "is there already" in errors
        assert kept.read_text() == "mine"
        code, _, errors = generate("--prompt", "a", option, tmp_path / "none" / "file")
        assert code == 2
        assert "is no folder" in errors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a"}\n{"prompt"', "prompts.jsonl:2: no JSON"),
        ('{"text": "a"}', "prompts.jsonl:1: a line is"),
        ("[1]", "prompts.jsonl:1: a line is"),
        ('{"prompt": "a", "suffix": 3}', "prompts.jsonl:1: suffix is no text"),
        ("\n", "holds no prompt"),
        ('{"prompt": ""}', "prompt 0 is empty"),
        ('{"prompt": "a<M>"}', "prompt 0 contains the mask token '<M>'"),
    ],
)
def test_lines_that_are_no_prompts_are_named(content, message, generate, tmp_path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    code, _, errors = generate("--input", path)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors


def test_prompts_come_from_one_place(generate, tmp_path) -> None:
    for given in (["--prompt", "a"], ["--suffix", "b"]):
        code, _, errors = generate("--input", tmp_path / "x", *given)
        assert code == 2
        assert "leave --prompt and --suffix out" in errors
    code, _, errors = generate("--input", tmp_path / "missing.jsonl")
    assert code == 2
    assert "cannot be read" in errors


def test_a_trace_holds_every_canvas(generate, tmp_path) -> None:
    path = tmp_path / "trace.json"
    code, output, _ = generate("--prompt", "ab", "--suffix", "c", "--trace", path, "-o", "steps=3")
    assert code == 0
    trace: dict[str, Any] = json.loads(path.read_text())
    mask, spelt = trace["mask_token_id"], trace["vocabulary"]
    assert trace["sampler"] == "low-confidence"
    assert trace["options"] == {"steps": 3, "max_new_tokens": 5, "temperature": 1}
    (row,) = trace["rows"]
    left = [canvas.count(mask) for canvas in row["canvases"]]
    assert left == [5, 3, 1, 0]
    assert [spelt[str(token)] for token in row["canvases"][0]] == ["a", "b", *["<M>"] * 5, "c"]
    assert "".join(spelt[str(token)] for token in row["canvases"][-1]).startswith(
        "ab" + output.rstrip("\n")[:1]
    )

"""The command line in a process of its own, and one tiny run for all tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

TINY = """\
name: tiny
model: {backbone: {name: open-dcoder}}
data:
  corpus: {name: text-files, options: {train: "corpus/train*.py", held_out: "corpus/held_out*.py"}}
  tokenizer: {train: {vocab_size: 300}}
  sequence_length: 32
train:
  objective: {name: mdlm}
  steps: 2
  global_batch_size: 2
  held_out: {rows: 2, draws: 1}
  checkpoint: {every: 1}
generate: {steps: 2, max_new_tokens: 4, sampler: {name: p2}}
evaluate: [{benchmark: {name: perplexity}, likelihood_draws: 1}]
variants:
  trained: {}
  other: {generate: {sampler: {name: entropy}}}
"""

Platform = Callable[..., subprocess.CompletedProcess[str]]


def save_letter_tokenizer(folder: Path, letters: Iterable[str]) -> int:
    """A token a letter, then EOS and the mask; gives how many tokens there are."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: number for number, letter in enumerate([*letters, "</s>", "<M>"])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    raw.add_special_tokens(["</s>", "<M>"])
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", mask_token="<M>").save_pretrained(folder)
    return len(vocabulary)


def lay_out(folder: Path) -> Path:
    """Write a manifest and its corpus."""
    (folder / "corpus").mkdir()
    for name in ("train_1", "train_2", "train_3", "held_out_1", "held_out_2"):
        lines = [f"def {name}_{n}(a, b={n}):\n    total = a + b * {n}\n    return total\n" for n in range(8)]
        (folder / "corpus" / f"{name}.py").write_text("\n".join(lines))
    (folder / "tiny.yaml").write_text(TINY)
    return folder


@pytest.fixture
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a manifest and its corpus, never run."""
    monkeypatch.chdir(tmp_path)
    return lay_out(tmp_path)


@pytest.fixture(scope="session")
def finished(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest, its corpus, its run and what that said. Don't write to it: take `workspace`."""
    folder = lay_out(tmp_path_factory.mktemp("finished"))
    result = platform("run", "tiny.yaml", "--limit", "2", cwd=folder)
    assert result.returncode == 0, result.stderr
    (folder / "said.txt").write_text(result.stderr)
    return folder


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished`."""
    return Path(shutil.copytree(finished, tmp_path / "workspace"))


@pytest.fixture
def model(finished: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run's last model folder."""
    source = finished / "runs" / "tiny" / "trained" / "checkpoints" / "step-2" / "model"
    return Path(shutil.copytree(source, tmp_path / "model"))


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command in this process: (exit code, standard output, standard error)."""
    from opendllm.core.cli.main import main

    def run(*arguments: str | Path) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["platform", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return left.value.code, captured.out, captured.err

    return run


@pytest.fixture
def refused(here: Callable[..., Any]) -> Callable[..., str]:
    """Run a command in this process: the one line that it is refused with, beside those of its progress."""

    def run(*arguments: str | Path) -> str:
        code, _, errors = here(*arguments)
        assert code == 2, errors
        [line] = [said for said in errors.splitlines() if not re.match(r"\[\d+:\d\d\] ", said)]
        assert line.startswith("error: ")
        return str(line)

    return run


@pytest.fixture
def accepted(here: Callable[..., Any]) -> Callable[..., str]:
    """Run a command in this process and return what it printed."""

    def run(*arguments: str | Path) -> str:
        code, output, errors = here(*arguments)
        assert code == 0, errors
        return str(output)

    return run

"""Small manifests, written and read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from opendllm.core.manifest.experiment_manifest import Experiment, read_experiment
from opendllm.registries import UserError
from opendllm.registries.discovery import installed_plugins

BASE = """\
name: base
model: {backbone: {name: open-dcoder}}
data:
  corpus: {name: python-stdlib}
  tokenizer: {train: {vocab_size: 300}}
  sequence_length: 32
train:
  objective: {name: mdlm}
  steps: 2
generate:
  steps: 4
evaluate:
  - benchmark: {name: perplexity}
"""

Write = Callable[..., Path]
Read = Callable[..., Experiment]
Refusal = Callable[..., list[str]]


@pytest.fixture
def base_text() -> str:
    return BASE


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a manifest: the base one, with `text` after it."""
    monkeypatch.chdir(tmp_path)

    def write_manifest(text: str = "", name: str = "m.yaml", base: str = BASE) -> Path:
        Path(name).write_text(base + text, encoding="utf-8")
        return Path(name)

    return write_manifest


@pytest.fixture
def read(write: Write) -> Read:
    def read_text(text: str = "", *settings: str, base: str = BASE) -> Experiment:
        return read_experiment(write(text, base=base), settings, installed_plugins())

    return read_text


@pytest.fixture
def refusal(read: Read) -> Refusal:
    """The lines that a manifest is refused with."""

    def lines(text: str = "", *settings: str, base: str = BASE) -> list[str]:
        with pytest.raises(UserError) as caught:
            read(text, *settings, base=base)
        return str(caught.value).splitlines()

    return lines

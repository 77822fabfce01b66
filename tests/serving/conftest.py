"""A run with tiny checkpoints, and one process that serves them to a module's tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..cli.conftest import here, refused

__all__ = ["here", "refused"]

MODELS = {"llada": "llada", "sdar": "sdar"}
"""Variants, and the golden checkpoints that they are: a bidirectional one and a block-causal one."""
EOS, MASK, TOKENS = 149, 150, 149
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def save_byte_tokenizer(folder: Path) -> None:
    """A token a byte: ASCII, and as many others as there are ids, so that characters come in parts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    spelt = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda each: (each > "~", each))[: TOKENS - 2]
    vocabulary = {letter: number for number, letter in enumerate([*spelt, "Ġ", "Ċ"])}
    raw = Tokenizer(models.BPE({**vocabulary, "</s>": EOS, "<M>": MASK}, [], fuse_unk=False))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["</s>", "<M>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", mask_token="<M>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def served_run(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> Path:
    """A run's folder with a variant for each model."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    for variant, golden in MODELS.items():
        model = run / variant / "checkpoints" / "step-1" / "model"
        model.mkdir(parents=True)
        shutil.copy(goldens / golden / "model.safetensors", model)
        config = json.loads((goldens / golden / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "eos_token_id": EOS, "pad_token_id": EOS}))
        save_byte_tokenizer(model)
        (run / variant / "variant.json").write_text(f'{{"trained_in": "{variant}"}}')
    return run


@dataclass
class Server:
    """A process that serves.

    Attributes:
        process: it.
        url: where.
    """

    process: subprocess.Popen[str]
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """(exit code, what it said on standard error); it may have been told so before."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, errors = self.process.communicate()
        return self.process.returncode, errors


def start_server(*arguments: str | Path, **variables: str) -> Server:
    """Begin to serve on a free port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "opendllm.core", "serve", *map(str, arguments), "--port", "0"],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    for line in process.stdout:
        found = re.match(r"page: (http://\S+)/ ", line)
        if found:
            return Server(process, found[1])
    pytest.fail(process.stderr.read())


@pytest.fixture(scope="module")
def server(served_run: Path) -> Iterator[Server]:
    """One for a module's tests."""
    running = start_server(
        served_run, "--most-tokens", "64", "--queue", "64", "--batch-size", "8", "--grace", "0"
    )
    yield running
    code, errors = running.stop()
    assert (code, "Traceback" in errors) == (0, False), errors

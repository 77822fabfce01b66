"""Tokenising in parallel: the same tokens whatever the number of processes, nothing left of a killed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from tokenizers import Tokenizer

from opendllm.core.checkpoints.text_codec import TokenFacts
from opendllm.core.data import encoding
from opendllm.core.data.encoding import Encoding, Pair, encode_in_order
from opendllm.core.data.tokenizers import train_tokenizer
from opendllm.registries.corpora import Document
from opendllm.registries.errors import UserError
from tests.children import runs, started_with

NO_FACTS = TokenFacts((), {})
PAIRS = [
    Pair(f"question {n} " * (n % 3), f"answer number {n} " * (1 + n % 7), f"records.jsonl:{n}")
    for n in range(400)
]


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([Document("", pair.text) for pair in PAIRS], 300).save_pretrained(folder)
    return folder / "tokenizer.json"


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "CHARACTERS_AT_ONCE", 500)
    monkeypatch.setattr(encoding, "BATCHES_BEFORE_PROCESSES", 2)


def encoded(pairs: Iterator[Pair], file: Path) -> list[np.ndarray]:
    batches = list(encode_in_order(pairs, Encoding(file, NO_FACTS, 7)))
    return [
        np.concatenate([getattr(batch, name) for batch in batches]) for name in ("ids", "lengths", "prompts")
    ]


def test_one_process_or_two_give_the_same_tokens_in_the_same_order(
    tokenizer_file: Path, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for processes, alone in ((1, 2), (2, 2), (2, 10**9)):
        monkeypatch.setattr(encoding, "MAX_PROCESSES", processes)
        monkeypatch.setattr(encoding, "BATCHES_BEFORE_PROCESSES", alone)
        found.append(encoded(iter(PAIRS), tokenizer_file))
    for other in found[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(found[0], other, strict=True))
    ids, lengths, prompts = found[0]
    assert ids[np.cumsum(lengths) - 1].tolist() == [7] * len(PAIRS)
    assert ((prompts == 0) == np.array([pair.prompt == "" for pair in PAIRS])).all()


def test_no_more_than_a_few_batches_are_read_ahead(
    tokenizer_file: Path, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0

    def counted() -> Iterator[Pair]:
        nonlocal read
        for pair in PAIRS * 5:
            read += len(pair.prompt) + len(pair.text)
            yield pair

    monkeypatch.setattr(encoding, "MAX_PROCESSES", 1)
    behind = 0
    for batch in encode_in_order(counted(), Encoding(tokenizer_file, NO_FACTS, 7)):
        del batch
        behind += 500
        assert read - behind < 6 * 500 + 0.5 * behind  # batches overshoot by part of a text


def test_a_killed_process_is_one_line(tokenizer_file: Path, small_batches: None) -> None:
    def killing() -> Iterator[Pair]:
        for number, pair in enumerate(PAIRS):
            if number == 200:
                for child in started_with(psutil.Process(), "spawn_main"):
                    child.kill()
            yield pair

    with pytest.raises(UserError, match="a process that tokenises was killed, perhaps for lack of memory"):
        list(encode_in_order(killing(), Encoding(tokenizer_file, NO_FACTS, 7)))


@pytest.mark.parametrize("alone", [2, 10**9])
def test_a_document_that_cannot_be_encoded_is_named(
    tokenizer_file: Path, small_batches: None, monkeypatch: pytest.MonkeyPatch, alone: int
) -> None:
    """Here and in another process."""
    monkeypatch.setattr(encoding, "BATCHES_BEFORE_PROCESSES", alone)
    monkeypatch.setattr(encoding, "MAX_PROCESSES", 1)
    (tilde,) = Tokenizer.from_file(str(tokenizer_file)).encode("~").ids
    facts = TokenFacts((), {tilde: "~"})
    pairs = [*PAIRS[:300], Pair("", "some ~ text", "records.jsonl:300"), *PAIRS[301:]]
    with pytest.raises(UserError, match=r"^records\.jsonl:300: spells '~', which this tokenizer can't tell"):
        list(encode_in_order(iter(pairs), Encoding(tokenizer_file, facts, 7)))


SCRIPT = """
import sys
from pathlib import Path
from opendllm.core.data import encoding
from opendllm.registries.corpora import Corpus, Document


class Slow(Corpus):
    def documents(self, split):
        for number in range(60 if split == "train" else 2):
            if number == 40 and "stop" in sys.argv:
                print("halfway", flush=True)
                sys.stdin.read()
            yield Document(str(number), f"text number {number} " * 30)

    def fingerprint(self):
        return "x"


if __name__ == "__main__":  # the processes that tokenise import this file too
    from opendllm.core.data.prepared import prepare
    from opendllm.core.manifest.schema import Data

    encoding.CHARACTERS_AT_ONCE, encoding.BATCHES_BEFORE_PROCESSES = 500, 2
    data = Data.model_validate({
        "corpus": {"name": "text-files"}, "tokenizer": {"path": sys.argv[1]}, "sequence_length": 32
    })
    prepared = prepare(data, data.tokenizer, Slow(), Path(sys.argv[2]))
    print(len(prepared.tokens["train"]), prepared.digest)
"""


@pytest.mark.slow
def test_a_run_killed_while_it_prepares_leaves_no_cache_and_no_process(
    tokenizer_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)

    def start(folder: str, *flags: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "script.py", tokenizer_file.parent, folder, *flags],
            cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    with start("cache", "stop") as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "halfway\n"
        children = psutil.Process(victim.pid).children(recursive=True)
        assert children
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
    assert not list((tmp_path / "cache").glob("tokens-*"))
    deadline = time.monotonic() + 60
    while any(runs(child) for child in children):
        assert time.monotonic() < deadline, "a child outlived the run"
        time.sleep(0.05)
    with start("cache") as again, start("clean") as clean:
        assert again.communicate("")[0] == clean.communicate("")[0] != ""

"""Peak memory and speed of preparing a large corpus, on a generated one.

    python benchmarks/preparing.py [--gigabytes 2] [--vocabulary 32000]

Writes JSON lines of made-up words, trains a tokenizer, tokenises, packs; then prepares once more, which
reads what is there, and reads every row once. Each of the two is a process of its own; memory is the
largest sum, seen every 50 ms, of what that process and those it starts hold that no file backs, less
what it held after its imports. Pages of mapped files can be dropped at any time, so they don't count;
the sum of whole resident sets, which has them and Python's and the libraries' code, stands beside it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil

ROW_LENGTH = 2048
WORDS = 200_000


def generate(path: Path, size: int) -> None:
    """Documents of 200 to 20,000 characters, their lengths log-uniform, words by Zipf's law."""
    generator = np.random.default_rng(0)
    syllables = [a + b for a in "bcdfghjklmnprstvw" for b in "aeiou"]
    words = ["".join(generator.choice(syllables, generator.integers(1, 5))) for _ in range(WORDS)]
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            count = int(np.exp(generator.uniform(np.log(35), np.log(3500))))
            ranks = np.minimum(generator.zipf(1.2, count), WORDS) - 1
            written += file.write(json.dumps({"text": " ".join(words[rank] for rank in ranks)}) + "\n")


def used(process: psutil.Process) -> tuple[int, int]:
    """(anonymous, resident) bytes of a process and all below it."""
    anonymous = resident = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            status = Path(f"/proc/{one.pid}/status").read_text()
        except OSError:
            continue  # it has just ended
        sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in status.splitlines() if "kB" in line}
        anonymous, resident = anonymous + sizes.get("RssAnon:", 0), resident + sizes.get("VmRSS:", 0)
    return anonymous, resident


def work(corpus: str, folder: str, vocabulary: int, read_rows: bool, parent: Connection) -> None:
    from opendllm.core.data.prepared import prepare
    from opendllm.core.data.rows import PackedRows
    from opendllm.core.manifest.schema import Data
    from opendllm.registries.discovery import installed_plugins

    data = Data.model_validate(
        {
            "corpus": {"name": "jsonl", "options": {"train": corpus}},
            "tokenizer": {"train": {"vocab_size": vocabulary}},
            "sequence_length": ROW_LENGTH,
        }
    )
    plugin = installed_plugins().corpora.get("jsonl").build({"train": corpus})
    parent.send(used(psutil.Process())[0])
    started = time.perf_counter()
    assert data.tokenizer is not None
    prepared = prepare(data, data.tokenizer, plugin, Path(folder))
    seconds = time.perf_counter() - started
    tokens, packing = prepared.tokens["train"], prepared.packing["train"]
    rows = PackedRows(tokens, packing, ROW_LENGTH, 0, seed=0)
    share = int(packing.lengths.sum()) / (len(rows) * ROW_LENGTH)
    if read_rows:
        for first in range(0, len(rows), 64):
            rows.batch(range(first, min(first + 64, len(rows))))
    parent.send((seconds, len(tokens), len(rows), share))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--vocabulary", type=int, default=32000)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        generate(corpus, int(arguments.gigabytes * 2**30))
        size = corpus.stat().st_size
        print(f"corpus {size / 2**20:,.0f} MiB, {multiprocessing.cpu_count()} cores")
        for name, read_rows in (("preparing", False), ("again, and every row", True)):
            pipe, child = context.Pipe()
            given = (str(corpus), f"{folder}/data", arguments.vocabulary, read_rows, child)
            process = context.Process(target=work, args=given)
            process.start()
            before = pipe.recv()
            peak = watch(process.pid or 0, pipe)
            seconds, tokens, rows, share = pipe.recv()
            process.join()
            print(
                f"{name:22} {(peak[0] - before) / 2**20:6,.0f} MiB (resident {peak[1] / 2**20:,.0f} MiB)  "
                f"{seconds:6.1f} s, {size / 2**20 / seconds:,.1f} MiB/s  {tokens:,} tokens in {rows:,} rows, "
                f"{share:.2%} real",
                flush=True,
            )


def watch(pid: int, pipe: Connection) -> tuple[int, int]:
    """The largest (anonymous, resident) until the child has something to say."""
    process, peak, done = psutil.Process(pid), [0, 0], threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            peak[:] = map(max, peak, used(process))

    watcher = threading.Thread(target=look)
    watcher.start()
    pipe.poll(None)
    done.set()
    watcher.join()
    return peak[0], peak[1]


if __name__ == "__main__":
    main()

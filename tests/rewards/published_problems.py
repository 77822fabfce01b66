"""What tells a published benchmark's test problems from others, as digests; no text of theirs is kept.

    python tests/rewards/published_problems.py FOLDER     writes core/rewards/published-test-problems.json

FOLDER holds the published files that tests/benchmarks/test_published_files.py reads.
"""

from __future__ import annotations

import base64
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opendllm.core.rewards.tested_problems import PUBLISHED, prompt_digest, telling_lines, telling_sentences

MBPP_TEST = range(11, 511)


def rows(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        text = lines.read()
    if text.startswith("["):
        found: list[dict[str, Any]] = json.loads(text)
        return found
    return [json.loads(line) for line in text.splitlines()]


def texts(folder: Path) -> Iterator[tuple[str, str, Sequence[str]]]:
    """(benchmark, problem, its texts); a benchmark of problems that may be trained on is called ""."""
    for row in rows(folder / "HumanEval.jsonl.gz"):
        yield "humaneval", row["task_id"], [row["prompt"], row["test"]]
    for row in rows(folder / "HumanEvalPlus-v0.1.10.jsonl.gz"):
        yield "humaneval-plus", row["task_id"], [row["prompt"]]
    for row in rows(folder / "mbpp.jsonl.gz"):
        name = "mbpp" if row["task_id"] in MBPP_TEST else ""
        yield name, f"Mbpp/{row['task_id']}", [row["text"], *row["test_list"], "\n".join(row["test_list"])]
    for row in rows(folder / "sanitized-mbpp.jsonl.gz"):
        name = "mbpp-sanitized" if row["task_id"] in MBPP_TEST else ""
        yield name, f"Mbpp/{row['task_id']}", [row["prompt"], *row["test_list"], "\n".join(row["test_list"])]
    for row in rows(folder / "MbppPlus-v0.2.0.jsonl.gz"):
        name = "mbpp-plus" if int(row["task_id"].rpartition("/")[2]) in MBPP_TEST else ""
        yield name, row["task_id"], [row["prompt"]]


def digests(folder: Path) -> Mapping[str, set[bytes]]:
    """Benchmark -> digests of its problems' whole texts, and of lines that only one problem has."""
    problems_of: dict[bytes, set[str]] = {}
    of: dict[bytes, set[str]] = {}
    for benchmark, problem, parts in texts(folder):
        for part in parts:
            for line in (part, *telling_lines(part), *telling_sentences(part)):
                digest = prompt_digest(line)
                problems_of.setdefault(digest, set()).add(problem)
                of.setdefault(digest, set()).add(benchmark)
    found: dict[str, set[bytes]] = {}
    for digest, problems in problems_of.items():
        if len(problems) == 1 and "" not in of[digest]:
            for benchmark in of[digest]:
                found.setdefault(benchmark, set()).add(digest)
    return found


def packed(folder: Path) -> str:
    found = {
        name: base64.b64encode(b"".join(sorted(each))).decode()
        for name, each in sorted(digests(folder).items())
    }
    return json.dumps(found, indent=1) + "\n"


if __name__ == "__main__":
    PUBLISHED.write_text(packed(Path(sys.argv[1])))
    counts = Counter({name: len(each) for name, each in digests(Path(sys.argv[1])).items()})
    print(counts, PUBLISHED.stat().st_size)

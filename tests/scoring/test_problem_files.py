"""Problems from a file, from the hub, or one line that says where to get them."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.foundation.json_lines import json_lines
from opendllm.core.scoring import problem_files
from opendllm.core.scoring.problem_files import ProblemSource, read_problems
from opendllm.registries.errors import UserError

SOURCE = ProblemSource("nobody/nothing", "test", "https://example.org/problems.jsonl.gz")
ROWS = [{"task_id": f"T/{number}", "prompt": "naïve\u2028"} for number in range(3)]

SCRIPT = """
import sys
from opendllm.core.scoring.problem_files import ProblemSource, read_problems
from opendllm.registries.errors import UserError
source = ProblemSource(sys.argv[1], "train", "https://example.org/problems.jsonl.gz")
try:
    print(read_problems(None, source, ["task_id"]))
except UserError as error:
    print(error)
"""


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["problems.jsonl", "problems.jsonl.gz", "problems"])
def test_a_file_is_read_packed_or_not_whatever_its_name(tmp_path: Path, packed: bool, name: str) -> None:
    content = b"\n" + lines(ROWS) + b"  \n"
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    assert read_problems(str(tmp_path / name), SOURCE, ["task_id", "prompt"]) == ROWS


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b'{"task_id": ', "is not JSON"),
        (b'{"task_id": "\xff"}', r"is not UTF-8 \(byte 13\)"),
        (b"[1]", "is no JSON object"),
        (b'{"prompt": ""}', "has no 'task_id'"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, broken: bytes, reason: str) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(lines(ROWS) + broken + b"\n")
    with pytest.raises(UserError, match=f"^{path}:4 {reason}") as caught:
        read_problems(str(path), SOURCE, ["task_id"])
    assert "\n" not in str(caught.value)
    assert [line.number for line in json_lines(path) if line.issue] in ([4], [])


def test_an_empty_a_missing_and_a_damaged_file_are_one_line(tmp_path: Path) -> None:
    empty, damaged = tmp_path / "empty.jsonl", tmp_path / "damaged.jsonl.gz"
    empty.write_bytes(b"\n")
    damaged.write_bytes(gzip.compress(lines(ROWS))[:-12])
    for path, reason in (
        (empty, "holds no problems"),
        (damaged, "cannot be read"),
        (tmp_path / "none.jsonl", "No such file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(UserError, match=reason) as caught:
            read_problems(str(path), SOURCE, ["task_id"])
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"HF_HUB_OFFLINE": "1"},
        {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"},
        {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://no-such-host.invalid"},
    ],
    ids=["offline", "refused", "nameless"],
)
def test_without_a_network_one_line_says_what_to_download(tmp_path: Path, variables: dict[str, str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, "nobody/nothing"],
        env={**os.environ, "HF_HOME": str(tmp_path), **variables},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    [line] = result.stdout.splitlines()
    assert line.startswith("its problems are not here, and nobody/nothing cannot be had")
    assert line.endswith(
        "download https://example.org/problems.jsonl.gz and give the file as option `problems` "
        "(-o problems=FILE of `evaluate`, --problems FILE of `score`)"
    )


def test_a_hub_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        hurry = "from opendllm.core.foundation import hub; hub.ANSWER_SECONDS = 0.5\n"
        result = subprocess.run(
            [sys.executable, "-c", hurry + SCRIPT, "nobody/nothing"],
            env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address},
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    [line] = result.stdout.splitlines()
    assert "cannot be had from the hub" in line


def test_a_download_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem_files, "_load", lambda source: time.sleep(60))
    monkeypatch.setattr(problem_files, "HUB_SECONDS", 0.05)
    with pytest.raises(UserError, match=r"no answer within 0\.05 seconds.*download https://example.org"):
        read_problems(None, SOURCE, ["task_id"])


def test_a_data_set_comes_through_datasets_with_its_fields_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "test.jsonl").write_bytes(lines(ROWS))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    source = ProblemSource("data", "test", "https://example.org/problems.jsonl.gz")
    assert read_problems(None, source, ["task_id"]) == ROWS
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert read_problems(None, source, ["task_id"]) == ROWS  # without a network, too
    with pytest.raises(UserError, match=r"^data on the hub has no 'canonical_solution'"):
        read_problems(None, source, ["canonical_solution"])

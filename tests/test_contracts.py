"""Every registered plugin keeps its contract; one added tomorrow is tested here untouched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from opendllm.core.networks.logit_chunks import LOGITS_AT_ONCE
from opendllm.core.testing import CONTRACT_CLASSES, contract_of
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.extension_points import EXTENSION_POINTS

ADDITION = """
task: addition
dataset_path: json
dataset_kwargs: {data_files: {test: tasks/addition.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def example_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples in options models speak of: Python, JSON lines, parquet, problems and tasks."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "data").mkdir()
    (folder / "more").mkdir()
    rows = [{"text": f"def f{number}(x): return x + {number}"} for number in range(40)]
    (folder / "data" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "more" / "train.parquet")
    for number in range(40):
        (folder / f"file{number}.py").write_text(f"def f{number}(x):\n    return x + {number}\n")
    lines = [
        {
            "name": f"add_{number}.json-L1",
            "language": "py",
            "prompt": f"def add_{number}(x):",
            "suffix": "    return y\n",
            "canonical_solution": f"    y = x + {number}",
        }
        for number in range(8)
    ]
    (folder / "santacoder-fim.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "tasks").mkdir()
    (folder / "tasks" / "addition.yaml").write_text(ADDITION)
    sums = [json.dumps({"question": f"{number}+1=", "answer": str(number + 1)}) for number in range(8)]
    (folder / "tasks" / "addition.jsonl").write_text("\n".join(sums))
    shutil.copytree(Path(__file__).parent / "benchmarks" / "problems", folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def _in_the_example_folder(example_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(example_folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(example_folder / "cache"))


@pytest.fixture(autouse=True)
def _losses_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten scored positions at once."""
    monkeypatch.setitem(LOGITS_AT_ONCE, "cpu", 400)


for _kind in EXTENSION_POINTS:
    for _registration in installed_plugins().of_kind(_kind):
        _name = f"Test_{_kind}_{_registration.name.replace('-', '_')}"
        globals()[_name] = type(
            _name, (contract_of(_kind, _registration.options),), {"plugin": _registration.name}
        )


def test_every_extension_point_has_a_contract() -> None:
    assert set(CONTRACT_CLASSES) == set(EXTENSION_POINTS)

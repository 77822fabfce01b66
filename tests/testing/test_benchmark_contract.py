"""The contract of benchmarks, of problems whose answers are told by likelihoods or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest

from opendllm.core.testing import BenchmarkContract

from .wrong_plugins.benchmarks import OPTIONS, WithoutReferences
from .wrong_plugins.wrong import contract_for

CHOICES = """
task: choices
dataset_path: json
dataset_kwargs: {data_files: {test: choices.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: 1
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of lm-eval with three choices a question, the shortest of which is right."""
    folder = tmp_path_factory.mktemp("choices")
    (folder / "choices.yaml").write_text(CHOICES)
    rows = [{"question": f"{n} + 1 =", "choices": ["none", str(n + 1), "many"]} for n in range(6)]
    (folder / "choices.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


class TestMultipleChoice(BenchmarkContract):
    plugin = "lm-eval"
    options: ClassVar = {"task": "choices", "folder": "."}

    @pytest.fixture(autouse=True)
    def _in_the_folder(self, tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tasks)


@pytest.mark.parametrize(
    "test",
    [
        "test_the_published_answers_score_best",
        "test_wrong_answers_score_worse",
        "test_failed_answers_count_as_wrong",
    ],
)
def test_without_references_nothing_is_known_to_be_right(test: str) -> None:
    with pytest.raises(pytest.skip.Exception, match="none of its requests has a `reference`"):
        getattr(contract_for("benchmarks", WithoutReferences, OPTIONS)(), test)()

"""A tiny checkpoint with a tokenizer and a chat template, and tasks that lie in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..tiny_checkpoint import save_tiny_checkpoint

COMMON = """
dataset_path: json
dataset_kwargs: {data_files: {test: docs.jsonl, train: docs.jsonl}}
test_split: test
"""
TASKS = {
    "choice": """
num_fewshot: 0
output_type: multiple_choice
doc_to_text: "{{question}} "
doc_to_target: "{{label}}"
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: exact_match}]
""",
    "last_word": """
num_fewshot: 0
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{answer}}"
metric_list: [{metric: acc}, {metric: perplexity, aggregation: perplexity, higher_is_better: false}]
""",
    "whole": """
num_fewshot: 0
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
    "written": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
fewshot_split: train
num_fewshot: 1
description: "Answer. "
repeats: 2
generation_kwargs: {until: ["e", "Q:"], max_gen_toks: 7}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list: [{name: first, filter: [{function: take_first}]}]
""",
    "sampled": """
num_fewshot: 0
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: [], do_sample: true, temperature: 0.9, top_p: 0.95, num_beams: 1}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the tasks and their documents."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "question": f"Q: {n} modulo 4?",
            "answer": str(n % 4),
            "label": n % 2,
            "choices": ["even", "odd one"],
        }
        for n in range(5)
    ]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}{text}{COMMON}")
    return folder

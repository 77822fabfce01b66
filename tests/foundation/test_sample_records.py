"""Samples files: what is written is read back, old lines and those of others too; the page says it all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendllm.core.foundation.sample_records import (
    LIKELIHOOD_FIELDS,
    TEXT_FIELDS,
    SampleRecord,
    parse_record,
    read_records,
    record_line,
)
from opendllm.registries.benchmarks import GeneratedText, TextLikelihood

ON_DISK = {
    "written": (
        '{"task_id": "a", "setting": "oracle", "sample": 2, "prefix": "def f(", "suffix": null, '
        '"text": "x\\u2615", "reference": null, "tokens": [1, 2], "reference_tokens": [], "kept_tokens": 2, '
        '"ended": true, "forward_passes": 4, "seconds": 0.1, "digest": "d"}\n'
    ),
    "failed": (
        '{"task_id": "a", "setting": "s", "sample": 0, "prefix": "p", "suffix": "\\n", "text": "", '
        '"reference": "x", "tokens": [], "reference_tokens": [], "failure": "too long", "digest": "d"}\n'
    ),
    "likelihood": (
        '{"task_id": "b", "setting": "default", "sample": 0, "log_likelihood": -3.5, "variance": 0.25, '
        '"tokens": 4, "bytes": 9, "greedy": null, "request": "f00", "seconds": 0.5, "digest": "d"}\n'
    ),
}
"""As runs of version 0.1.0 wrote them."""

texts = st.none() | st.text()
counts = st.none() | st.integers(0, 2**40)
tokens = st.lists(st.integers(0, 2**17)).map(tuple)
finite = st.floats(allow_nan=False)
generated = st.builds(
    GeneratedText,
    st.text(),
    st.text(),
    st.integers(0, 99),
    st.text(),
    tokens,
    tokens,
    st.none() | st.booleans(),
    failure=texts,
)
likelihoods = st.builds(
    TextLikelihood,
    st.text(),
    st.text(),
    finite,
    finite,
    st.integers(0),
    st.integers(0),
    st.none() | st.booleans(),
    exact=st.none() | st.booleans(),
)
seconds = st.none() | finite
records = st.builds(
    SampleRecord, generated, texts, texts, texts, counts, counts, seconds, st.none(), texts
) | st.builds(SampleRecord, likelihoods, seconds=seconds, request=texts, digest=texts)


def parsed(**content: Any) -> SampleRecord:
    record = parse_record(content)
    assert isinstance(record, SampleRecord), record
    return record


@pytest.mark.parametrize("line", ON_DISK.values(), ids=list(ON_DISK))
def test_lines_of_earlier_runs_are_read_and_written_back_byte_for_byte(line: str) -> None:
    record = parsed(**json.loads(line))
    assert not record.other
    assert record_line(record) == line


@given(record=records)
def test_what_is_written_is_read_back(record: SampleRecord) -> None:
    assert parse_record(json.loads(record_line(record))) == record


def test_a_line_becomes_what_benchmarks_are_handed() -> None:
    answers = {name: parsed(**json.loads(line)).answer for name, line in ON_DISK.items()}
    assert answers == {
        "written": GeneratedText("a", "oracle", 2, "x☕", (1, 2), (), True),
        "failed": GeneratedText("a", "s", 0, "", failure="too long"),
        "likelihood": TextLikelihood("b", "default", -3.5, 0.25, 4, 9),
    }


def test_samples_of_others_need_a_task_and_a_text() -> None:
    assert parsed(task_id=7, solution="x", text="y").answer == GeneratedText(
        "7", "default", 0, "x", form="solution"
    )
    assert parsed(task_id="t", completion="x").answer == GeneratedText(
        "t", "default", 0, "x", form="completion"
    )


def test_fields_of_unknown_names_or_types_are_ignored_and_kept() -> None:
    odd = {"seconds": "much", "tokens": [1, "2"], "ended": 1, "sample": True, "model": {"name": "m"}}
    record = parsed(task_id="t", text="x", **odd)
    assert record.answer == GeneratedText("t", "default", 0, "x")
    assert record.seconds is None
    written = json.loads(record_line(record))
    assert {name: written[name] for name in odd} == odd


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"text": "x"}, "has no `task_id`"),
        ({"task_id": True, "text": "x"}, "has no `task_id`"),
        ({"task_id": "t", "text": "x", "setting": 3}, "has a `setting` that isn't text"),
        ({"task_id": "t", "text": None}, "has a `text` that isn't text"),
        ({"task_id": "t", "tokens": [1]}, "has neither a `completion` nor a `solution`"),
        (
            {"task_id": "t", "log_likelihood": -1.0, "variance": 0, "tokens": 3},
            "has neither a `completion` nor a `solution`, "
            "and no number as `bytes` beside its `log_likelihood`",
        ),
    ],
)
def test_what_is_wrong_with_a_line_is_said(content: dict[str, Any], expected: str) -> None:
    assert parse_record(content) == expected


def test_a_damaged_line_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(ON_DISK["written"] + '{"task_id": "cut\n' + "{}\n" + ON_DISK["likelihood"])
    found = list(read_records(path))
    assert [(line.number, isinstance(record, SampleRecord)) for line, record in found] == [
        (1, True),
        (2, False),
        (3, False),
        (4, True),
    ]
    assert found[1][0].issue == found[1][1]
    assert found[2][1] == "has no `task_id`"


def test_the_page_names_every_field_and_no_other(repository: Path) -> None:
    page = (repository / "docs" / "samples-format.md").read_text()
    named = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    whole = GeneratedText("t", "s", 0, "x", (1,), (1,), True, failure="why")
    likelihood = TextLikelihood("t", "s", -1, 0, 1, 1, True, exact=True)
    both = [
        SampleRecord(whole, "p", "s", "r", 1, 1, 0.1, digest="d"),
        SampleRecord(likelihood, seconds=0.1, request="f", digest="d"),
    ]
    assert named == {*TEXT_FIELDS, *LIKELIHOOD_FIELDS}.union(*(json.loads(record_line(one)) for one in both))

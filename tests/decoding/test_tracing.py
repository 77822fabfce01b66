"""What each step changed, as a trace tells it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.tracing import CanvasLists, row_trace, spellings
from opendllm.core.foundation.decoding_traces import (
    DecodingTrace,
    RowTrace,
    TraceStep,
    read_trace,
    trace_text,
)
from opendllm.core.reporting.trace_frames import canvases
from opendllm.core.testing.table_lm import TableLM
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

MASK = 7


def traced(
    lm: TableLM, name: str, rows: list[list[int]], options: dict[str, Any], **decoder: Any
) -> list[Any]:
    """(the trace, the canvases) of each row; shorter rows are padded on the right."""
    registration = installed_plugins().samplers.get(name)
    sampler = registration.build(registration.options.model_validate(options))
    longest = max(map(len, rows))
    canvas = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    seeds = torch.arange(len(rows))
    decoded = decode(lm, canvas, real, sampler, DecoderOptions(**decoder), seeds, keep_trace=True)
    found = []
    for number in range(len(rows)):
        lists = [CanvasLists.of(snapshot).row(number) for snapshot in decoded.snapshots]
        editable = decoded.origin[number][decoded.written[number]].tolist()
        trace = row_trace(lists, frozenset(editable), lm.mask_token_id)
        found.append((trace, [each.tokens for each in lists]))
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("low-confidence", {}),
        ("p2", {}),
        ("remdm", {}),
        ("dreamon", {"expand_token_id": 3, "expand_budget": 6}),
    ],
)
def test_the_changes_lead_from_the_first_canvas_to_the_last(name: str, options: dict[str, Any]) -> None:
    lm = TableLM()
    mask = lm.mask_token_id
    rows = [[1, 2, *[mask] * 6, 4], [mask] * 7]
    for trace, expected in traced(lm, name, rows, options, steps=6, temperature=1.5):
        whole = DecodingTrace("", None, "", name, mask, dict.fromkeys(range(mask + 1), "x"), 6, trace)
        shown = list(canvases(whole))
        assert [[cell.token for cell in cells] for cells in shown] == expected
        assert [cell.token for cell in shown[0] if cell.editable] == [mask] * len(trace.editable)
        given = [[cell.token for cell in cells if not cell.editable] for cells in shown]
        assert all(each == given[0] for each in given)


def test_positions_that_are_put_in_and_taken_out_are_told() -> None:
    rows = [[1, 2, *[TableLM().mask_token_id] * 8, 4]] * 8
    options = {"expand_token_id": 3, "expand_budget": 8}
    steps = [
        step
        for trace, _ in traced(TableLM(), "dreamon", rows, options, temperature=2.0)
        for step in trace.steps
    ]
    assert any(step.insert for step in steps)
    assert any(step.delete for step in steps)


def test_changes_are_called_what_they_are() -> None:
    def canvas(*cells: tuple[int, int, float]) -> Any:
        tokens, origins, confidences = zip(*cells, strict=True)
        return CanvasLists([list(tokens)], [list(confidences)], [list(origins)]).row(0)

    steps = [
        canvas((5, 0, 0.0), (MASK, 1, 0.0), (MASK, 2, 0.0), (-1, -1, 0.0)),
        canvas((5, 0, 0.0), (3, 1, 0.5), (MASK, 3, 0.0), (MASK, 2, 0.0)),
        canvas((5, 0, 0.0), (4, 1, -torch.inf), (6, 3, 0.25), (-1, -1, 0.0)),
        canvas((5, 0, 0.0), (MASK, 1, 0.5), (6, 3, 0.25), (-1, -1, 0.0)),
    ]
    assert row_trace(steps, frozenset({1, 3}), MASK) == RowTrace(
        start=(5, MASK, MASK),
        editable=(1, 2),
        steps=(
            TraceStep(commit=((1, 3, 0.5),), insert=((2, MASK, None),)),
            TraceStep(edit=((1, 4, None),), commit=((2, 6, 0.25),), delete=(3,)),
            TraceStep(remask=(1,)),
        ),
    )


def test_uniform_noise_is_editable_though_it_is_no_mask() -> None:
    lists = CanvasLists([[1, 2, 3]], [[0.0, 0.0, 0.0]], [[0, 1, 2]]).row(0)
    assert row_trace([lists], frozenset({1, 2}), MASK).editable == (1, 2)


def test_a_trace_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    steps = (TraceStep(commit=((1, 2, 0.5),)), TraceStep(insert=((1, 1, None),), delete=(1,)))
    trace = DecodingTrace(
        prompt="a",
        suffix="b\ud83d",
        text="c",
        sampler="p2",
        mask_token_id=7,
        vocabulary={1: "x", 2: " y"},
        forward_passes=2,
        row=RowTrace((1, 7), (1,), steps),
        options={"steps": 2},
        task_id="t",
        setting="oracle",
        digest="d",
    )
    (tmp_path / "trace.json").write_text(trace_text(trace))
    assert read_trace(tmp_path / "trace.json") == trace


@pytest.mark.parametrize(
    "change",
    [
        {"steps": [{"commit": [[9, 1, 0.5]]}]},
        {"steps": [{"commit": [[1, 1]]}]},
        {"steps": [{"commit": [[1, 6, 0.5]]}]},
        {"steps": [{"delete": [3]}]},
        {"steps": [{"delete": [1]}, {"remask": [1]}]},
        {"steps": 3},
        {"editable": [5]},
        {"vocabulary": {"one": "x"}},
        {"vocabulary": {"1": 2}},
        {"start": None},
    ],
)
def test_a_damaged_trace_is_refused_by_its_files_name(tmp_path: Path, change: dict[str, Any]) -> None:
    row = RowTrace((1, 7), (1,), ())
    content = json.loads(trace_text(DecodingTrace("a", None, "c", "p2", 7, {1: "x"}, 2, row)))
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match=r"trace\.json holds no trace"):
        read_trace(path)


def test_a_tokenizer_that_drops_a_texts_first_space_spells_tokens_with_it() -> None:
    words = {1: " def", 2: "x", 3: "\ufffd"}

    def decode_text(ids: list[int]) -> str:
        return "".join(words[token] for token in ids).removeprefix(" ")

    assert spellings(decode_text, [3, 2, 1, 1]) == words

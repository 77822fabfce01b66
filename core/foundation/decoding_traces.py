"""How a text came to be, step by step: what a trace viewer plays, and its file. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opendllm.core.foundation.json_objects import read_json_object
from opendllm.registries.errors import UserError

WrittenToken = tuple[int, int, float | None]
"""(column, token id, the confidence with which it was written; None where the sampler states none)."""


@dataclass(frozen=True)
class TraceStep:
    """What one step changed. It first deletes, then inserts; all but `delete` count columns after that.

    Attributes:
        commit: masks that were written.
        edit: tokens that were overwritten by others.
        remask: tokens that became masks again.
        insert: positions that were put in; the mask id where nothing is written there yet.
        delete: columns that were taken out, counted before.
    """

    commit: tuple[WrittenToken, ...] = ()
    edit: tuple[WrittenToken, ...] = ()
    remask: tuple[int, ...] = ()
    insert: tuple[WrittenToken, ...] = ()
    delete: tuple[int, ...] = ()


@dataclass(frozen=True)
class RowTrace:
    """One row's canvas.

    Attributes:
        start: its token ids before the first step.
        editable: the columns of `start` that are to be written.
        steps: what followed.
    """

    start: tuple[int, ...]
    editable: tuple[int, ...]
    steps: tuple[TraceStep, ...]


@dataclass(frozen=True)
class DecodingTrace:
    """A row's trace with all that a viewer says of it.

    Attributes:
        prompt: what stands left of the gap.
        suffix: what stands right of it; None where the prompt was continued.
        text: what was written.
        sampler: its name.
        mask_token_id: of the model.
        vocabulary: how each token id that occurs is spelt.
        forward_passes: that the row took part in.
        options: the decoder's and the sampler's own, as they were given.
        task_id: of the benchmark that asked, if one did.
        setting: of that task.
        digest: of the settings and the checkpoint that it was made with.
    """

    prompt: str
    suffix: str | None
    text: str
    sampler: str
    mask_token_id: int
    vocabulary: Mapping[int, str]
    forward_passes: int
    row: RowTrace
    options: Mapping[str, Any] = field(default_factory=dict)
    task_id: str | None = None
    setting: str | None = None
    digest: str | None = None


def trace_content(trace: DecodingTrace) -> dict[str, Any]:
    """The trace as JSON has it."""
    return {
        **{
            name: getattr(trace, name)
            for name in ("task_id", "setting", "prompt", "suffix", "text", "sampler", "mask_token_id")
        },
        "options": dict(trace.options),
        "forward_passes": trace.forward_passes,
        "vocabulary": {str(token): spelt for token, spelt in trace.vocabulary.items()},
        "start": list(trace.row.start),
        "editable": list(trace.row.editable),
        "digest": trace.digest,
        "steps": [
            {name: list(found) for name, found in vars(step).items() if found} for step in trace.row.steps
        ],
    }


def read_trace(path: Path) -> DecodingTrace:
    """A trace's file.

    Raises:
        UserError: it can't be read, or isn't one.
    """
    content = read_json_object(path)
    try:
        trace = _trace(content)
        _check(trace)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path} holds no trace of a decoding: {type(error).__name__}: {error}") from error
    return trace


def trace_text(trace: DecodingTrace) -> str:
    """The text of a trace's file."""
    return json.dumps(trace_content(trace)) + "\n"


def _trace(content: Mapping[str, Any]) -> DecodingTrace:
    return DecodingTrace(
        prompt=_text(content["prompt"]),
        suffix=None if content["suffix"] is None else _text(content["suffix"]),
        text=_text(content["text"]),
        sampler=_text(content["sampler"]),
        mask_token_id=int(content["mask_token_id"]),
        vocabulary={int(token): _text(spelt) for token, spelt in content["vocabulary"].items()},
        forward_passes=int(content["forward_passes"]),
        row=RowTrace(
            tuple(map(int, content["start"])),
            tuple(map(int, content["editable"])),
            tuple(_step(step) for step in content["steps"]),
        ),
        options=dict(content.get("options", {})),
        task_id=content.get("task_id"),
        setting=content.get("setting"),
        digest=content.get("digest"),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _step(content: Mapping[str, Any]) -> TraceStep:
    def written(name: str) -> tuple[WrittenToken, ...]:
        return tuple(
            (int(column), int(token), None if confidence is None else float(confidence))
            for column, token, confidence in content.get(name, ())
        )

    return TraceStep(
        commit=written("commit"),
        edit=written("edit"),
        remask=tuple(map(int, content.get("remask", ()))),
        insert=written("insert"),
        delete=tuple(map(int, content.get("delete", ()))),
    )


def _check(trace: DecodingTrace) -> None:
    """Every column is there, and every token is spelt.

    Raises:
        ValueError: one isn't.
    """
    length = len(trace.row.start)
    columns = list(trace.row.editable)
    tokens = set(trace.row.start)
    if any(not 0 <= column < length for column in columns):
        raise ValueError("a column that may be written isn't there")
    for step in trace.row.steps:
        if any(not 0 <= column < length for column in step.delete):
            raise ValueError("a column that is deleted isn't there")
        length += len(step.insert) - len(set(step.delete))
        written = (*step.commit, *step.edit, *step.insert)
        tokens |= {token for _, token, _ in written}
        if any(not 0 <= column < length for column in (*(each[0] for each in written), *step.remask)):
            raise ValueError("a column that is written isn't there")
    unspelt = tokens - trace.vocabulary.keys() - {trace.mask_token_id}
    if unspelt:
        raise ValueError(f"token {min(unspelt)} is spelt nowhere")

"""The line of a samples file: its record, its reader and its writer (docs/samples-format.md). No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from opendllm.core.foundation.json_lines import JsonLine, json_lines
from opendllm.registries.benchmarks import DEFAULT_SETTING, Answer, AnswerForm, GeneratedText, TextLikelihood

ValueT = TypeVar("ValueT")

SampleKey = tuple[str, str, int]
"""(task id, setting, sample)."""
TEXT_FIELDS: Mapping[str, AnswerForm] = {
    "solution": "solution",
    "completion": "completion",
    "text": "written",
}
"""Field -> what it holds; the first that isn't null counts, as in EvalPlus."""
LIKELIHOOD_FIELDS = ("log_likelihood", "variance", "tokens", "bytes")
"""A line that has them all as numbers is a text's likelihood."""


@dataclass(frozen=True)
class SampleRecord:
    """One line of a samples file.

    Attributes:
        answer: what the benchmark is handed, with the line's task, setting and sample.
        prefix: of the gap that a text was written into; None where the line doesn't say.
        suffix: of that gap; None where the prefix was continued.
        reference: the published answer, if there is one.
        kept_tokens: how many of the answer's tokens its text is made of: those before the first end of text,
            and of them those that no stop string cut off.
        forward_passes: that the answer took part in.
        seconds: its share of its batch's wall time.
        request: fingerprint of the text that a likelihood is of.
        digest: of the settings and the checkpoint that the answer was made with.
        other: fields that the format doesn't know, or that aren't of its types; kept as they are.
    """

    answer: Answer
    prefix: str | None = None
    suffix: str | None = None
    reference: str | None = None
    kept_tokens: int | None = None
    forward_passes: int | None = None
    seconds: float | None = None
    request: str | None = None
    digest: str | None = None
    other: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> SampleKey:
        """What tells it from the other lines of its file; a likelihood is asked for once."""
        sample = self.answer.sample if isinstance(self.answer, GeneratedText) else 0
        return self.answer.task_id, self.answer.setting, sample

    @property
    def text(self) -> str | None:
        """The answer's; None where a likelihood was asked for."""
        return self.answer.text if isinstance(self.answer, GeneratedText) else None

    @property
    def failure(self) -> str | None:
        """Why there is no answer that could be right."""
        return self.answer.failure


def read_records(path: Path) -> Iterator[tuple[JsonLine, SampleRecord | str]]:
    """Every line of a samples file with its record, or with what is wrong with it.

    Raises:
        UserError: the file can't be read.
    """
    for line in json_lines(path):
        yield line, line.issue or parse_record(line.content)


def parse_record(content: Mapping[str, Any]) -> SampleRecord | str:
    """The record of a line's object, or what is wrong with it.

    Needed are `task_id` and a text or a likelihood; any other field may be missing, and one of another
    type counts as missing.
    """
    fields = _Fields(content)
    task_id = fields.take("task_id", _identifier)
    if task_id is None:
        return "has no `task_id`"
    setting = fields.take("setting", _text)
    if "setting" in fields.left:
        return "has a `setting` that isn't text"
    setting = DEFAULT_SETTING if setting is None else setting
    missing = [name for name in LIKELIHOOD_FIELDS if _number(content.get(name)) is None]
    given = [name for name in TEXT_FIELDS if name in content]
    text_field = next((name for name in given if content[name] is not None), given[0] if given else None)
    if content.get("log_likelihood", 0) is None and _text(content.get("failure")) is not None:
        fields.take("log_likelihood", _number)
        answer: Answer = _likelihood(task_id, setting, fields)
    elif not missing:
        answer = _likelihood(task_id, setting, fields)
    elif text_field is None:
        beside = f", and no number as `{missing[0]}` beside its `log_likelihood`"
        return "has neither a `completion` nor a `solution`" + beside * ("log_likelihood" in content)
    elif _text(content[text_field]) is None:
        return f"has a `{text_field}` that isn't text"
    else:
        answer = _generated(task_id, setting, text_field, fields)
    return SampleRecord(
        answer,
        prefix=fields.take("prefix", _text),
        suffix=fields.take("suffix", _text),
        reference=fields.take("reference", _text),
        kept_tokens=fields.take("kept_tokens", _integer),
        forward_passes=fields.take("forward_passes", _integer),
        seconds=fields.take("seconds", _number),
        request=fields.take("request", _text),
        digest=fields.take("digest", _text),
        other=fields.left,
    )


def record_line(record: SampleRecord) -> str:
    """The record as a line of a samples file, which `parse_record` reads back; it ends in a newline."""
    task_id, setting, sample = record.key
    answer = record.answer
    fields: dict[str, Any] = {"task_id": task_id, "setting": setting, "sample": sample}
    if isinstance(answer, TextLikelihood):
        fields |= {name: getattr(answer, name) for name in (*LIKELIHOOD_FIELDS, "greedy")}
        fields |= {} if answer.exact is None else {"exact": answer.exact}
        fields["log_likelihood"] = None if answer.failure is not None else answer.log_likelihood
        ended, failure = None, answer.failure
    else:
        name = next(name for name, form in TEXT_FIELDS.items() if form == answer.form)
        fields |= {
            "prefix": record.prefix,
            "suffix": record.suffix,
            name: answer.text,
            "reference": record.reference,
            "tokens": answer.tokens,
            "reference_tokens": answer.reference_tokens,
        }
        ended, failure = answer.ended, answer.failure
    known = {
        "kept_tokens": record.kept_tokens,
        "ended": ended,
        "forward_passes": record.forward_passes,
        "request": record.request,
        "seconds": record.seconds,
        "failure": failure,
    }
    fields |= {name: value for name, value in known.items() if value is not None}
    made_with = {} if record.digest is None else {"digest": record.digest}
    return json.dumps({**fields, **record.other, **made_with}) + "\n"


class _Fields:
    """The fields of a line that nobody has taken yet."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.left = dict(content)

    def take(self, name: str, checked: Callable[[object], ValueT | None]) -> ValueT | None:
        """A field of its type; one of another type stays, and None is what isn't there."""
        value = self.left.get(name)
        found = checked(value)
        if found is not None or value is None:
            self.left.pop(name, None)
        return found


def _likelihood(task_id: str, setting: str, fields: _Fields) -> TextLikelihood:
    values = [fields.take(name, _number) for name in LIKELIHOOD_FIELDS]
    log_likelihood = math.nan if values[0] is None else values[0]
    variance, tokens, size = (value or 0 for value in values[1:])
    fields.take("sample", _integer)
    greedy, failure = fields.take("greedy", _truth), fields.take("failure", _text)
    exact = fields.take("exact", _truth)
    counts = int(tokens), int(size)
    return TextLikelihood(task_id, setting, log_likelihood, variance, *counts, greedy, failure, exact)


def _generated(task_id: str, setting: str, text_field: str, fields: _Fields) -> GeneratedText:
    form = TEXT_FIELDS[text_field]
    return GeneratedText(
        task_id=task_id,
        setting=setting,
        sample=fields.take("sample", _integer) or 0,
        text=fields.left.pop(text_field),
        tokens=fields.take("tokens", _integers) or (),
        reference_tokens=fields.take("reference_tokens", _integers) or (),
        ended=fields.take("ended", _truth),
        form=form,
        failure=fields.take("failure", _text) if form == "written" else None,
    )


def _identifier(value: object) -> str | None:
    """A task id; some number their tasks."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _truth(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _integers(value: object) -> tuple[int, ...] | None:
    whole = isinstance(value, list) and all(_integer(item) is not None for item in value)
    return tuple(value) if whole and isinstance(value, list) else None

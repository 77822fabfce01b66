"""What the contract of benchmarks answers: published answers, likely texts, and wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from opendllm.core.testing.contract import passed_over
from opendllm.core.testing.likely_texts import LikelyTexts, likelihood
from opendllm.registries.benchmarks import Answer, GeneratedText, GenerationRequest, Request

Answering: TypeAlias = Callable[[Request, Sequence[Request]], str | None]
"""From a request, and all of them, to an answer's text; None is the published one, or a likely text."""


def right(request: Request, asked: Sequence[Request]) -> str | None:
    """The published answer, or a likely text."""
    return None


def of_another(request: Request, asked: Sequence[Request]) -> str | None:
    """The published answer to another problem, of the same setting."""
    if not isinstance(request, GenerationRequest):
        return ""
    others = [
        each.reference
        for each in asked
        if isinstance(each, GenerationRequest)
        and each.task_id != request.task_id
        and each.setting == request.setting
        and each.reference != request.reference
    ]
    return others[0] if others else None


def cut(request: Request, asked: Sequence[Request]) -> str | None:
    """The first half of the published answer's first line that isn't blank."""
    reference = request.reference or "" if isinstance(request, GenerationRequest) else ""
    blank = len(reference) - len(reference.lstrip())
    line = reference[blank:].partition("\n")[0]
    return reference[:blank] + line[: len(line) // 2]


WRONG_ANSWERS: Mapping[str, Answering] = {
    "other problems' answers": of_another,
    "answers cut in half, or unlikely ones": cut,
}


def answer_to(
    request: GenerationRequest, text: str | None, sample: int = 0, failure: str | None = None
) -> GeneratedText:
    """That text, or the published answer."""
    reference = request.reference or ""
    written = reference if text is None else text
    tokens, wanted = tuple(written.encode()), tuple(reference.encode())
    return GeneratedText(request.task_id, request.setting, sample, written, tokens, wanted, failure=failure)


def given_to(request: Request, text: str | None, texts: LikelyTexts) -> Answer:
    """An answer, or a likelihood: without a text the best one."""
    if isinstance(request, GenerationRequest):
        return answer_to(request, text)
    chosen = texts.worst if text is not None else texts.best
    return chosen.get((request.task_id, request.setting)) or likelihood(request, text is None)


def needs_references(asked: Sequence[Request]) -> None:
    """End a test of published answers where there are none."""
    texts = [request for request in asked if isinstance(request, GenerationRequest)]
    if texts and all(request.reference is None for request in texts):
        passed_over("none of its requests has a `reference`, so no answer is known to be right")

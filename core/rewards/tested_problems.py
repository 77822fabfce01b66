"""Problems that a model is tested with must not be what it is trained on: told by digests of their texts."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from opendllm.core.rewards.weighing import NAMED
from opendllm.registries.benchmarks import GenerationRequest, Request
from opendllm.registries.errors import UserError
from opendllm.registries.problems import Problem

PUBLISHED = Path(__file__).parent / "published-test-problems.json"
"""Of each published benchmark, the digests of its prompts and of those lines that only it has."""
DIGEST_BYTES = 8
SHORTEST_LINE = 32
"""Shorter lines, white space aside, belong to many programs."""
FEWEST_WORDS = 6
"""Shorter sentences say what many problems do."""
_SENTENCE_END = re.compile(r"(?<=[.:?!;])\s+|>>>|^\s*$|^(?=\s*assert\b)|(?:\"{3}|\'{3})", re.MULTILINE)
_COMMENT = re.compile(r"^[ \t]*#+", re.MULTILINE)
_FENCED = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)


def prompt_digest(text: str) -> bytes:
    """Of a text, however its white space is set: the first 8 bytes of its SHA-256."""
    content = " ".join(text.split()).encode(errors="surrogatepass")
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]


def telling_lines(text: str) -> Iterator[str]:
    """The lines of a text that are long enough to tell one problem from another."""
    for line in text.splitlines():
        words = line.split()
        if sum(map(len, words)) >= SHORTEST_LINE and words[0] not in ("import", "from"):
            yield line


def telling_sentences(text: str) -> Iterator[str]:
    """Its longer sentences, in small letters and without marks: as they are told apart wherever lines are
    broken, behind comment marks, in a docstring, or after an opening of their own.
    """
    for sentence in _SENTENCE_END.split(_COMMENT.sub("", text)):
        words = re.findall(r"\w+", sentence.lower())
        if len(words) >= FEWEST_WORDS and sum(map(len, words)) >= SHORTEST_LINE:
            yield " ".join(words)


def refuse_test_problems(problems: Sequence[Problem], evaluated: Mapping[str, Iterable[Request]]) -> None:
    """None of what is trained on may be a problem of a benchmark that is evaluated, or of a published one.

    Args:
        problems: to be trained on.
        evaluated: label -> what the manifest's benchmarks ask.

    Raises:
        UserError: some are; the first ones are named.
    """
    asked = {label: frozenset(map(prompt_digest, _asked(requests))) for label, requests in evaluated.items()}
    published = published_digests()
    found: dict[str, str] = {}
    for problem in problems:
        prompts = {prompt_digest(text) for text in _prompts(problem)}
        texts = prompts | {prompt_digest(text) for text in _parts(problem)}
        labels = [label for label, digests in asked.items() if prompts & digests]
        labels += [name for name, digests in published.items() if texts & digests]
        if labels:
            found[problem.task_id] = labels[0]
    if found:
        named = ", ".join(f"{task!r} of {label}" for task, label in list(found.items())[:NAMED])
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise UserError(
            f"problems that the model is tested with can't be trained on ({named}{more}): leave them out"
        )


@functools.cache
def published_digests() -> Mapping[str, frozenset[bytes]]:
    """Benchmark -> the digests of what it asks and tests."""
    found = {}
    for name, packed in json.loads(PUBLISHED.read_text(encoding="utf-8")).items():
        digests = base64.b64decode(packed)
        found[name] = frozenset(
            digests[start : start + DIGEST_BYTES] for start in range(0, len(digests), DIGEST_BYTES)
        )
    return found


def _asked(requests: Iterable[Request]) -> Iterator[str]:
    for request in requests:
        if isinstance(request, GenerationRequest):
            yield from _texts(request.gap.prefix, request.gap.suffix)
        else:
            yield from _texts((request.context or "") + request.text, None)


def _prompts(problem: Problem) -> Iterator[str]:
    yield from _texts(problem.gap.prefix, problem.gap.suffix)
    for turn in problem.messages:
        yield from _texts(turn.content, None)


def _texts(prefix: str, suffix: str | None) -> Iterator[str]:
    text = prefix if suffix is None else f"{prefix}\n{suffix}"
    if text.strip():
        yield text


def _parts(problem: Problem) -> Iterator[str]:
    """What a published problem may be known by, whatever it has been put into."""
    texts = [*_prompts(problem), *problem.tests, problem.setup]
    for text in texts:
        yield from _FENCED.findall(text)
        yield from telling_lines(text)
        yield from telling_sentences(text)
    if problem.tests:
        yield "\n".join(problem.tests)

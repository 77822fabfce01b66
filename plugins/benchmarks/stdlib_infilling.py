"""Fill in a hidden line of a held-out standard-library function."""

from __future__ import annotations

import ast
import functools
import itertools
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from opendllm.core.scoring.infilling_lengths import Length, at_each_length, setting_of, shown_settings
from opendllm.core.scoring.scores_by_setting import (
    lower_is_better,
    mean_by_task,
    metric_name,
    output_shares,
    parses_as_python,
    scores_by_setting,
)
from opendllm.core.toolkit.draws import stream_id, uniform
from opendllm.core.toolkit.stdlib_source import stdlib_documents
from opendllm.plugins.benchmarks import StdlibInfillingOptions
from opendllm.registries.benchmarks import (
    Answer,
    Benchmark,
    BenchmarkContext,
    GeneratedText,
    GenerationRequest,
    Scores,
)
from opendllm.registries.corpora import Document
from opendllm.registries.gaps import Gap

LINES_A_FILE = 4
MIN_LINES, MAX_LINES = 4, 24
MIN_CHARACTERS, MAX_CHARACTERS = 8, 60


@dataclass(frozen=True)
class HiddenLine:
    """A function with one of its lines taken out."""

    task_id: str
    before: tuple[str, ...]
    indentation: str
    line: str
    after: tuple[str, ...]

    def function_with(self, line: str) -> str:
        """The whole function with `line` in the hidden one's place."""
        return "\n".join([*self.before, self.indentation + line, *self.after])


class StdlibInfilling(Benchmark):
    """Exact match, token accuracy and whether the result parses, for each way of asking.

    Token accuracy compares position by position with the reference's tokens, over the longer of
    both; at the oracle length that is the share of hidden tokens that were found.
    """

    headline: tuple[str, ...] = ("token_accuracy_oracle", "exact_match_oracle", "parses_oracle")

    def __init__(self, options: StdlibInfillingOptions) -> None:
        self._problems = options.problems
        self._lengths: tuple[Length, ...] = ("oracle", *options.fixed_lengths)
        self.lower_is_better = lower_is_better([setting_of(length) for length in self._lengths])
        self._context_lines = options.context_lines
        self._hidden: dict[str, HiddenLine] = {}

    def requests(self, context: BenchmarkContext) -> Sequence[GenerationRequest]:
        """One function a file, one hidden line a function, asked at each length."""
        wanted = self._problems if context.limit is None else min(self._problems, context.limit)
        problems = list(itertools.islice(_hidden_lines(context.seed), wanted))
        self._hidden = {problem.task_id: problem for problem in problems}
        return [
            request
            for problem in problems
            for request in at_each_length(self._request(problem), self._lengths)
        ]

    def score(self, answers: Sequence[Answer]) -> Scores:
        """Every metric for every setting, averaged over samples, then tasks."""
        texts = [answer for answer in answers if isinstance(answer, GeneratedText)]
        values = {
            name: mean_by_task(texts, lambda answer, name=name: self._value(name, answer))  # type: ignore[misc]
            for name in ("token_accuracy", "exact_match", "parses")
        }
        shares = output_shares(texts, lambda answer: self._value("parses", answer) == 1)
        if not any(
            answer.setting == setting_of("oracle") for answer in texts
        ):  # of a server, which isn't asked
            fixed = [setting_of(length) for length in self._lengths if length != "oracle"]
            self.headline = tuple(
                metric_name(name, setting)
                for setting in shown_settings(fixed)
                for name in ("exact_match", "parses")
            )
        note = "oracle: as many masks as the hidden line has tokens; length-N: N masks"
        return scores_by_setting({**values, **shares}, [note])

    def quick_score(self, answer: Answer) -> float | None:
        """Its token accuracy."""
        return self._value("token_accuracy", answer) if isinstance(answer, GeneratedText) else None

    def _request(self, problem: HiddenLine) -> GenerationRequest:
        prefix = "\n".join([*problem.before[-self._context_lines :], problem.indentation])
        suffix = "\n" + "\n".join(problem.after[: self._context_lines]) + "\n"
        return GenerationRequest(problem.task_id, Gap(prefix, suffix), problem.line)

    def _value(self, name: str, answer: GeneratedText) -> float | None:
        """None where it hangs on tokens that nobody knows, as of a server's text."""
        problem = self._hidden[answer.task_id]
        if name == "exact_match":
            return float(answer.text == problem.line)
        if name == "parses":
            return float(parses_as_python(problem.function_with(answer.text)))
        if not answer.reference_tokens:
            return None
        longer = max(len(answer.tokens), len(answer.reference_tokens))
        hits = sum(a == b for a, b in zip(answer.tokens, answer.reference_tokens, strict=False))
        return hits / longer


def _hidden_lines(seed: int) -> Iterator[HiddenLine]:
    """First one line of each held-out file, then a second one, up to `LINES_A_FILE`."""
    by_file = _lines_by_file(seed)
    for taken in range(LINES_A_FILE):
        for lines in by_file:
            if taken < len(lines):
                yield lines[taken]


@functools.lru_cache(maxsize=4)
def _lines_by_file(seed: int) -> tuple[list[HiddenLine], ...]:
    """Every variant of a run is asked the same."""
    return tuple(_lines_of(document, seed) for document in stdlib_documents("held-out"))


def _lines_of(document: Document, seed: int) -> list[HiddenLine]:
    """A line of each of some functions of a file, in an order drawn with the seed."""
    choices = list(_choices(document.text))
    draws = uniform(seed, stream_id(document.name), torch.arange(len(choices))).tolist()
    by_function: dict[str, HiddenLine] = {}
    for _, (name, lines, hidden) in sorted(zip(draws, choices, strict=True)):
        line = lines[hidden]
        by_function.setdefault(
            name,
            HiddenLine(
                task_id=f"{document.name}::{name}:{hidden}",
                before=tuple(lines[:hidden]),
                indentation=line[: len(line) - len(line.lstrip())],
                line=line.strip(),
                after=tuple(lines[hidden + 1 :]),
            ),
        )
    return list(by_function.values())


def _choices(source: str) -> Iterator[tuple[str, list[str], int]]:
    """Every (function name, its dedented lines, index of a line worth hiding)."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    source_lines = source.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.end_lineno is None:
            continue
        lines = textwrap.dedent("\n".join(source_lines[node.lineno - 1 : node.end_lineno])).split("\n")
        if not MIN_LINES <= len(lines) <= MAX_LINES or not parses_as_python("\n".join(lines)):
            continue
        statements = {
            statement.lineno - node.lineno
            for statement in ast.walk(node)
            if isinstance(statement, ast.stmt) and _one_line(statement)
        }
        for index in sorted(statements - {0}):
            if MIN_CHARACTERS <= len(lines[index].strip()) <= MAX_CHARACTERS:
                yield node.name, lines, index


def _one_line(statement: ast.stmt) -> bool:
    """Whether it stands on one line; docstrings don't count."""
    is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return statement.lineno == statement.end_lineno and not is_docstring

"""EvalPlus's sanitizer: the code that a model's text holds, without what the entry point doesn't need.

Gives what evalplus/sanitize.py@v0.3.1 gives. That one reads code with tree-sitter, this one with `ast`;
its choices are kept, the odd ones too: decorated definitions, functions that return nothing and
statements at the top level are dropped, and of several definitions of a name the first counts. Comments
between definitions are the one thing that it may keep or drop otherwise.
"""

from __future__ import annotations

import ast
import warnings
from codeop import PyCF_ALLOW_INCOMPLETE_INPUT  # type: ignore[attr-defined]
from collections.abc import Iterator

PARSED_CHARACTERS = 20_000_000
"""A text that isn't code from its first line to its last is tried in ever smaller pieces; after so many
characters its first line stands for it."""


def sanitize(text: str, entry_point: str) -> str:
    """The imports of a text and the definitions that `entry_point` needs; all of its code without any."""
    code = extract_code(text)
    # A line that is all there is may be indented, or no code: tree-sitter reads what it can of it.
    return _reachable_code(code if "\n" in code else code.strip(), entry_point).strip() or code


def extract_code(text: str) -> str:
    """The range of at least two lines that is Python and has the most lines that aren't blank.

    The first of several such ranges; the first line where there is none.
    """
    lines = text.split("\n")
    filled_before = [0]
    for line in lines:
        filled_before.append(filled_before[-1] + bool(line.strip()))
    ranges = _Ranges(lines)
    starts = [number for number, line in enumerate(lines) if _may_start(line)]
    for wanted in range(filled_before[-1], 0, -1):
        for start in starts:
            if filled_before[-1] - filled_before[start] < wanted:
                break
            for end in range(start + max(1, wanted - 1), len(lines)):
                filled = filled_before[end + 1] - filled_before[start]
                if filled > wanted:
                    break
                if filled == wanted and ranges.is_code(start, end):
                    return ranges.text(start, end)
                if ranges.exhausted:
                    return lines[0]
    return lines[0]


class _Ranges:
    """Says which ranges of lines are Python, parsing few of them.

    A parser that meets an error before the end of its text meets it in every longer text, too. And a
    bracket or string that the end of a text leaves open is open in every shorter one that begins it.
    """

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._allowed = PARSED_CHARACTERS
        self._hopeless = [len(lines)] * len(lines)
        """Of each start, an end from which on every range asked for from now on is no code."""
        self._suspect = len(lines)

    @property
    def exhausted(self) -> bool:
        """Whether too much was parsed already."""
        return self._allowed < 0

    def text(self, start: int, end: int) -> str:
        """The lines from `start` to `end`, both included."""
        return "\n".join(self._lines[start : end + 1])

    def is_code(self, start: int, end: int) -> bool:
        """Whether the range is Python; of a start, ranges with more code must be asked for first."""
        if end >= self._hopeless[start]:
            return False
        if start < self._suspect < end and self._fails_before_its_end(start, self._suspect):
            return False
        error = self._error(start, end)
        if error is None:
            return True
        line = start + (error.lineno or 1) - 1 if isinstance(error, SyntaxError) else end
        if "never closed" in str(error) or "unterminated triple-quoted" in str(error):
            self._hopeless[start] = min(self._hopeless[start], max(line, start + 1))
        elif start < line < end:
            # Mostly the line that other ranges fail at, too; if not, nothing follows from it.
            self._suspect = line
            self._fails_before_its_end(start, line)
        return False

    def _fails_before_its_end(self, start: int, end: int) -> bool:
        error = self._error(start, end, PyCF_ALLOW_INCOMPLETE_INPUT)
        failed = isinstance(error, SyntaxError) and "incomplete input" not in str(error)
        if failed:
            self._hopeless[start] = min(self._hopeless[start], end)
        return failed

    def _error(self, start: int, end: int, flags: int = 0) -> Exception | None:
        text = self.text(start, end)
        self._allowed -= len(text)
        return _parse_error(text, flags)


def _may_start(line: str) -> bool:
    """Whether code can start with a line: its first statement must not be indented."""
    return not line.strip() or line[0] not in " \t" or line.strip()[0] in "#\\"


def _parse_error(code: str, flags: int) -> Exception | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "<answer>", "exec", ast.PyCF_ONLY_AST | flags, dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return error
    return None


def _parse(code: str) -> ast.Module | None:
    return ast.parse(code) if _parse_error(code, 0) is None else None


def _reachable_code(code: str, entry_point: str) -> str:
    tree = _parse(code)
    if tree is None:
        return ""
    imports: list[ast.AST] = []
    definitions: dict[str | None, ast.AST] = {}
    for node in tree.body:
        match node:
            case ast.ImportFrom(module="__future__"):
                continue
            case ast.Import() | ast.ImportFrom():
                imports.append(node)
            case ast.ClassDef(decorator_list=[]):
                definitions.setdefault(node.name, node)
            case ast.FunctionDef(decorator_list=[]) | ast.AsyncFunctionDef(decorator_list=[]):
                if any(isinstance(inner, ast.Return) for inner in ast.walk(node)):
                    definitions.setdefault(node.name, node)
            case ast.Assign() | ast.AnnAssign():
                definitions.setdefault(_assigned_name(node), node)
    reachable = _reachable_names(definitions, entry_point)
    kept = imports + [node for name, node in definitions.items() if name in reachable]
    return "\n".join(ast.get_source_segment(code, node) or "" for node in kept)


def _assigned_name(node: ast.Assign | ast.AnnAssign) -> str | None:
    """The first bare name among an assignment's targets and, failing that, its value."""
    sides: list[ast.expr | None] = (
        [node.target, node.value]
        if isinstance(node, ast.AnnAssign)
        else [node.targets[0], node.value if len(node.targets) == 1 else None]
    )
    return next((side.id for side in sides if isinstance(side, ast.Name)), None)


def _reachable_names(definitions: dict[str | None, ast.AST], entry_point: str) -> set[str]:
    reachable = {entry_point}
    waiting = [entry_point]
    while waiting:
        definition = definitions.get(waiting.pop())
        if definition is not None:
            found = set(_identifiers(definition)) - reachable
            reachable |= found
            waiting += found
    return reachable


def _identifiers(definition: ast.AST) -> Iterator[str]:
    """Every word in it that is a name: of variables, attributes, arguments, imports."""
    for node in ast.walk(definition):
        if isinstance(node, ast.Constant):
            continue
        for _, value in ast.iter_fields(node):
            for word in value if isinstance(value, list) else [value]:
                if isinstance(word, str):
                    yield from word.split(".")

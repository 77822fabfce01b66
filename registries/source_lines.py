"""The line of a plugin's code that is to be mended."""

from __future__ import annotations

import ast
import inspect
import re
import traceback
from pathlib import Path
from typing import Any

_OURS = Path(__file__).parent
_NOT_THEIRS = ("importlib", "pluggy", "pydantic", "pydantic_core")


def where_raised(error: BaseException) -> str:
    """` (at FILE:LINE)`: the deepest line that the error came through of the package that it came from first.

    What that package calls, this interface and Python's import are nobody's to mend. Nothing where no such
    line is known.
    """
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f" (at {error.filename}:{error.lineno})"
    theirs = [
        (Path(frame.filename), frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<")
        and Path(frame.filename).parent != _OURS
        and not any(part in _NOT_THEIRS for part in Path(frame.filename).parts)
    ]
    if not theirs:
        return ""
    package = theirs[0][0].parent
    file, line = [place for place in theirs if package in place[0].parents][-1]
    return f" (at {file}:{line})"


def where_defined(thing: Any) -> str:
    """` (at FILE:LINE)`, where a class, function or module begins; nothing where no source is known."""
    thing = inspect.unwrap(thing)
    try:
        file, (_, line) = inspect.getsourcefile(thing), inspect.getsourcelines(thing)
    except (OSError, TypeError):
        return ""
    return f" (at {file}:{max(line, 1)})" if file else ""


def where_attribute(cls: type, name: str) -> str:
    """` (at FILE:LINE)`, where a class, or one that it derives from, sets an attribute, itself or on `self`.

    Where no line of theirs does, the class itself. What the contracts say is nobody's to mend.
    """
    sets = re.compile(rf"(.*[;:])?\s*(self\.)?{re.escape(name)}\s*(:|=(?!=))")
    for each in cls.__mro__:
        try:
            file, (lines, first) = inspect.getsourcefile(each), inspect.getsourcelines(each)
        except (OSError, TypeError):
            continue
        if file is None or Path(file).parent == _OURS:
            continue
        for number, line in enumerate(lines, first):
            if sets.match(line):
                return f" (at {file}:{number})"
    return where_defined(cls)


def where_assigned(module: Any, name: str) -> str:
    """` (at FILE:LINE)`, where a module sets or imports a name; where nothing does, the module itself."""
    try:
        file, source = inspect.getsourcefile(module), inspect.getsource(module)
        statements = ast.walk(ast.parse(source))
    except (OSError, TypeError, SyntaxError):
        return ""
    for node in statements:
        is_set = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name
        is_imported = isinstance(node, ast.alias) and (node.asname or node.name) == name
        if isinstance(node, ast.Name | ast.alias) and (is_set or is_imported):
            return f" (at {file}:{node.lineno})"
    return where_defined(module)


def placed(message: str, *places: str) -> str:
    """A message with the first place that is known; one that ends with a place keeps that one."""
    if re.search(r"\(at [^()]*:\d+\)$", message):
        return message
    return message + next(filter(None, places), "")

"""The line of a plugin's code that is to be mended."""

from __future__ import annotations

import inspect
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
    """` (at FILE:LINE)`, where a class or function begins; nothing where no source is known."""
    try:
        file, (_, line) = inspect.getsourcefile(thing), inspect.getsourcelines(thing)
    except (OSError, TypeError):
        return ""
    return f" (at {file}:{max(line, 1)})" if file else ""

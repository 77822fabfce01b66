"""An answer that is one block of code, and what may stand before it (DiffuCoder, arXiv:2506.20639)."""

from __future__ import annotations

import ast
import warnings

FENCE = "```"


def is_one_block(text: str, language: str) -> bool:
    """Whether a text ends with a fenced block and has no other fence.

    No more than a newline may follow the block, and one must.
    """
    parts = text.split(FENCE)
    return len(parts) == 3 and parts[1].startswith(f"{language}\n") and parts[2] == "\n"


def first_block(text: str, language: str = "python") -> str:
    """The code of a text's first fenced block, as it stands there; empty where there is none."""
    _, found, rest = text.partition(f"{FENCE}{language}\n")
    code, closed, _ = rest.partition(FENCE)
    return code if found and closed else ""


def python_block_value(text: str) -> float:
    """1 for one block of Python that parses, stripped; 0.5 for one that doesn't; else 0.

    What no parser can be asked about (half a surrogate pair, deeper nesting than it has room for) is 0.
    """
    if not is_one_block(text, "python"):
        return 0.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that are none, say
            ast.parse(first_block(text).strip())
    except SyntaxError:
        return 0.5
    except (ValueError, RecursionError, MemoryError):
        return 0.0
    return 1.0

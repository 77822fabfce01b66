"""EvalPlus's sanitizer: what it keeps of a text, the odd choices included."""

from __future__ import annotations

import pytest

from opendllm.plugins.benchmarks.sanitizing import extract_code, sanitize


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(x):\n    return x", "def f(x):\n    return x"),
        ("Sure:\n```python\ndef f(x):\n    return x\n```\nDone.", "def f(x):\n    return x"),
        (
            "import os\nimport re as r\ndef f():\n    return 1\nprint(f())",
            "import os\nimport re as r\ndef f():\n    return 1",
        ),
        (
            "def g():\n    return 1\ndef h():\n    return 2\ndef f():\n    return g()",
            "def g():\n    return 1\ndef f():\n    return g()",
        ),
        ("K = 3\nU = 4\ndef f():\n    return f'{K}'", "K = 3\ndef f():\n    return f'{K}'"),
        ("def f():\n    return 1\ndef f():\n    return 2", "def f():\n    return 1"),
        ("def f():\n    print(1)\ndef f():\n    return 2", "def f():\n    return 2"),
        ("import functools\n@functools.cache\ndef f(x):\n    return x", "import functools"),
        ("from __future__ import annotations\ndef f():\n    return 1", "def f():\n    return 1"),
        (
            "class A(B):\n    x = 1\nclass B:\n    pass\ndef f():\n    return A()",
            "class A(B):\n    x = 1\nclass B:\n    pass\ndef f():\n    return A()",
        ),
        ("async def f():\n    return 1\nif True:\n    y = 2", "async def f():\n    return 1"),
        ("def g():\n    return 1\nx = 2", "def g():\n    return 1\nx = 2"),
        ("no code at all\nnor here", "no code at all"),
        ("", ""),
        ("    return x\n", "    return x"),
        ("a.b = c\ndef f():\n    return c", "a.b = c\ndef f():\n    return c"),
        ("def f():\n    return 1\n\ndef g(:\n    pass", "def f():\n    return 1"),
        ("x: int = 1\nx = 2\ndef f():\n    return x", "x: int = 1\ndef f():\n    return x"),
    ],
)
def test_what_is_kept(text: str, expected: str) -> None:
    assert sanitize(text, "f") == expected


def test_the_longest_range_counts_lines_that_are_not_blank() -> None:
    assert extract_code("x = 1\n\n\n\n)\ny = 1\nz = 2\nw = 3\n(") == "y = 1\nz = 2\nw = 3"
    assert extract_code("a = 1\nb = 2\n)\nc = 3\nd = 4") == "a = 1\nb = 2"


def test_a_long_text_that_is_no_code_ends_soon() -> None:
    text = "this is no code, not at all\n" * 3000
    assert extract_code(text) == "this is no code, not at all"

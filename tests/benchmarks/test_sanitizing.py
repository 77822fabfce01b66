"""EvalPlus's sanitizer: what it keeps of a text, the odd choices included."""

from __future__ import annotations

import random

import pytest

from opendllm.core.scoring.scores_by_setting import parses_as_python
from opendllm.plugins.benchmarks import sanitizing
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


def longest_code(text: str) -> str:
    """What `extract_code` should find, by trying everything."""
    lines = text.split("\n")
    found, most = lines[0], 0
    for start in range(len(lines)):
        for end in range(start + 1, len(lines)):
            filled = sum(bool(line.strip()) for line in lines[start : end + 1])
            if filled > most and parses_as_python("\n".join(lines[start : end + 1])):
                found, most = "\n".join(lines[start : end + 1]), filled
    return found


PIECES = (
    *("def f(x):", "    return x", "x = (1,", "]", "if x:", "else:", "'''", '"""', "", "  odd", "```"),
    *("x = 1 \\", "print('a'", ")", "class A:", "    pass", "f'{x", "@d", "not a program", "# (", "x = {}"),
)


def test_the_code_found_is_that_of_trying_every_range() -> None:
    draw = random.Random(0)
    for _ in range(600):
        text = "\n".join(draw.choice(PIECES) for _ in range(draw.randrange(1, 12)))
        assert extract_code(text) == longest_code(text), text


@pytest.mark.parametrize("bad", ["if", "foo((", '"""', "what follows is", "  x"])
def test_a_long_text_with_one_bad_line_is_parsed_few_times(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"a_{n} = [1, 2, 3]" for n in range(150)]
    text = "\n".join([*lines[:100], bad, *lines[100:]])
    monkeypatch.setattr(sanitizing, "PARSED_CHARACTERS", 120 * len(text))
    assert extract_code(text) == "\n".join(lines[:100])

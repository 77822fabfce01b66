"""The share of tests passed: each test alone, and no way to pass one but by being right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from opendllm.registries.benchmarks import CodeExecution
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.gaps import Gap
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.rewards import RewardContext

TESTS = ("assert f(1) == 2", "assert f(2) == 3", "assert sqrt(f(3)) == 2", "x = f(4)\nassert x == 5")
SETUP = "from math import sqrt\ndef same(a, b):\n    return a == b"
PROBLEM = Problem("add one", Gap(""), tests=TESTS, setup=SETUP)


def block(code: str) -> str:
    return f"Here it is.\n```python\n{code}\n```\n"


def values(problem: Problem, texts: Sequence[str], **options: Any) -> list[float]:
    reward = installed_plugins().rewards.get("code").build(options)
    completions = [Completion(problem, sample, text) for sample, text in enumerate(texts)]
    return list(reward.values(completions, RewardContext(CodeExecution())))


def test_each_test_counts_by_itself() -> None:
    """One that fails, raises or hangs costs its own share and no more; the same program is run once."""
    right = block("def f(x):\n    return x + 1")
    some = block("def f(x):\n    return 2 if x == 1 else 5")
    raises = block("def f(x):\n    return [1, 2, 3][x]")
    hangs = block("def f(x):\n    while x == 2:\n        pass\n    return x + 1")
    assert values(PROBLEM, [right, some, raises, hangs, right]) == [1, 0.5, 0.5, 0.75, 1]


def test_nothing_but_a_right_program_passes() -> None:
    tricks = [
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "class A:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
        "def f(x):\n    return A()",
        "import builtins\nbuiltins.AssertionError = ValueError\ndef f(x):\n    return 0",
        "def sqrt(x):\n    return 2\ndef f(x):\n    return 9",
        "import sys\nsys.settrace(lambda *a: None)\ndel sys.modules['os']\ndef f(x):\n    return None",
        "def f(x):\n    import gc\n    [o.clear() for o in gc.get_objects() if type(o) is list]",
    ]
    assert values(PROBLEM, [block(code) for code in tricks]) == [0.0] * len(tricks)


def test_helpers_of_the_setup_are_the_tests_own() -> None:
    """An answer that replaces one convinces nobody."""
    problem = Problem("p", Gap(""), tests=("assert same(f(1), 2)",), setup=SETUP)
    cheats = "def same(a, b):\n    return True\ndef f(x):\n    return 0"
    uses = "def f(x):\n    return int(sqrt(4)) if same(x, 1) else 0"
    assert values(problem, [block(cheats), block(uses)]) == [0, 1]


def test_only_a_well_formed_answer_is_run() -> None:
    code = "def f(x):\n    return x + 1"
    malformed = [
        code,
        f"```python\n{code}\n```",  # no newline at the end
        f"{block(code)}Done.\n",
        f"{block(code)}{block(code)}",
        f"```py\n{code}\n```\n",
        block("def f(x) return x + 1"),
        block("    def f(x):\n        return x + 1"),
    ]
    assert values(PROBLEM, malformed) == [0.0] * len(malformed)


def test_the_block_is_run_as_it_stands() -> None:
    """Its form is looked at stripped; what is run is not."""
    problem = Problem("p", Gap(""), tests=("assert a == 1",))
    assert values(problem, [block("a = 1"), block("    a = 1")]) == [1, 0]


def test_a_continuation_is_run_between_what_surrounds_it() -> None:
    problem = Problem("p", Gap("def f(x):\n", "\n    return y\n"), tests=TESTS, setup=SETUP)
    assert values(problem, ["    y = x + 1", "    y = x", "    y = (", ""], program="continuation") == [
        1,
        0,
        0,
        0,
    ]


def test_a_whole_text_may_be_the_program() -> None:
    assert values(PROBLEM, ["f = lambda x: x + 1", block("f = lambda x: x + 1")], program="text") == [1, 0]


def test_a_program_without_memory_fails() -> None:
    hungry = block("a = bytearray(2**31)\ndef f(x):\n    return x + 1")
    assert values(PROBLEM, [hungry], memory_gib=1.0) == [0]


@pytest.mark.parametrize(
    ("problem", "program", "issue"),
    [
        (Problem("p", Gap("x")), "block", "it has no `tests`"),
        (PROBLEM, "block", None),
        (PROBLEM, "continuation", None),
        (Problem("p", Gap("x"), tests=TESTS), "text", None),
    ],
)
def test_what_can_be_judged(problem: Problem, program: str, issue: str | None) -> None:
    reward = installed_plugins().rewards.get("code").build({"program": program})
    assert reward.issue_with(problem) == issue


def test_problems_of_one_id_are_judged_by_their_own_tests() -> None:
    problems = [Problem("t", Gap(""), tests=(f"assert f(2) == {value}",)) for value in (4, 5)]
    answers = [
        Completion(problem, 0, block(f"def f(x):\n    return {value}"))
        for problem, value in zip(problems, (4, 5), strict=True)
    ]
    reward = installed_plugins().rewards.get("code").build({})
    assert list(reward.values(answers, RewardContext(CodeExecution()))) == [1, 1]


def test_imports_from_the_future_stay_before_the_setup() -> None:
    problem = Problem("p", Gap(""), tests=("assert f(1) == 2",), setup="one = 1")
    code = '"""Adds.\x0c"""\nfrom __future__ import annotations\ndef f(x):\n    return x + one'
    assert values(problem, [block(code), block("def f(x):\n    return x")]) == [1, 0]


@pytest.mark.parametrize(
    ("test", "setup", "says"),
    [
        ("f(2) == 4", "", "has no `assert`: every answer passes it"),
        ("x = f(2)", "", "has no `assert`"),
        ("asser f(2) == 4", "", "its test 'asser f.* is no Python"),
        ("from __future__ import annotations\nassert f(2)", "import math", "its test .* is no Python: from"),
        ("assert f(2) == 4", "import", "its setup is no Python"),
    ],
)
def test_a_test_that_cannot_judge_is_found_beforehand(test: str, setup: str, says: str) -> None:
    reward = installed_plugins().rewards.get("code").build({})
    issue = reward.issue_with(Problem("p", Gap(""), tests=("assert f(1)", test), setup=setup))
    assert issue is not None
    assert re.search(says, issue)


@pytest.mark.parametrize("test", ["check(f)", "if f(1):\n    raise ValueError", "import x\nassert f(1)"])
def test_a_test_that_can_fail_is_fine(test: str) -> None:
    reward = installed_plugins().rewards.get("code").build({})
    assert reward.issue_with(Problem("p", Gap(""), tests=(test,))) is None

"""Problems for the contract of rewards, with right answers, wrong ones, and what no parser expects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from opendllm.registries.benchmarks import CodeExecution
from opendllm.registries.corpora import Message
from opendllm.registries.gaps import Gap
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.rewards import Reward, RewardContext

MAX_NEW_TOKENS = 64
_TESTS = ("assert f(1) == 2", "assert f(5) == 6")
PROBLEMS = (
    Problem("continue", Gap("def f(x):\n"), answer="    return x + 1", tests=_TESTS),
    Problem("ask", Gap(""), (Message("user", "Write f(x), which adds 1."),), answer="2", tests=_TESTS),
    Problem("calculate", Gap("1 + 1 = "), answer="2"),
)
BARE = Problem("bare", Gap("x = "))
"""It has nothing to compare with."""
PLAIN = (
    "",
    "2",
    " 3",
    "    return x + 1\n",
    "    return 2\n",
    "def f(x):\n    return x + 1\n",
    "```python\ndef f(x):\n    return x + 1\n```\n",
    "So:\n```python\ndef f(x):\n    return 2\n```\n",
    "```python\ndef f(x:\n```\n",
    "```javascript\nlet x = 1;\n```\n",
    "It is \\boxed{2}.",
    "<think>\n1 + 1\n</think>\n<answer>\n2\n</answer>\n",
    "<reasoning>\n1 + 1\n</reasoning>\n<answer>\n\\boxed{2}\n</answer>\n",
    "one two three " * 20,
)
ODD = (
    "\ud800",
    "\x00",
    "é 中 🙂 \u202e",
    "\r\n\t",
    "{}%s{0}\\",
    "9" * 5000,
    "1e999",
    "1/0",
    "(" * 3000,
    "`" * 50,
    "```python\n```",
    "\\boxed{" * 20,
    "\\frac{",
    "</answer><answer>",
)


def context(allowed: bool) -> RewardContext:
    """That of a run.

    Args:
        allowed: whether code may be run.
    """
    return RewardContext(CodeExecution() if allowed else None, MAX_NEW_TOKENS)


def answers_to(problem: Problem, texts: tuple[str, ...]) -> list[Completion]:
    """One answer of each text, as many tokens long as it has words, and 16 for each line."""
    return [
        Completion(problem, sample, text, tuple(range(1, len(text.split()) + 16 * text.count("\n") + 1)))
        for sample, text in enumerate(texts)
    ]


def judged(reward: Reward) -> list[Problem]:
    """The problems that a reward can judge answers to."""
    return [problem for problem in PROBLEMS if reward.issue_with(problem) is None]


def plain_answers(reward: Reward) -> list[Completion]:
    """To all of these."""
    return [answer for problem in judged(reward) for answer in answers_to(problem, PLAIN)]


def few_answers(reward: Reward) -> list[Completion]:
    """Some to the first of these, of every value that it may give."""
    problem = judged(reward)[0]
    return answers_to(problem, tuple(text for text in PLAIN if text.strip())[::2])


def writing_programs(file: Path) -> Iterator[str]:
    """Answers whose code, run anywhere but in a sandbox, leaves a file."""
    code = f"open({str(file)!r}, 'w').close()"
    yield f"{code}\n"
    yield f"    {code}\n    return x + 1\nf(1)\n"
    yield f"```python\n{code}\ndef f(x):\n    return x + 1\n```\n"


def renumbered(completions: list[Completion]) -> list[Completion]:
    """The same answers as other samples of their problems."""
    return [replace(each, sample=len(completions) - each.sample) for each in completions]


def said_by(reward: Reward) -> dict[str, list[float]]:
    """The values of a few answers, for another process."""
    allowed = context(True)
    return {"values": [float(value) for value in reward.values(few_answers(reward), allowed)]}

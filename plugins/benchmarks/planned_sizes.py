"""How many problems the published benchmarks have, and how long they are: facts of their files, for planning.

Characters are means over a file's problems, as the benchmark asks them by default. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from opendllm.core.scoring.infilling_lengths import Length
from opendllm.registries import PlannedTexts

HUMANEVAL = PlannedTexts(164, left=451)
MBPP_TEST, MBPP_ALL = PlannedTexts(500, left=278), PlannedTexts(974, left=273)
MBPP_SANITIZED_TEST, MBPP_SANITIZED_ALL = PlannedTexts(257, left=284), PlannedTexts(427, left=289)
MBPP_PLUS = {
    "evalplus": PlannedTexts(378, left=158),
    "open-dllm": PlannedTexts(378, left=318),
    "instruct": PlannedTexts(378, left=407),
}
HUMANEVAL_INFILLING = {"single-line": 1033, "multi-line": 5815, "random-span": 1640, "random-span-light": 164}
"""Problems of each subset (github.com/openai/human-eval-infilling)."""
_HIDDEN = {"single-line": 29, "multi-line": 90, "random-span": 90, "random-span-light": 90}
"""Characters that are hidden; of those but single-line's, half of a solution's 181."""
_PROGRAM = 806
"""Characters of one of its programs, of which .83 stand before what is hidden in single-line."""
SANTACODER = {
    "py": PlannedTexts(1043, left=686, right=170, reference=28),
    "js": PlannedTexts(1969, left=713, right=178, reference=22),
    "java": PlannedTexts(1780, left=1173, right=208, reference=28),
}
STDLIB_INFILLING = {4: (123, 75), 24: (264, 120)}
"""Lines of context -> characters before and after the hidden line, of 28; in between, lines count."""
SYNTHETIC_FUNCTIONS = {1: (45, 45), 2: (1812, 56)}
"""Most steps -> held-out functions, and characters of the first 64's prompts."""


def at_lengths(texts: PlannedTexts, lengths: Iterable[Length]) -> Sequence[PlannedTexts]:
    """The same problems at every length; they know their reference's."""
    return [
        PlannedTexts(texts.count, texts.left, texts.right, None, texts.reference)
        if length == "oracle"
        else PlannedTexts(texts.count, texts.left, texts.right, length)
        for length in lengths
    ]


def humaneval_infilling(subset: str) -> PlannedTexts:
    """A subset's problems."""
    hidden = _HIDDEN[subset]
    left = 0.83 * (_PROGRAM - hidden)
    return PlannedTexts(HUMANEVAL_INFILLING[subset], left, _PROGRAM - hidden - left, reference=hidden)


def stdlib_infilling(problems: int, context_lines: int) -> PlannedTexts:
    """So many hidden lines with so many lines of context."""
    share = min(1.0, max(0.0, (context_lines - 4) / 20))
    few, many = STDLIB_INFILLING[4], STDLIB_INFILLING[24]
    if context_lines < 4:
        left, right = few[0] * context_lines / 4, few[1] * context_lines / 4
    else:
        left, right = (a + share * (b - a) for a, b in zip(few, many, strict=True))
    return PlannedTexts(problems, left, right, reference=28)


def synthetic_functions(problems: int, most_steps: int) -> PlannedTexts:
    """Made-up functions of one step, or mostly two; there are so many."""
    count, left = SYNTHETIC_FUNCTIONS[most_steps]
    return PlannedTexts(min(problems, count), left)

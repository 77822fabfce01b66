"""Whether answers have the form that they were asked for; the page on rewards says which forms there are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from opendllm.plugins.rewards import FormatOptions
from opendllm.plugins.rewards.code_block import is_one_block, python_block_value
from opendllm.plugins.rewards.sections import last_section
from opendllm.registries.problems import Completion
from opendllm.registries.rewards import Reward, RewardContext

_THINK = re.compile(r"<think>\n.*?\n</think>\n<answer>\n.*?\n</answer>$", re.DOTALL | re.MULTILINE)
_STRICT = r"<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$"
_LOOSE = r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>"
_THINK_TAGS = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")
_REASONING_TAGS = ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>")


class FormatReward(Reward):
    """One of the published forms; those that d1 and dllm halve are whole here."""

    def __init__(self, options: FormatOptions) -> None:
        if options.form == "code-block":
            self._value = _block_value(options.language)
        else:
            self._value = _FORMS[options.form]
        if options.form == "reasoning-answer-tags":
            self.bounds = (-math.inf, 1.002)

    def values(self, completions: Sequence[Completion], context: RewardContext) -> list[float]:
        """See `Reward.values`."""
        return [self._value(completion.text) for completion in completions]


def _block_value(language: str) -> Callable[[str], float]:
    if language == "python":
        return python_block_value
    return lambda text: float(is_one_block(text, language))


def _matches(pattern: str | re.Pattern[str], flags: int = 0) -> Callable[[str], float]:
    compiled = re.compile(pattern, flags)
    return lambda text: float(compiled.match(text) is not None)


def _share_of_tags(text: str, tags: Sequence[str]) -> float:
    return sum(text.count(tag) == 1 for tag in tags) / len(tags)


def _reasoning_tags_value(text: str) -> float:
    """What follows is counted as published: after the line of the last tag, and after that tag.

    Two such lines that share a newline are one, the first.
    """
    value = _share_of_tags(text, _REASONING_TAGS)
    if text.count("\n<answer>\n") == 1:
        value -= 0.002 * len(text.split("\n</answer>\n")[-1])
    if text.count("\n</answer>") == 1:
        value -= 0.002 * (len(text.rpartition("\n</answer>")[2]) - 1)
    return value


def _boxed_value(text: str) -> float:
    """The box of an answer stands in its first section, which nothing has to close."""
    _, opened, section = text.partition("<answer>")
    section = section.partition("<answer>")[0].partition("</answer>")[0]
    return 0.25 + 0.5 * bool(opened) + 0.25 * ("\\boxed" in (section if opened else text))


_FORMS: Mapping[str, Callable[[str], float]] = {
    "think-answer": _matches(_THINK),
    "think-answer-tags": lambda text: _share_of_tags(text, _THINK_TAGS),
    "reasoning-answer": _matches(_STRICT, re.DOTALL),
    "reasoning-answer-one-line": _matches(_STRICT),
    "reasoning-answer-loose": _matches(_LOOSE, re.DOTALL),
    "reasoning-answer-loose-one-line": _matches(_LOOSE),
    "reasoning-answer-tags": _reasoning_tags_value,
    "integer-answer": lambda text: float(last_section(text, "answer").isdigit()),
    "boxed-answer": _boxed_value,
}

"""Whether a mathematical answer is right, as the benchmark MATH compares it (arXiv:2103.03874)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from opendllm.plugins.rewards import MathOptions
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.rewards import Reward, RewardContext

_BOX = "\\boxed"
_DROPPED = ("\n", "\\!", "\\left", "\\right", "^{\\circ}", "^\\circ", "\\$")
_UNIT = "\\text{ "
_SHORT_ROOT = re.compile(r"\\sqrt(?!\{)(.)")
_SHORT_FRACTION = re.compile(r"\\frac(?!\{)(.)(\{.*?\}|.)")
_QUOTIENT = re.compile(r"(-?\d+)/(-?\d+)", re.ASCII)
_FRACTION = re.compile(r"(-?)\\frac\{(-?\d+)\}\{(-?\d+)\}", re.ASCII)
_DECIMAL = re.compile(r"-?\d+(\.\d*)?", re.ASCII)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(\D|$))", re.ASCII)
_LONGEST_NUMBER = 1000


class MathReward(Reward):
    """1 where what stands in the last box, or else the whole text, is the problem's answer; else 0."""

    def __init__(self, options: MathOptions) -> None:
        self._equal_numbers = options.equal_numbers

    def values(self, completions: Sequence[Completion], context: RewardContext) -> list[float]:
        """See `Reward.values`."""
        return [self._value(completion.text, completion.problem.answer or "") for completion in completions]

    def issue_with(self, problem: Problem) -> str | None:
        """It compares with the problem's answer, boxed or not."""
        return None if problem.answer is not None else "it has no `answer`"

    def _value(self, text: str, answer: str) -> float:
        given, right = (normalised(boxed(each)) for each in (text, answer))
        if self._equal_numbers and (number := number_of(given)) is not None:
            return float(number == number_of(right))
        return float(given == right)


def boxed(text: str) -> str:
    r"""What stands in the last `\boxed{...}`, or after the last `\boxed ` up to a dollar sign.

    All of the text where there is none, or the last one isn't closed.
    """
    _, open_box, rest = text.rpartition(f"{_BOX} ")
    if open_box:
        return rest.partition("$")[0]
    start = text.rfind(f"{_BOX}{{")
    if start < 0 or start != text.rfind(_BOX):
        return text
    depth = 0
    for place in range(start + len(_BOX), len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return text[start + len(_BOX) + 1 : place]
    return text


def normalised(answer: str) -> str:
    """An answer without what means nothing: spaces, units, per cent, short forms of fractions and roots."""
    for dropped in _DROPPED[:2]:
        answer = answer.replace(dropped, "")
    answer = answer.replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    for dropped in _DROPPED[2:]:
        answer = answer.replace(dropped, "")
    if answer.count(_UNIT) == 1:
        answer = answer.partition(_UNIT)[0]
    answer = answer.replace("\\%", "").replace("%", "").replace(" .", " 0.").replace("{.", "{0.")
    if answer.startswith("."):
        answer = f"0{answer}"
    name, equals, value = answer.partition("=")
    if equals and "=" not in value and len(name) <= 2:
        answer = value
    answer = _SHORT_ROOT.sub(r"\\sqrt{\1}", answer).replace(" ", "")
    answer = _SHORT_FRACTION.sub(_whole_fraction, answer)
    if answer == "0.5":
        return "\\frac{1}{2}"
    quotient = _QUOTIENT.fullmatch(answer)
    return f"\\frac{{{quotient[1]}}}{{{quotient[2]}}}" if quotient else answer


def number_of(answer: str) -> Fraction | None:
    """The rational number that a normalised answer writes; None where it is none."""
    if len(answer) > _LONGEST_NUMBER:
        return None
    answer = _THOUSANDS.sub("", answer)
    fraction = _FRACTION.fullmatch(answer)
    if fraction:
        sign, above, below = fraction.groups()
        return None if int(below) == 0 else Fraction(int(f"{sign}1") * int(above), int(below))
    return Fraction(answer) if _DECIMAL.fullmatch(answer) else None


def _whole_fraction(found: re.Match[str]) -> str:
    r"""\frac12 and \frac1{2} as \frac{1}{2}."""
    above, below = found.groups()
    return f"\\frac{{{above}}}{below if below.startswith('{') else f'{{{below}}}'}"

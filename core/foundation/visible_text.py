r"""Text that others wrote, for people to read: nothing in it is unseen, steers a terminal or reorders a line.

Spelt are the categories Cc, Cf, Cs, Zl, Zp and Zs of Unicode but for line ends, tabs and the space, what has
the property Default_Ignorable_Code_Point, and the few signs that are drawn as nothing all the same (the blank
of Braille, a note without a head). Some of these have their place in ordinary text: the joiner and the
variation selectors of an emoji, the space of Chinese, the signs before an Arabic number. They are spelt too,
since whoever reads a sample is to see what a model wrote, and not what looks like it.
"""

from __future__ import annotations

import re

UNSEEN = (
    (0x0, 0x8), (0xB, 0x1F), (0x7F, 0xA0), (0xAD, 0xAD), (0x34F, 0x34F), (0x600, 0x605), (0x61C, 0x61C),
    (0x6DD, 0x6DD), (0x70F, 0x70F), (0x890, 0x891), (0x8E2, 0x8E2), (0x115F, 0x1160), (0x1680, 0x1680),
    (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2000, 0x200F), (0x2028, 0x202F), (0x205F, 0x206F),
    (0x2800, 0x2800), (0x3000, 0x3000), (0x3164, 0x3164), (0xD800, 0xDFFF), (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFB), (0x110BD, 0x110BD), (0x110CD, 0x110CD), (0x13430, 0x1343F), (0x1BCA0, 0x1BCA3),
    (0x1D159, 0x1D159), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
)  # fmt: skip
"""First and last code point of each run that is spelt; the pages' scripts are given the same."""
_UNSEEN = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSEEN) + "]")
_LINES = re.compile("[\t\n]")


def visible(text: str) -> str:
    r"""Spells what can't be seen or moves what can, as in `\x1b`, `\u200b` or `\U000e0041`.

    Line ends and tabs stay; every other sign that can be read does, too.
    """
    return _UNSEEN.sub(_spelt, text)


def visible_line(text: str) -> str:
    """The same in one line: line ends and tabs are spelt, too."""
    return _LINES.sub(_spelt, visible(text))


def _spelt(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

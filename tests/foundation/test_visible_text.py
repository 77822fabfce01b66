"""What can't be seen is spelt."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendllm.core.foundation.visible_text import UNSEEN, visible, visible_line

SPELT_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"}
IGNORABLE = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180f\u2065\u3164\ufe0f\uffa0\ufff0\U000e0000\U000e0100\U000e0fff"
)
"""Signs of Default_Ignorable_Code_Point, which `unicodedata` doesn't know, of other categories than Cf."""
DRAWN_AS_NOTHING = "\u2800\U0001d159"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\x9b31mb", r"a\x9b31mb"),
        ("\x00\x07\r\x7f", r"\x00\x07\x0d\x7f"),
        ("\u202edrawkcab\u2066\u200f", r"\u202edrawkcab\u2066\u200f"),
        ("\ud83d and \ufeff\u200b", r"\ud83d and \ufeff\u200b"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("\U000e0041\U000e007f", r"\U000e0041\U000e007f"),
        ("\u3164", r"\u3164"),
        ("a\u00a0b\u2003c\u3000d", r"a\xa0b\u2003c\u3000d"),
        ("❤\ufe0f", r"❤\ufe0f"),
        ("plain\ttext,\nüñí 中文 😀 אב é́ \ue000", "plain\ttext,\nüñí 中文 😀 אב é́ \ue000"),
    ],
)
def test_what_cannot_be_seen_or_moves_the_rest_is_spelt(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_a_line_has_its_ends_spelt_too() -> None:
    assert visible_line("a\tb\r\nc\u2028 añ 語") == r"a\x09b\x0d\x0ac\u2028 añ 語"


def test_every_sign_of_the_categories_is_spelt() -> None:
    """By this Python's own tables; a sign that a later Unicode has put into one of them fails here."""
    spelt = {code for first, last in UNSEEN for code in range(first, last + 1)}
    wanted = {
        code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in SPELT_CATEGORIES
    } - set(map(ord, " \t\n"))
    assert {f"{code:x}" for code in wanted - spelt} == set()
    more = {chr(code) for code in spelt - wanted if unicodedata.category(chr(code)) != "Cn"}
    kept = {f"{ord(sign):x} {unicodedata.name(sign)}" for sign in more}
    assert all("VARIATION SELECTOR" in each or chr(int(each.split()[0], 16)) in IGNORABLE + DRAWN_AS_NOTHING
               for each in kept), kept  # fmt: skip
    assert all(ord(sign) in spelt for sign in IGNORABLE + DRAWN_AS_NOTHING)


@given(st.text(st.characters()))
def test_what_is_shown_can_be_seen_and_what_was_seen_is_shown(text: str) -> None:
    shown = visible(text)
    assert {unicodedata.category(sign) for sign in shown} & SPELT_CATEGORIES <= {"Cc", "Zs"}
    assert {sign for sign in shown if unicodedata.category(sign) in ("Cc", "Zs")} <= set(" \t\n")
    assert visible(shown) == shown
    assert visible_line(text).splitlines() in ([], [visible_line(text)])
    kept = [sign for sign in text if visible(sign) == sign]
    remaining = iter(shown)
    assert all(sign in remaining for sign in kept)  # in their order

"""What can't be seen is spelt."""

from __future__ import annotations

import pytest

from opendllm.core.foundation.visible_text import visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\x9b31mb", r"a\x9b31mb"),
        ("\x00\x07\r\x7f", r"\x00\x07\x0d\x7f"),
        ("\u202edrawkcab\u2066\u200f", r"\u202edrawkcab\u2066\u200f"),
        ("\ud83d and \ufeff\u200b", r"\ud83d and \ufeff\u200b"),
        ("plain\ttext,\nüñí 中文 😀 אב", "plain\ttext,\nüñí 中文 😀 אב"),
    ],
)
def test_control_characters_marks_of_direction_and_lone_surrogates(text: str, expected: str) -> None:
    assert visible(text) == expected

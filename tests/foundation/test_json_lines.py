"""JSON lines as others write them: packed, marked, cut short, damaged."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendllm.core.foundation.json_lines import json_lines, parsed_lines
from opendllm.registries.errors import UserError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(), values, max_size=4)


@given(content=st.lists(objects, max_size=6), escaped=st.booleans(), newline_at_end=st.booleans())
def test_what_was_written_is_read(content: list[Any], escaped: bool, newline_at_end: bool) -> None:
    texts = [json.dumps(each, ensure_ascii=escaped) for each in content]
    lines = [text.encode("utf-8", "surrogatepass") + b"\n" for text in texts]
    if lines and not newline_at_end:
        lines[-1] = lines[-1].removesuffix(b"\n")
    found = list(parsed_lines(lines))
    assert [line.content for line in found] == content
    assert [line.number for line in found] == list(range(1, len(content) + 1))
    assert [line.complete for line in found] == [True] * (len(content) - 1) + [newline_at_end] * bool(content)
    assert not any(line.issue for line in found)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_gzip_and_byte_order_marks_are_known_by_their_first_bytes(
    tmp_path: Path, packed: bool, mark: bytes
) -> None:
    content = mark + b'{"a": 1}\n\n  \n{"b": "\xe2\x80\xa8"}'
    path = tmp_path / "lines"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert [(line.number, line.content) for line in json_lines(path)] == [(1, {"a": 1}), (4, {"b": "\u2028"})]


def test_a_mark_elsewhere_is_no_json() -> None:
    first, second = parsed_lines([b'{"a": 1}\n', b'\xef\xbb\xbf{"a": 1}\n'])
    assert first.issue is None
    assert second.issue is not None


@pytest.mark.parametrize(
    ("line", "issue"),
    [
        (b'{"a": \n', "is not JSON (Expecting value, column "),
        (b'{"a": "\xff"}\n', "is not UTF-8 (byte 7)"),
        (b"[1]\n", "is no JSON object, but list"),
        (b"3\n", "is no JSON object, but int"),
        (b"[" * 100_000 + b"\n", "is not JSON ("),
        (b'{"a": ' + b"1" * 5000 + b"}\n", "is not JSON ("),
    ],
)
def test_a_damaged_line_is_named_and_the_others_are_read(line: bytes, issue: str) -> None:
    before, damaged, after = parsed_lines([b'{"n": 1}\n', line, b'{"n": 3}\n'])
    assert (before.content, after.content, after.number) == ({"n": 1}, {"n": 3}, 3)
    assert damaged.number == 2
    assert damaged.content == {}
    assert damaged.issue is not None
    assert damaged.issue.startswith(issue)
    assert "\n" not in damaged.issue


def test_a_packed_file_that_is_cut_short_is_read_up_to_there_and_the_line_named(tmp_path: Path) -> None:
    path = tmp_path / "lines.gz"
    lines = "".join(f'{{"n": {n}, "noise": {n * 2654435761 % 2**32}}}\n' for n in range(20_000))
    packed = gzip.compress(lines.encode())
    path.write_bytes(packed[: len(packed) // 2])
    read: list[int] = []
    with pytest.raises(UserError) as caught:
        read.extend(line.content["n"] for line in json_lines(path))
    assert read == list(range(len(read)))
    assert 0 < len(read) < 20_000
    assert str(caught.value).startswith(f"{path}:{len(read) + 1}: cannot be read: ")


def test_bytes_changed_within_a_packed_file_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "lines.gz"
    packed = bytearray(gzip.compress(b'{"a": 1}\n' * 3))
    packed[-6] ^= 1  # of the checksum
    path.write_bytes(packed)
    with pytest.raises(UserError, match="cannot be read: CRC"):
        list(json_lines(path))


def test_what_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UserError) as caught:
            list(json_lines(path))
        assert str(caught.value).startswith(f"{path} cannot be read: {reason}")

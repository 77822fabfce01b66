"""JSON lines and parquet: texts, prompts with responses, chats; what is broken is named by file and line."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from opendllm.registries.corpora import Corpus, Document, Message, Split
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError


def write(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        lines = "".join(json.dumps(record) + "\n" for record in records).encode()
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


def corpus(kind: str, pattern: Path, **options: Any) -> Corpus:
    built: Corpus = installed_plugins().corpora.get(kind).build({"train": str(pattern), **options})
    return built


def documents(found: Corpus, split: Split = "train") -> list[Document]:
    return list(found.documents(split))


KINDS = pytest.mark.parametrize(
    ("kind", "name"), [("jsonl", "a.jsonl"), ("jsonl", "a.jsonl.gz"), ("parquet", "a.parquet")]
)


@KINDS
def test_texts_of_all_files_in_order_and_one_in_twenty_held_out(tmp_path: Path, kind: str, name: str) -> None:
    texts = [f"text {number}" for number in range(400)]
    write(tmp_path / "0" / name, [{"body": text, "n": 1} for text in texts[:300]])
    write(tmp_path / "1" / name, [{"body": text, "n": 1} for text in [*texts[300:], "", "text 5"]])
    found = corpus(kind, tmp_path / "**" / name, text_field="body")
    train, held_out = documents(found), documents(found, "held-out")
    assert 8 <= len(held_out) <= 40
    split = {document.text for document in train}, {document.text for document in held_out}
    assert not split[0] & split[1]
    assert split[0] | split[1] == set(texts)
    assert [document.text for document in train if document.text in texts[300:]] == [
        text for text in texts[300:] if text in split[0]
    ]
    assert all(document.prompt is None for document in train)
    assert len({document.name for document in train + held_out}) == 401


@KINDS
def test_files_of_their_own_are_held_out(tmp_path: Path, kind: str, name: str) -> None:
    write(tmp_path / "train" / name, [{"text": f"text {number}"} for number in range(50)])
    held_out = write(tmp_path / "test" / name, [{"text": "other"}])
    found = corpus(kind, tmp_path / "train" / name, held_out=str(held_out))
    assert len(documents(found)) == 50
    assert [document.text for document in documents(found, "held-out")] == ["other"]


@KINDS
def test_prompts_with_responses(tmp_path: Path, kind: str, name: str) -> None:
    path = write(
        tmp_path / name, [{"ask": "1 + 1?", "say": "2"}, {"ask": "", "say": "3"}, {"ask": "?", "say": ""}]
    )
    found = documents(corpus(kind, path, prompt_field="ask", response_field="say", held_out=str(path)))
    assert [(document.prompt, document.text) for document in found] == [("1 + 1?", "2"), ("", "3")]


@KINDS
def test_a_chat_is_one_document_for_each_of_the_assistants_turns(
    tmp_path: Path, kind: str, name: str
) -> None:
    turns = [
        ("system", "Be brief."),
        ("user", "1 + 1?"),
        ("assistant", "2"),
        ("user", "+ 1?"),
        ("assistant", "3"),
    ]
    chat = [{"role": role, "content": content} for role, content in turns]
    path = write(tmp_path / name, [{"messages": chat}])
    one, two = documents(corpus(kind, path, messages_field="messages", held_out=str(path)))
    messages = tuple(Message(role, content) for role, content in turns)
    assert (one.prompt, one.text) == (messages[:2], "2")
    assert (two.prompt, two.text) == (messages[:4], "3")
    assert one.name != two.name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "cut sho', r"a.jsonl:3: is not JSON \(Unterminated string starting at, column 10\)"),
        (b'{"text": "\xff"}', r"a.jsonl:3: is not UTF-8 \(byte 10\)"),
        (b'["text"]', r"a.jsonl:3: is no JSON object, but list"),
        (b'{"txt": "a", "n": 1}', r"a.jsonl:3: no text in field 'text'; its fields: txt, n"),
        (b'{"text": 3}', r"a.jsonl:3: no text in field 'text'"),
        (b'{"text": "a \\ud800 b"}', r"a.jsonl:3: field 'text' is no Unicode text \(it holds '\\ud800'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n\n' + line + b"\n")
    found = corpus("jsonl", tmp_path / "a.jsonl", held_out=str(tmp_path / "a.jsonl"))
    with pytest.raises(UserError, match=message) as caught:
        documents(found)
    assert "\n" not in str(caught.value)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", [{"text": str(number)} for number in range(5000)])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"a.jsonl.gz:\d+: cannot be read"):
        documents(corpus("jsonl", path))


def test_an_archive_that_is_damaged_within_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", [{"text": str(number)} for number in range(5000)])
    content = bytearray(path.read_bytes())
    content[100:140] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.jsonl.gz:\d+: cannot be read"):
        documents(corpus("jsonl", path))


def test_a_damaged_parquet_file_and_a_missing_column_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [{"txt": "a", "n": 1}])
    with pytest.raises(UserError, match=r"a.parquet: has no column 'text'; its columns: txt, n"):
        documents(corpus("parquet", path))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"a.parquet: cannot be read from row 0 on") as caught:
        documents(corpus("parquet", path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ("hello", "is no list of messages"),
        (["hello"], "entry 1 is no message, but str"),
        ([{"role": "user"}], 'entry 1 has no "content"'),
        (
            [{"role": "user", "content": "?"}, {"role": "expert", "content": "!"}],
            "entry 2 has the role 'expert'",
        ),
        ([{"role": "user", "content": 3}], "entry 1 has a content that is no text, but int"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image_url"}]}],
            "entry 1 has a part 2 of type 'image_url'",
        ),
        ([{"role": "user", "content": "?"}, {"role": "assistant", "content": None}], "entry 2 has no"),
        ([{"role": "user", "content": "?"}], "has no message that 'assistant' answers"),
        ([{"role": "assistant", "content": "!"}], "entry 1 is the assistant's, and has no message"),
        ([{"from": "human", "value": "?"}, {"from": "gpt", "value": "\udfff"}], "entry 2 is no Unicode text"),
        (
            [
                {"role": "user", "content": "?"},
                {"role": "assistant", "content": "!", "reasoning_content": "Hm."},
            ],
            "entry 2 has 'reasoning_content', which no chat template is given here",
        ),
        (
            [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!", "weight": 0.5}],
            "entry 2 has the weight 0.5",
        ),
    ],
)
def test_a_chat_that_is_none_is_named(tmp_path: Path, chat: Any, message: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"chat": chat}])
    with pytest.raises(UserError, match=rf"a.jsonl:1: .*{message}"):
        documents(corpus("jsonl", path, messages_field="chat"))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_files_without_documents_are_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=rf"corpus {kind}: no train file matches .*nothing"):
        documents(corpus(kind, tmp_path / "nothing"))
    path = write(tmp_path / f"a.{kind}", [{"text": ""}])
    with pytest.raises(UserError, match=rf"corpus {kind}: the files of .*a.{kind}' have no train documents"):
        documents(corpus(kind, path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_field": "a"}, "prompt_field and response_field go together"),
        ({"prompt_field": "a", "response_field": "b", "text_field": "c"}, "exclude each other"),
        ({"prompt_field": "a", "response_field": "b", "messages_field": "c"}, "exclude each other"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        installed_plugins().corpora.get("jsonl").options.model_validate({"train": "a", **options})


@KINDS
def test_the_fingerprint_is_the_files_content_and_not_their_place_or_time(
    tmp_path: Path, kind: str, name: str
) -> None:
    path = write(tmp_path / "one" / name, [{"text": "abc"}])
    before, status = corpus(kind, path).fingerprint(), path.stat()
    (tmp_path / "one").rename(tmp_path / "other")
    path = tmp_path / "other" / name
    path.touch()
    assert corpus(kind, path).fingerprint() == before
    write(path, [{"text": "abd"}])
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert corpus(kind, path).fingerprint() != before


@KINDS
def test_documents_are_named_relative_to_the_glob(tmp_path: Path, kind: str, name: str) -> None:
    for place in ("here", "there/deeper"):
        path = write(tmp_path / place / "sub" / name, [{"text": "a"}])
        found = corpus(kind, tmp_path / place / "*" / name, held_out=str(path))
        assert [document.name[: -len(":0")] for document in documents(found)] == [f"sub/{name}"]


CHATS = {
    "in other capitals": [
        {"role": "System", "content": "Be brief."},
        {"role": "USER", "content": "1 + 1?"},
        {"role": "Assistant", "content": "2"},
    ],
    "parts": [
        {"role": "system", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "2"}]},
    ],
    "ShareGPT": [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "1 + 1?"},
        {"from": "gpt", "value": "2"},
    ],
}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("form", CHATS)
def test_chats_as_people_publish_them_are_one_chat(tmp_path: Path, kind: str, form: str) -> None:
    path = write(tmp_path / f"a.{kind}", [{"chat": CHATS[form]}])
    [found] = documents(corpus(kind, path, messages_field="chat", held_out=str(path)))
    assert (found.prompt, found.text) == ((Message("system", "Be brief."), Message("user", "1 + 1?")), "2")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_turn_of_weight_0_is_read_and_not_learnt(tmp_path: Path, kind: str) -> None:
    turns = [("user", "1 + 1?", None), ("assistant", "3", 0), ("user", "No.", None), ("assistant", "2", 1)]
    chat = [{"role": role, "content": content, "weight": weight} for role, content, weight in turns]
    path = write(tmp_path / f"a.{kind}", [{"messages": chat}])
    [found] = documents(corpus(kind, path, messages_field="messages", held_out=str(path)))
    assert (found.text, len(found.prompt or ())) == ("2", 3)


def test_tools_beside_the_messages_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    path = write(tmp_path / "a.jsonl", [{"messages": chat, "tools": []}, {"messages": chat, "tools": [{}]}])
    assert len(documents(corpus("jsonl", path, messages_field="messages", held_out=str(path)))) == 2
    assert "a.jsonl:2: its tools stand beside its messages" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_turn_that_calls_tools_is_read_and_not_learnt(tmp_path: Path, kind: str) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 1}'}}
    chat = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "It is 2."},
    ]
    path = write(tmp_path / f"a.{kind}", [{"messages": chat}])
    [found] = documents(corpus(kind, path, messages_field="messages", held_out=str(path)))
    assert found.text == "It is 2."
    assert isinstance(found.prompt, tuple)
    assert [message.role for message in found.prompt] == ["user", "assistant", "tool"]
    [made] = found.prompt[1].tool_calls
    assert (found.prompt[1].content, made["function"]["arguments"]) == ("", {"a": 1, "b": 1})


@pytest.mark.parametrize("held_out", [True, False])
def test_bad_records_are_left_out_and_counted_where_that_is_asked_for(tmp_path: Path, held_out: bool) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": f"text {number}"} for number in range(100)])
    path.write_text(path.read_text() + '{"text": 3}\n{"text": "cut sho\n')
    options = {"held_out": str(path)} if held_out else {}
    with pytest.raises(UserError, match=r"a.jsonl:101: no text in field 'text'.*`on_bad_record: skip`"):
        documents(corpus("jsonl", path, **options))
    found = corpus("jsonl", path, on_bad_record="skip", **options)
    for _ in range(2):  # each reading counts anew
        assert len(documents(found)) == 100 if held_out else 80 < len(documents(found)) < 100
        assert found.skipped("train").count == 2
        assert "a.jsonl:101: no text" in found.skipped("train").first
    documents(found, "held-out")
    assert found.skipped("held-out").count == (2 if held_out else 0)
    assert found.fingerprint() != corpus("jsonl", path, **options).fingerprint()


@pytest.mark.parametrize("text", ['[{"text": "a"},\n{"text": "b"}]\n', "[\n{}\n]", '["a"]'])
def test_a_json_array_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text("\n" + text)
    with pytest.raises(UserError, match=r"a.json:2: begins a JSON array.*jq -c"):
        documents(corpus("jsonl", tmp_path / "a.json"))


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}\r\n')
    found = documents(corpus("jsonl", path, held_out=str(path)))
    assert [(document.text, document.name) for document in found] == [("a", "a.jsonl:1"), ("b", "a.jsonl:3")]


def test_half_a_character_in_a_chat_is_named(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "\udfff"}, {"role": "assistant", "content": "!"}]
    path = write(tmp_path / "a.jsonl", [{"chat": chat}])
    with pytest.raises(UserError, match=r"a.jsonl:1: field 'chat': entry 1 is no Unicode text"):
        documents(corpus("jsonl", path, messages_field="chat", held_out=str(path)))


def test_the_fingerprint_changes_with_the_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "a", "title": "b"}])
    found = {corpus("jsonl", path, text_field=field).fingerprint() for field in ("text", "title")}
    assert len(found) == 2


@KINDS
def test_a_null_is_an_empty_text(tmp_path: Path, kind: str, name: str) -> None:
    pairs = [{"q": "1?", "a": "one"}, {"q": None, "a": "two"}, {"q": "3?", "a": None}]
    path = write(tmp_path / name, pairs)
    found = corpus(kind, path, prompt_field="q", response_field="a", held_out=str(path))
    assert [(document.prompt, document.text) for document in documents(found)] == [("1?", "one"), ("", "two")]
    found = corpus(kind, path, text_field="a", held_out=str(path))
    assert [document.text for document in documents(found)] == ["one", "two"]


@KINDS
def test_a_corpus_too_small_to_hold_anything_out_says_so(tmp_path: Path, kind: str, name: str) -> None:
    found = corpus(kind, write(tmp_path / name, [{"text": "a"}, {"text": "b"}]))
    assert len(documents(found)) == 2
    with pytest.raises(UserError, match="no held-out documents; one record in twenty is, by its text"):
        documents(found, "held-out")

"""Servers that fail: named in one line, asked again where that makes sense, and gone on with later."""

from __future__ import annotations

import dataclasses
import email.utils
import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.endpoints import server as server_module
from opendllm.registries.errors import UserError

from .conftest import HUMANEVAL, Evaluate
from .fake_server import Answering, Asked, FakeServer, Reply, completion

GOES_ON = "what was answered is kept: the same command goes on from there"
TOKEN = "sk-very-secret-1234"
HTML = Reply(b"<!DOCTYPE html><html><body>Welcome</body></html>", headers={"Content-Type": "text/html"})
FAULTS: dict[str, tuple[Reply, str]] = {
    "html": (HTML, "answers what is no JSON: an HTML page"),
    "half of it": (
        Reply({"choices": [{"text": "x" * 99}]}, stops_after=40),
        "breaks off: peer closed connection without sending complete message body",
    ),
    "cut JSON": (Reply(b'{"choices": [{"text": "x'), 'answers what is no JSON: \'{"choices": '),
    "nothing": (Reply(b""), "answers what is no JSON: nothing"),
    "bytes": (Reply(b'{"choices": [{"text": "\xff\xfe"}]}'), "answers what is no JSON"),
    "packed": (Reply(b"\x1f\x8b\x08\x00junk"), "answers what is no JSON: '"),
    "NaN": (Reply(b'{"choices": [{"text": "a"}], "usage": {"completion_tokens": NaN}}'), "is no JSON: "),
    "deep": (Reply(b"[" * 50_000), "answers what is no JSON"),
    "a list": (Reply(["text"]), "answers without `choices`"),
    "no choice": (Reply({"choices": []}), "answers without `choices`"),
    "null choices": (Reply({"choices": None}), "answers without `choices`"),
    "no text": (Reply({"choices": [{"index": 0}]}), "answers with a choice that has no text"),
    "a number": (Reply({"choices": [{"text": 7}]}), "answers with a choice that has no text"),
    "an error": (Reply({"error": {"message": "out of memory"}}), "answers 200 with an error in it"),
    "much": (Reply(b'"' + b"x" * 70_000 + b'"'), "answers more than"),
    "429": (Reply({"error": {"message": "slow down"}}, 429), "asks for fewer requests (429: slow down)"),
    "500": (Reply({"error": "boom"}, 500), "fails (500: boom)"),
    "503": (Reply(HTML.content, 503), "fails (503: an HTML page)"),
    "502": (Reply({"detail": [{"msg": "bad gateway"}]}, 502), 'fails (502: [{"msg": "bad gateway"}])'),
}
"""What a server may say of any request, and how it is named."""


@pytest.fixture(autouse=True)
def small_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LARGEST_ANSWER", 1 << 16)


def always(reply: Reply) -> Answering:
    return lambda asked, before: reply


def once_in_a_while(server: FakeServer, reply: Reply) -> Answering:
    """The first time that something is asked it fails."""
    return lambda asked, before: completion(asked) if before else reply


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_asked_again_named_and_gone_on_with(
    server: FakeServer, evaluate: Evaluate, name: str
) -> None:
    reply, named = FAULTS[name]
    whole = server.answering

    def after_two(asked: Asked, before: int) -> Reply:
        return whole(asked, before) if len(server.asked) <= 2 else reply

    server.answering = after_two
    with pytest.raises(UserError) as caught:
        evaluate({"concurrency": 1})
    message = str(caught.value)
    assert message.startswith(f"tiny at {server.url} ")
    assert named in message
    assert message.endswith(f", 3 times in a row; {GOES_ON}")
    assert "\n" not in message
    assert len(message) < 500
    assert len(server.asked) == 2 + 3
    server.answering = whole
    found = evaluate({"concurrency": 1})
    assert len(server.asked) == 2 + 3 + 2  # only what was missing
    assert len({text for *_, text, _, _ in found.texts()}) == 4


@pytest.mark.parametrize("name", ["html", "half of it", "429", "503", "no choice"])
def test_what_is_answered_the_second_time_is_as_if_nothing_had_been(
    server: FakeServer, evaluate: Evaluate, name: str
) -> None:
    calm = evaluate(folder="calm")
    server.asked.clear()
    server.answering = once_in_a_while(server, FAULTS[name][0])
    assert evaluate(folder="troubled").texts() == calm.texts()
    assert len(server.asked) == 8


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        (
            Reply({"error": {"message": "Incorrect API key"}}, 401),
            "refuses the token, or wants one (401: Incorrect",
        ),
        (Reply({"error": "no"}, 403), "refuses the token, or wants one (403: no): see token_env"),
        (Reply({"error": {"message": "bad field"}}, 400), "refuses the request (400: bad field)"),
        (Reply({"object": "error", "message": "bad"}, 422), "refuses the request (422: bad)"),
        (Reply({"detail": "Not Found"}, 404), "knows no such path or model (404: Not Found)"),
        (
            Reply(b"", 302, {"Location": "https://elsewhere.example/v1?key=secret"}),
            "redirects to https://elsewhere.",
        ),
        (Reply(b"", 308, {"Location": "/v2/completions"}), "redirects to /v2/completions (308)"),
    ],
)
def test_what_asking_again_cannot_mend_ends_the_run_at_once(
    server: FakeServer, evaluate: Evaluate, reply: Reply, named: str
) -> None:
    server.answering = always(reply)
    with pytest.raises(UserError) as caught:
        evaluate({"concurrency": 1})
    assert named in str(caught.value)
    assert "secret" not in str(caught.value)
    assert len(server.asked) == 1


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize(
    "said",
    [
        "'max_tokens' is too large: 8192. This model's maximum context length is 4096",
        "Invalid input: temperature is too large, maximum 2",
    ],
)
def test_where_a_short_prompt_is_too_long_as_well_no_problem_is_failed(
    server: FakeServer, evaluate: Evaluate, api: str, said: str
) -> None:
    """What the server doesn't take is in all requests: nothing is on file, and the next run asks all."""

    def answer(asked: Asked, before: int) -> Reply:
        refused = Reply({"error": {"message": said}}, 400)
        return completion(asked) if len(server.all) > asked_before else refused

    asked_before = 1000
    server.answering = answer
    with pytest.raises(UserError, match=r"refuses a prompt of a few tokens, too: .*is too large"):
        evaluate({"concurrency": 1, "api": api})
    assert len(server.asked) == 1
    asked_before = 0
    assert {failure for *_, failure in evaluate({"concurrency": 1, "api": api}).texts()} == {None}


def test_a_redirect_is_not_followed_with_the_token(
    server: FakeServer, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_TOKEN", TOKEN)
    server.answering = always(Reply(b"", 307, {"Location": f"{server.url}/elsewhere"}))
    with pytest.raises(UserError, match="which isn't followed"):
        evaluate({"token_env": "SERVER_TOKEN", "concurrency": 1})
    assert [asked.path for asked in server.all] == ["/v1/models", "/v1/completions"]


def test_an_unknown_model_is_told_with_those_there_are(server: FakeServer, evaluate: Evaluate) -> None:
    server.answering = always(Reply({"error": {"message": "The model `tinny` does not exist."}}, 404))
    with pytest.raises(UserError, match=r"does not exist.*of its models, did you mean 'tiny'"):
        evaluate({"model": "tinny"})


def test_a_server_that_is_not_there(evaluate: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    """Which the first try says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(UserError, match=r"cannot be reached: .*, 3 times in a row"):
            evaluate({"endpoint": f"http://127.0.0.1:{port}"})
    [said] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "cannot be reached: " in said
    assert "it is asked up to 3 times: is it started, and the URL right?" in said


def test_a_host_that_has_no_such_name(evaluate: Evaluate) -> None:
    with pytest.raises(UserError, match="cannot be reached: "):
        evaluate({"endpoint": f"http://{'a' * 70}.invalid/v1"})


def test_without_its_package_nothing_is_asked(
    server: FakeServer, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(UserError, match=r"asking a server needs httpx2: pip install 'open-dllm\[serve\]'"):
        evaluate()
    assert server.all == []


def test_https_to_a_server_that_has_none_is_named(server: FakeServer, evaluate: Evaluate) -> None:
    with pytest.raises(UserError, match=r"cannot be reached: .*(SSL|TLS|record)"):
        evaluate({"endpoint": server.url.replace("http:", "https:")})


@pytest.mark.parametrize("how", ["silent", "dripping"])
def test_a_server_that_takes_too_long_is_left(server: FakeServer, evaluate: Evaluate, how: str) -> None:
    """However it keeps the connection busy: the limit is one on the whole answer."""
    let_go = threading.Event()
    drip = Reply(completion(Asked("", {}, {"seed": 1})).body, pauses=0.05)
    server.answering = always(Reply(b"", waits=let_go) if how == "silent" else drip)
    try:
        with pytest.raises(UserError, match=r"doesn't answer within 0.2 s, 2 times in a row"):
            evaluate({"timeout": 0.2, "concurrency": 1, "retries": {"attempts": 2, "first_delay": 0}})
    finally:
        let_go.set()
    assert len(server.asked) == 2


def test_retry_after_is_waited_for(server: FakeServer, evaluate: Evaluate, waits: list[float]) -> None:
    """In seconds or until a date; and one that says neither counts for nothing."""
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    told = ["7", soon, "whenever"]

    def busy(asked: Asked, before: int) -> Reply:
        return Reply(b"", 429, {"Retry-After": told[before]}) if before < 3 else completion(asked)

    server.answering = busy
    evaluate({"concurrency": 1, "retries": {"attempts": 4, "first_delay": 0.001}}, limit=1)
    assert waits[0] == 7
    assert 20 < waits[1] <= 30
    assert waits[2] < 1


def test_delays_grow_up_to_the_longest_and_differ_by_chance(
    server: FakeServer, evaluate: Evaluate, waits: list[float]
) -> None:
    server.answering = always(Reply(b"", 500))
    with pytest.raises(UserError, match="6 times in a row"):
        evaluate({"concurrency": 1, "retries": {"attempts": 6, "first_delay": 2, "longest_delay": 10}})
    for waited, whole in zip(waits, [2, 4, 8, 10, 10], strict=True):
        assert whole / 2 <= waited <= whole
    assert len(set(waits)) == 5


def test_one_that_asks_for_hours_ends_the_run(
    server: FakeServer, evaluate: Evaluate, waits: list[float]
) -> None:
    server.answering = always(Reply(b"", 429, {"Retry-After": "7200"}))
    with pytest.raises(UserError, match=r"for 7200 s, which is more than retries\.longest_delay of 60"):
        evaluate({"concurrency": 1})
    assert waits == []


def test_the_manifest_says_what_is_asked_again(server: FakeServer, evaluate: Evaluate) -> None:
    server.answering = always(Reply({"error": "boom"}, 500))
    with pytest.raises(UserError, match=r"fails \(500: boom\); what was answered"):
        evaluate({"concurrency": 1, "retries": {"after": [429, "timeout"]}})
    assert len(server.asked) == 1
    server.answering = lambda asked, before: completion(asked) if before else Reply({"error": "teapot"}, 418)
    evaluate({"concurrency": 1, "retries": {"after": [418], "first_delay": 0}})


def test_odd_texts_are_kept_as_they_are(server: FakeServer, evaluate: Evaluate) -> None:
    """But for half a surrogate pair, which no file and no program can hold."""
    odd = 'né\0 \u202e\U0001f600 "\\" \ud83d'
    content = json.dumps({"choices": [{"text": odd, "finish_reason": "stop"}, {"text": "a second choice"}]})
    server.answering = always(Reply(content.encode()))
    [text, *_] = {text for *_, text, _, _ in evaluate().texts()}
    assert text == 'né\0 \u202e\U0001f600 "\\" \ufffd'


def test_thoughts_without_an_answer_are_an_empty_text(server: FakeServer, evaluate: Evaluate) -> None:
    message = {"content": None, "reasoning_content": "hmm"}
    server.answering = always(Reply({"choices": [{"message": message, "finish_reason": "length"}]}))
    assert {(text, ended) for *_, text, ended, _ in evaluate({"api": "chat"}).texts()} == {("", False)}


def test_the_token_is_sent_and_written_nowhere(
    server: FakeServer, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SERVER_TOKEN", f"{TOKEN}\n")
    evaluate({"token_env": "SERVER_TOKEN"}, stages=("evaluate", "report"))
    assert {asked.headers["Authorization"] for asked in server.all} == {f"Bearer {TOKEN}"}
    server.answering = always(Reply({"error": {"message": f"bad key {TOKEN}\nand more"}}, 401))
    with pytest.raises(UserError, match=r"bad key \(the token\)\)") as caught:
        evaluate({"token_env": "SERVER_TOKEN"}, folder="refused")
    assert TOKEN not in str(caught.value)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (None, "is not set"),
        ("  ", "is not set"),
        ("two words", "holds a space"),
        ("schlüssel", "holds a space or"),
    ],
)
def test_a_token_that_cannot_be_one_is_refused_before_anything_is_asked(
    server: FakeServer, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, value: str | None, named: str
) -> None:
    monkeypatch.delenv("SERVER_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("SERVER_TOKEN", value)
    with pytest.raises(UserError, match=f"environment variable SERVER_TOKEN.* {named}") as caught:
        evaluate({"token_env": "SERVER_TOKEN"})
    assert value is None or value.strip() == "" or value not in str(caught.value)
    assert server.all == []


def test_without_a_token_none_is_sent(server: FakeServer, evaluate: Evaluate) -> None:
    evaluate()
    assert not any("Authorization" in asked.headers for asked in server.all)


def test_proxies_are_the_environments_but_not_for_this_machine(
    server: FakeServer, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake server plays the proxy, which is asked for the whole URL."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1").replace("http://", "http://me:secret@"))
    evaluate(folder="direct")
    assert all(asked.path.startswith("/v1") for asked in server.all)
    evaluate({"endpoint": "http://models.example:8000"}, folder="through")
    assert server.asked[-1].path == "http://models.example:8000/v1/completions"
    server.answering = always(Reply(b'{"cho', stops_after=3))
    with pytest.raises(UserError, match="through the proxy that the environment names") as caught:
        evaluate({"endpoint": "http://models.example:8000"}, folder="broken")
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("HTTP_PROXY", "socks9://nowhere")
    with pytest.raises(UserError, match="the proxy or certificates that the environment names can't be used"):
        evaluate({"endpoint": "http://models.example:8000"}, folder="odd")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were to be waited between tries; nobody waits."""
    import anyio

    found: list[float] = []

    async def note(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(anyio, "sleep", note)
    return found


def test_nothing_is_asked_of_a_run_that_is_whole(server: FakeServer, evaluate: Evaluate) -> None:
    """The server may be gone by then; what it served is remembered."""
    before = evaluate()
    asked = len(server.all)
    server.answering = always(Reply(b"", 500))
    server.models = Reply(b"", 500)
    assert evaluate().about() == before.about()
    assert len(server.all) == asked


def test_answers_of_another_server_or_setting_are_not_taken_for_this_ones(
    server: FakeServer, evaluate: Evaluate
) -> None:
    evaluate()
    changes: list[dict[str, Any]] = [{"model": "other"}, {"extra_body": {"steps": 4}}, {"api": "chat"}]
    for change in changes:
        with pytest.raises(UserError, match="was made with other settings or another model"):
            evaluate(change)
    with pytest.raises(UserError, match="was made with other settings or another model"):
        evaluate(generate={"max_new_tokens": 13, "temperature": 0.5})
    asked = len(server.all)
    evaluate(
        {"timeout": 5, "concurrency": 2, "retries": {"attempts": 1}}
    )  # how it is reached changes nothing
    assert len(server.all) == asked


def test_a_list_of_models_that_is_none_is_no_reason_to_wait(
    server: FakeServer, evaluate: Evaluate, waits: list[float]
) -> None:
    for odd in (HTML, Reply({"data": "?"}), Reply([]), Reply({"data": [7, {"id": 8}, {"id": "tiny"}]})):
        server.models = odd
        about = evaluate(folder=str(id(odd))).about()
        expected = ["tiny"] if isinstance(odd.content, dict) and len(odd.content["data"]) == 3 else None
        assert about["provenance"]["endpoint"]["served_models"] == expected
    assert waits == []


def test_a_token_that_leaves_the_machine_unencrypted_is_warned_of(
    server: FakeServer,
    evaluate: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SERVER_TOKEN", TOKEN)
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
    evaluate({"token_env": "SERVER_TOKEN"})
    assert "unencrypted" not in capsys.readouterr().err
    evaluate({"token_env": "SERVER_TOKEN", "endpoint": "http://models.example"}, folder="away")
    assert "goes there unencrypted, since its URL is no https" in capsys.readouterr().err


def test_more_samples_of_a_task_ask_only_for_those(server: FakeServer, evaluate: Evaluate) -> None:
    first = set(evaluate().texts())
    more = set(evaluate(entry={**HUMANEVAL, "samples_per_task": 3}).texts())
    assert len(server.asked) == len(more) == 12
    assert first < more


def test_what_is_under_way_when_another_request_ends_the_run_is_kept(
    server: FakeServer, evaluate: Evaluate
) -> None:
    """It has been paid for: of four, one is refused while the others are being written."""
    refused, arrived = threading.Event(), threading.Semaphore(0)

    def answer(asked: Asked, before: int) -> Reply:
        if refused.is_set():
            return completion(asked)
        if "rotate" not in asked.body["prompt"]:
            arrived.release()
            return dataclasses.replace(completion(asked), waits=refused)
        for _ in range(3):
            arrived.acquire()
        # Once this has been read the others may go on.
        threading.Timer(0.2, refused.set).start()
        return Reply({"error": "bad field"}, 400)

    server.answering = answer
    with pytest.raises(UserError, match="refuses the request"):
        evaluate({"concurrency": 4})
    evaluate({"concurrency": 4})
    assert len(server.asked) == 4 + 1


def test_nobody_waits_to_ask_again_once_the_run_ends(server: FakeServer, evaluate: Evaluate) -> None:
    """The other request would be asked again after an hour."""
    busy = threading.Event()

    def answer(asked: Asked, before: int) -> Reply:
        if "rotate" not in asked.body["prompt"]:
            busy.set()
            return Reply(b"", 503)
        busy.wait(60)
        return Reply({"error": "bad field"}, 400)

    server.answering = answer
    with pytest.raises(UserError, match=r"refuses the request|fails \(503"):
        evaluate({"concurrency": 4, "retries": {"first_delay": 3600, "longest_delay": 3600}})
    assert len(server.asked) == 4

"""What the official client gets from a server of two tiny models."""

from __future__ import annotations

import http.client
import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from opendllm.core import load
from opendllm.core.endpoints.faults import Quote, fault_of_status
from opendllm.core.language_model import LanguageModel

from .conftest import MODELS, Server

PROMPT = "def f(x):"
DECODINGS: dict[str, dict[str, Any]] = {
    "llada": {"model": "llada", "temperature": 0.9},
    "llada in blocks": {
        "model": "llada",
        "temperature": 0.9,
        "extra_body": {"sampler": "p2", "block_length": 8, "cache": "dual"},
    },
    "llada, masked again": {
        "model": "llada",
        "temperature": 0.9,
        "extra_body": {"sampler": "p2", "steps": 12},
    },
    "sdar": {"model": "sdar", "temperature": 0.9},
}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def models(served_run: Path) -> dict[str, LanguageModel]:
    """The same, in this process."""
    return {name: load(served_run / name, device="cpu") for name in MODELS}


def alone(models: dict[str, LanguageModel], decoding: str, **more: Any) -> str:
    """What the Python API writes."""
    options = dict(DECODINGS[decoding])
    name, extra = options.pop("model"), options.pop("extra_body", {})
    [text] = models[name].generate([PROMPT], max_new_tokens=24, **options, **extra, **more)
    return text


@pytest.mark.parametrize("decoding", DECODINGS)
def test_an_answer_is_that_of_the_python_api_and_streams_as_it_settles(
    client: openai.OpenAI, models: dict[str, LanguageModel], decoding: str
) -> None:
    asked = {"prompt": PROMPT, "max_tokens": 24, "seed": 7, **DECODINGS[decoding]}
    whole = client.completions.create(**asked)
    assert whole.choices[0].text == alone(models, decoding, seed=7)
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    pieces = [choice.text for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == whole.choices[0].text
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons == [None] * (len(reasons) - 1) + [whole.choices[0].finish_reason]
    assert chunks[-1].usage == whole.usage
    if decoding != "llada, masked again":  # where nothing settles before the last step
        assert len([piece for piece in pieces if piece]) > 1


def test_many_at_once_get_what_each_gets_alone(
    client: openai.OpenAI, models: dict[str, LanguageModel]
) -> None:
    """Of both models, several samplers and lengths, in one server's batches."""
    wanted = [(decoding, seed) for seed in range(6) for decoding in DECODINGS]

    def ask(each: tuple[str, int]) -> str:
        decoding, seed = each
        asked = {"prompt": PROMPT, "max_tokens": 24, "seed": seed, **DECODINGS[decoding]}
        if seed % 2:
            return client.completions.create(**asked).choices[0].text
        return "".join(chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True))

    with ThreadPoolExecutor(len(wanted)) as pool:
        found = list(pool.map(ask, wanted))
    assert found == [alone(models, decoding, seed=seed) for decoding, seed in wanted]


def test_choices_have_seeds_of_their_own(client: openai.OpenAI, models: dict[str, LanguageModel]) -> None:
    asked: dict[str, Any] = {"model": "llada", "max_tokens": 12, "temperature": 0.9}
    prompts = ["ab", "cd"]
    answer = client.completions.create(prompt=prompts, n=2, seed=5, **asked)
    texts = [choice.text for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    expected = models["llada"].generate(["ab", "ab", "cd", "cd"], max_new_tokens=12, temperature=0.9, seed=5)
    assert texts == expected
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("abcd")
    streamed = ["", "", "", ""]
    for chunk in client.completions.create(prompt=prompts, n=2, seed=5, stream=True, **asked):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == texts


def test_without_a_seed_one_is_drawn_and_said(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "llada", "prompt": PROMPT, "max_tokens": 24, "temperature": 5}
    first, second = (client.completions.create(**asked) for _ in range(2))
    assert first.choices[0].text != second.choices[0].text
    again = client.completions.create(**asked, seed=first.seed)
    assert again.choices[0].text == first.choices[0].text


@pytest.mark.parametrize("model", MODELS)
def test_a_suffix_is_read(client: openai.OpenAI, models: dict[str, LanguageModel], model: str) -> None:
    answer = client.completions.create(model=model, prompt="ab", suffix=" return", max_tokens=8, seed=1)
    assert [answer.choices[0].text] == models[model].infill([("ab", " return")], 8, seed=1)
    other = client.completions.create(model=model, prompt="ab", suffix="!?!", max_tokens=8, seed=1)
    if model == "llada":
        assert other.choices[0].text != answer.choices[0].text
    assert client.completions.create(model=model, prompt="", suffix="x", max_tokens=3).choices[0].text


def test_an_echo_comes_first(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "llada", "prompt": ["ab", "c"], "max_tokens": 6, "seed": 1}
    plain = client.completions.create(**asked)
    echoed = client.completions.create(**asked, echo=True)
    assert [each.text for each in echoed.choices] == [
        prompt + each.text for prompt, each in zip(asked["prompt"], plain.choices, strict=True)
    ]
    asked["prompt"] = "ab"
    streamed = client.completions.create(**asked, echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == echoed.choices[0].text


@pytest.mark.parametrize("decoding", DECODINGS)
def test_a_stop_string_ends_an_answer_before_it(client: openai.OpenAI, decoding: str) -> None:
    asked = {"prompt": PROMPT, "max_tokens": 24, "seed": 3, **DECODINGS[decoding]}
    whole = client.completions.create(**asked).choices[0].text
    stop = whole[9:11]
    cut = client.completions.create(**asked, stop=[stop, "never"])
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == (whole[: whole.index(stop)], "stop")
    streamed = list(client.completions.create(**asked, stop=stop, stream=True))
    assert "".join(chunk.choices[0].text for chunk in streamed) == cut.choices[0].text
    assert streamed[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("model", MODELS)
def test_a_chat_goes_through_the_template(
    client: openai.OpenAI, models: dict[str, LanguageModel], model: str
) -> None:
    asked: dict[str, Any] = {"model": model, "max_completion_tokens": 16, "seed": 2, "temperature": 0.5}
    messages: list[Any] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": "</s>"}]},
    ]
    answer = client.chat.completions.create(messages=messages, **asked)
    # What a message spells of special tokens is text: six characters, not one token.
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("<system>be brief\n<user>hi</s>\n<assistant>")
    streamed = list(client.chat.completions.create(messages=messages, stream=True, **asked))
    assert streamed[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert text == answer.choices[0].message.content
    one = client.chat.completions.create(messages=[{"role": "user", "content": "hi"}], **asked)
    expected = models[model].generate(["hi"], chat=True, max_new_tokens=16, seed=2, temperature=0.5)
    assert [one.choices[0].message.content] == expected


def test_an_answer_is_sent_back_as_it_came(client: openai.OpenAI) -> None:
    """The second turn of a chat: the client's own object, and the empty fields that others put into one."""
    asked: dict[str, Any] = {"model": "llada", "max_tokens": 8, "seed": 2, "temperature": 0.5}
    first: list[Any] = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hi"}]
    answer = client.chat.completions.create(messages=first, **asked).choices[0].message
    text = answer.content
    assert text
    empty: dict[str, Any] = {
        "refusal": None,
        "annotations": [],
        "audio": None,
        "tool_calls": [],
        "function_call": None,
    }
    plain = {"role": "assistant", "content": text}
    told = [plain, answer, answer.model_dump(), {**plain, "name": None, **empty}]
    found = [
        client.chat.completions.create(
            messages=[*first, each, {"role": "user", "content": "more"}], **asked, stream=False
        )
        for each in told
    ]
    first[0] = {"role": "system", "content": "be brief"}
    turns = [*first, plain, {"role": "user", "content": "more"}]
    expected = client.chat.completions.create(messages=turns, **asked)
    for second in found:
        assert second.usage == expected.usage
        assert second.choices[0].message.content == expected.choices[0].message.content


def test_models_are_listed_with_what_they_can(client: openai.OpenAI) -> None:
    found = {model.id: model for model in client.models.list()}
    assert list(found) == list(MODELS)
    about: Any = client.models.retrieve("llada")
    assert about.default_sampler == "low-confidence"
    assert about.context_length == 256
    assert "eta" in about.samplers["remdm"]
    assert "compile" not in about.decoder


REFUSALS: dict[str, tuple[dict[str, Any], int, str]] = {
    "an unknown field": ({"extra_body": {"stepz": 3}}, 400, "did you mean 'steps'"),
    "a value out of range": ({"extra_body": {"steps": 0}}, 400, "steps: Input should be greater than"),
    "another sampler's option": ({"extra_body": {"eta": 0.5}}, 400, "'low-confidence' has a field 'eta'"),
    "without effect": ({"extra_body": {"sampler": "p2", "alg_temp": 1}}, 400, "has no effect"),
    "an unknown sampler": ({"extra_body": {"sampler": "p3"}}, 400, "did you mean 'p2'"),
    "an unknown model": ({"model": "lada"}, 404, "did you mean 'llada'"),
    "log-probabilities": ({"logprobs": 3}, 400, "logprobs can't be honoured"),
    "a penalty": ({"presence_penalty": 0.5}, 400, "presence_penalty can't be honoured"),
    "ids": ({"prompt": [1, 2]}, 400, "prompt: should be a text, or a list of texts"),
    "too many tokens": ({"max_tokens": 65}, 400, "writes up to 64"),
    "a length twice": ({"extra_body": {"max_new_tokens": 3}}, 400, "give it once"),
    "too many steps": ({"extra_body": {"steps": 10**9}}, 400, "takes up to 256"),
    "a block beyond all numbers": ({"extra_body": {"block_length": 10**30}}, 400, "beyond any model"),
    "a number of 64 bits": ({"extra_body": {"temperature": 2**63}}, 400, "beyond any model"),
    "a temperature beyond all floats": ({"extra_body": {"temperature": 10**400}}, 400, "beyond any model"),
    "a block beyond the context": ({"extra_body": {"block_length": 257}}, 400, "takes up to 256 with"),
    "endless growth": (
        {"extra_body": {"sampler": "dreamon", "expand_token_id": 3, "expand_budget": 2**30}},
        400,
        "expand_budget is 1073741824, and this server takes up to 256",
    ),
    "an endless sampler": ({"extra_body": {"sampler": "block-steps", "block_steps": 2**30}}, 400, "takes up"),
    "a long prompt": ({"prompt": "x" * 400}, 400, "more than the model's context of 256"),
    "no prompt": ({"prompt": []}, 400, "0 choices are asked for"),
    "an empty prompt": ({"prompt": ""}, 400, "prompt is empty"),
    "too many choices": ({"n": 65}, 400, "ask for 1 to 64"),
    "no stop string": ({"stop": [""]}, 400, "stop is up to 16 texts"),
    "a seed of no integer": ({"extra_body": {"seed": 1.5}}, 400, "seed: Input should be a valid integer"),
    "the server's own": ({"extra_body": {"compile": True}}, 400, "compile is the server's"),
    "usage of no stream": ({"stream_options": {"include_usage": True}}, 400, "no effect without stream"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_wrong_is_said_in_the_api_s_form(client: openai.OpenAI, name: str) -> None:
    fields, status, said = REFUSALS[name]
    asked: dict[str, Any] = {"model": "llada", "prompt": "ab", "max_tokens": 4, **fields}
    with pytest.raises(openai.APIStatusError, match=said) as refused:
        client.completions.create(**asked)
    assert refused.value.status_code == status
    assert isinstance(refused.value.body, dict)
    assert set(refused.value.body) == {"message", "type", "param", "code"}
    assert "\n" not in refused.value.body["message"]


@pytest.mark.parametrize("api", ["completions", "chat/completions"])
def test_a_prompt_that_is_too_long_is_told_by_its_code(server: Server, api: str) -> None:
    """An evaluation that asks this server counts the problem as failed and goes on."""
    long = "x" * 400
    given = {"prompt": long} if api == "completions" else {"messages": [{"role": "user", "content": long}]}
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    body = json.dumps({"model": "llada", "max_tokens": 4, **given})
    connection.request("POST", f"/v1/{api}", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert json.loads(content)["error"]["code"] == "context_length_exceeded"
    assert fault_of_status(answer.status, {}, content, Quote(None)).too_long


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools can't be honoured"),
        ({"response_format": {"type": "json_object"}}, "response_format can't be honoured"),
        ({"logprobs": True}, "logprobs can't be honoured"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0: the user says nothing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content",
        ),
        ({"messages": [{"role": "user", "content": "x", "name": "ann"}]}, "messages.0.name"),
        (
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]},
            "messages.0.tool_calls",
        ),
        ({"max_tokens": 3}, "give it once"),
    ],
)
def test_a_chat_that_can_t_be_honoured_is_refused(
    client: openai.OpenAI, fields: dict[str, Any], said: str
) -> None:
    asked: dict[str, Any] = {"model": "llada", "messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(openai.BadRequestError, match=said):
        client.chat.completions.create(**{**asked, "max_completion_tokens": 4, **fields})


def test_fields_that_ask_for_nothing_are_taken(client: openai.OpenAI) -> None:
    """As clients send them that know nothing of diffusion."""
    answer = client.chat.completions.create(
        model="llada",
        messages=[{"role": "user", "content": "x"}],
        max_tokens=4,
        n=1,
        top_p=1,
        presence_penalty=0,
        frequency_penalty=0.0,
        logit_bias={},
        logprobs=False,
        tool_choice="none",
        response_format={"type": "text"},
        user="somebody",
        extra_body={"best_of": 1, "top_k": None},
    )
    assert answer.choices[0].finish_reason == "length"


def test_the_first_piece_comes_with_the_first_block(client: openai.OpenAI) -> None:
    """Of a block-causal checkpoint, of blocks of 4, it is of that block's text: none of the next."""
    asked: dict[str, Any] = {"model": "sdar", "prompt": "abcd", "max_tokens": 24, "seed": 7}
    first_block = client.completions.create(**{**asked, "max_tokens": 4}).choices[0].text
    for chunk in client.completions.create(**asked, stream=True):
        assert chunk.choices[0].text
        assert first_block.startswith(chunk.choices[0].text)
        break


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {"Host": "rebound.example"}, 403),
        ("POST", {"Origin": "https://elsewhere.example"}, 403),
        ("POST", {"Origin": "null"}, 403),
        ("POST", {"Host": "["}, 403),
        ("POST", {"Host": "[::1"}, 403),
        ("POST", {"Host": "[v1.x]:8000"}, 403),
        ("POST", {"Origin": "http://["}, 403),
        ("POST", {"Origin": "http://[::1]]"}, 403),
        ("POST", {"Content-Type": "text/plain"}, 415),
        ("OPTIONS", {"Access-Control-Request-Method": "POST"}, 405),
    ],
)
def test_pages_of_other_sites_get_nothing(
    server: Server, method: str, headers: dict[str, str], status: int
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    body = json.dumps({"model": "llada", "prompt": "a", "max_tokens": 1})
    connection.request(method, "/v1/completions", body, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    assert (answer.status, "error" in json.loads(answer.read())) == (status, True)
    assert answer.getheader("Access-Control-Allow-Origin") is None
    connection.close()


@pytest.mark.parametrize(
    ("method", "route", "said"),
    [
        ("GET", "/v1/completions", "GET /v1/completions: send it as POST"),
        ("POST", "/health", "POST /health: send it as GET"),
    ],
)
def test_a_route_asked_in_the_wrong_way_is_told_the_right_one(
    server: Server, method: str, route: str, said: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{server.url}{route}", method=method))
    assert refused.value.code == 405
    assert json.load(refused.value)["error"]["message"] == said


def test_health(server: Server) -> None:
    with urllib.request.urlopen(f"{server.url}/health") as answer:
        assert (answer.status, answer.read()) == (200, b'{"status": "ok"}')


def test_after_the_time_of_grace_an_answer_ends_with_an_error(client: openai.OpenAI, server: Server) -> None:
    """The last test: of a server that has no such time."""
    asked: dict[str, Any] = {"model": "sdar", "prompt": "a", "max_tokens": 64, "n": 32}
    stream = iter(client.completions.create(stream=True, **asked))
    next(stream)
    with ThreadPoolExecutor(1) as asking:
        waiting = asking.submit(lambda: client.completions.create(**asked))
        for _ in range(20):
            next(stream)
        server.process.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="the server has been stopped"):
            list(stream)
        with pytest.raises(openai.APIError, match=r"stopped|Connection"):
            waiting.result()

"""What servers say of lengths: of this problem's prompt, or of what every problem asks for."""

from __future__ import annotations

import json

import pytest

from opendllm.core.endpoints.faults import Quote, fault_of_status

OF_THE_PROMPT = [
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
    "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
    "the request exceeds the available context size, try increasing it",
    "`inputs` must have less than 1024 tokens. Given: 2000",
    "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 3000 `inputs` tokens",
    "prompt has 300 tokens with its gap, more than the model's context of 128",
    "Please reduce the length of the prompt: it is too long",
    "The prompt is too long: 5000",
]
OF_THE_REQUEST = [
    "max_tokens is too large: 8192. This model supports at most 4096 completion tokens",
    "temperature is too large: maximum 2",
    "temperature must not exceed 1; see token docs",
    "stop: array too long. Expected an array with maximum length 4",
    "You exceeded your current quota, token limit",
]


def is_too_long(said: str, code: str | None = None) -> bool:
    content = json.dumps({"error": {"message": said, "code": code}}).encode()
    return fault_of_status(400, {}, content, Quote(None)).too_long


@pytest.mark.parametrize("said", OF_THE_PROMPT)
def test_a_prompt_that_is_too_long_is_its_problems_affair(said: str) -> None:
    assert is_too_long(said)
    assert is_too_long("no", "context_length_exceeded")


@pytest.mark.parametrize("said", OF_THE_REQUEST)
def test_what_no_problem_could_be_asked_with_stops_the_run(said: str) -> None:
    """Else all of them would be on file as failed, and score 0 without a word."""
    assert not is_too_long(said)

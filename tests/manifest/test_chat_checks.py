"""Benchmarks whose prompts are gone on with are no user's turns: said before anything is loaded."""

from __future__ import annotations

import pytest

from .conftest import Read, Refusal

CHAT = "generate.chat=true"


@pytest.mark.parametrize("benchmark", ["humaneval", "humaneval-plus", "mbpp", "mbpp-sanitized", "mbpp-plus"])
def test_in_a_chat_programs_are_asked_for(benchmark: str, refusal: Refusal, read: Read) -> None:
    """An instruct model's answer, words and fences, behind a program's beginning fails whatever it says."""
    # Open-dLLM's programs of MBPP+ are taken out of fences.
    protocols = ("", ", options: {protocol: open-dllm}") if benchmark != "mbpp-plus" else ("",)
    for options in protocols:
        entry = f"  - benchmark: {{name: {benchmark}{options}}}\n"
        assert read(entry)
        [line] = refusal(entry, CHAT)
        assert line.startswith("m.yaml:14:")
        assert "evaluate.1.benchmark: protocol" in line
        assert "set `protocol: instruct`; it can be asked without one: `chat: false`" in line
    entry = f"  - benchmark: {{name: {benchmark}, options: {{protocol: instruct}}}}\n"
    assert read(entry)
    assert read(entry, CHAT)
    assert read("  - benchmark: {name: mbpp-plus, options: {protocol: open-dllm}}\n", CHAT)


def test_what_an_entry_says_of_chat_goes_before(read: Read, refusal: Refusal) -> None:
    entry = "  - {benchmark: {name: mbpp}, generate: {chat: false}}\n"
    assert read(entry, CHAT)
    [line] = refusal("  - {benchmark: {name: synthetic-functions}, generate: {chat: true}}\n")
    assert line.endswith("it can be asked without one: `chat: false`")
    assert read("  - benchmark: {name: stdlib-infilling}\n", CHAT)


def test_so_it_is_with_a_server_that_knows_chats_alone(read: Read, refusal: Refusal) -> None:
    base = "name: m\nmodel: {endpoint: 'http://localhost:1/v1', model: m, api: chat}\nevaluate:\n"
    [line] = refusal("  - benchmark: {name: humaneval}\n", base=base)
    assert "set `protocol: instruct`; it can be asked without one: `api: completions`" in line
    assert read("  - benchmark: {name: humaneval, options: {protocol: instruct}}\n", base=base)

"""Chat templates as they are published: what one leaves out, or fails at, is told and not trained on."""

from __future__ import annotations

import pytest

from opendllm.core.checkpoints.chat_template import apply_template
from opendllm.core.checkpoints.text_codec import codec_of
from opendllm.core.data.rendering import render
from opendllm.core.data.tokenizers import train_tokenizer
from opendllm.registries.corpora import Document, Message
from opendllm.registries.errors import UserError

WHOLE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ANSWERS_ALONE = WHOLE.replace("m.content", "m.content.split('</think>')[-1]")
SYSTEM_SKIPPED = WHOLE.replace("%}<", "%}{% if m.role != 'system' %}<", 1).replace(
    "{% endfor", "{% endif %}{% endfor"
)
SWITCH_TAKEN_OUT = WHOLE.replace("m.content", "m.content.replace('/no_think', '')")


def rendered(template: str, *turns: Message, answer: str = "yes") -> tuple[str, str]:
    tokenizer = train_tokenizer([Document("", "a b c")], 260)
    tokenizer.chat_template = template
    return render(Document("line 1", answer, turns), tokenizer, codec_of(tokenizer), chat=True)


def test_white_space_that_a_template_trims_is_no_loss() -> None:
    system, user = Message("system", " Be brief.\n"), Message("user", "\n1 + 1?  ")
    prompt, answer = rendered(WHOLE, system, user, answer=" 2\n")
    assert (prompt.count("Be brief."), answer) == (1, "2")


def test_a_template_that_drops_what_the_model_thought_is_refused() -> None:
    user, thought = Message("user", "1 + 1?"), "<think>one more</think>2"
    assert rendered(WHOLE, user, answer=thought)[1] == thought
    with pytest.raises(UserError, match=r"line 1: the chat template leaves out some of the answer"):
        rendered(ANSWERS_ALONE, user, answer=thought)
    # Of earlier answers it may: that is how the model is asked, too.
    assert rendered(ANSWERS_ALONE, user, Message("assistant", thought), user)[1] == "yes"


def test_a_template_that_ignores_the_system_prompt_is_refused() -> None:
    system, user = Message("system", "Be brief."), Message("user", "1 + 1?")
    assert rendered(SYSTEM_SKIPPED, user)[1] == "yes"
    with pytest.raises(UserError, match=r"template ignores what a system says in turn 1"):
        rendered(SYSTEM_SKIPPED, system, user)


def test_a_switch_that_a_template_takes_out_of_a_turn_is_heard() -> None:
    prompt, _ = rendered(SWITCH_TAKEN_OUT, Message("user", "1 + 1? /no_think"))
    assert "1 + 1?" in prompt


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content + 1 }}{% endfor %}", "can only concatenate str"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "maximum recursion depth"),
        ("{{ raise_exception('no such role') }}", "no such role"),
    ],
)
def test_whatever_a_template_fails_by_is_one_line(template: str, message: str) -> None:
    tokenizer = train_tokenizer([Document("", "a b c")], 260)
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=f"chat template fails: {message}"):
        apply_template(tokenizer, codec_of(tokenizer), [Message("user", "a")], "answer follows")

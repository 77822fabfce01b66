"""A tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from opendllm.registries.corpora import Message
from opendllm.registries.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from opendllm.core.checkpoints.text_codec import TextCodec


Ending = Literal["answer follows", "answer begun", "answered"]
"""What comes after a chat: the model's answer, the rest of an answer that its last turn begins, nothing."""
_HEARD = frozenset({"system", "developer", "user"})
"""Whose turns are instructions: of an assistant's earlier ones templates leave out what it thought."""


def apply_template(
    tokenizer: PreTrainedTokenizerFast, codec: TextCodec, messages: Sequence[Message], ending: Ending
) -> str:
    """The chat as the text that an instruct model was trained on, for `TextCodec.encode_rendered`.

    Args:
        tokenizer: whose template it is.
        codec: the same that encodes the result: what it reserves stays text in messages and tool calls.
        messages: the chat.
        ending: where the text stops.

    Raises:
        UserError: the tokenizer has no chat template, or it fails, or ignores what a system or a user says.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            "this checkpoint has no chat template: leave `chat` out, write one into its "
            "folder (chat_template.jinja), or take its Instruct sibling"
        )
    content = [_entry(message, codec) for message in messages]
    text = _written(tokenizer, content, ending)
    for turn, entry in enumerate(content):
        if entry["role"] not in _HEARD or keeps(text, entry["content"]):
            continue
        # It may still have read it, as one that takes a switch such as /no_think out of what is said.
        other = [*content[:turn], {**entry, "content": entry["content"] + "x"}, *content[turn + 1 :]]
        if _written(tokenizer, other, ending) == text:
            raise UserError(
                f"the checkpoint's chat template ignores what a {entry['role']} says in turn {turn + 1}: say "
                f"it in another's turn, or mend the template"
            )
    return text


def keeps(text: str, part: str) -> bool:
    """Whether what a template wrote holds `part`, but for white space, which templates trim."""
    return part in text or "".join(part.split()) in "".join(text.split())


def _written(tokenizer: PreTrainedTokenizerFast, content: list[dict[str, Any]], ending: Ending) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            content,
            add_generation_prompt=ending == "answer follows",
            continue_final_message=ending == "answer begun",
            tokenize=False,
        )
    except Exception as error:  # a template computes, and fails in as many ways as Python does
        raise UserError(f"the checkpoint's chat template fails: {first_line(error)}") from error
    return text


def _entry(message: Message, codec: TextCodec) -> dict[str, Any]:
    entry: dict[str, Any] = {"role": message.role, "content": codec.escaped(message.content)}
    return {**entry, "tool_calls": _escaped(message.tool_calls, codec)} if message.tool_calls else entry


def _escaped(value: Any, codec: TextCodec) -> Any:
    """The same with every text in it escaped."""
    if isinstance(value, str):
        return codec.escaped(value)
    if isinstance(value, Mapping):
        return {codec.escaped(str(key)): _escaped(each, codec) for key, each in value.items()}
    return [_escaped(each, codec) for each in value] if isinstance(value, list | tuple) else value

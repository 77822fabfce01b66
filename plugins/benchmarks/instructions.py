"""Problems as instruct models are asked them, and the code of their answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from opendllm.registries.benchmarks import ChatTemplate, GenerationRequest
from opendllm.registries.corpora import Message
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap


@dataclass(frozen=True)
class Instruction:
    """A problem as an instruct model is asked it.

    Attributes:
        turn: the user's.
        begun: how the answer begins, up to its code.
        fence: what ends the code of an answer that begins so.
    """

    turn: str
    begun: str
    fence: str = "```"


def instructed(
    asked: GenerationRequest, instruction: Instruction, chat: ChatTemplate | None
) -> GenerationRequest:
    """The request as an instruction: the answer begins with its code, and ends with it.

    A template, or a server, that can't begin an answer has the user's turn alone; its code stands in fences.

    Args:
        asked: with the stop strings that hold in any case.
        instruction: what is asked.
        chat: what it is put into; None for nothing.

    Raises:
        UserError: the template fails.
    """
    ended = replace(asked, stop=(*asked.stop, instruction.fence))
    if chat is None:
        return replace(ended, gap=Gap(instruction.turn + instruction.begun))
    user = Message("user", instruction.turn)
    try:
        begun = chat([user, Message("assistant", instruction.begun)], prefilled=True)
    except UserError:
        return replace(asked, gap=Gap(chat([user]), templated=True))
    if begun.endswith(instruction.begun.strip()):  # the template has trimmed it
        begun += instruction.begun[len(instruction.begun.rstrip()) :]
    return replace(ended, gap=Gap(begun, templated=True))


def unbegun(chat: ChatTemplate | None) -> str:
    """What a note says where a table may have models asked in two ways: without a chat, or unbegun."""
    if chat is None:
        return "; asked without a chat template"
    try:
        chat([Message("user", "a"), Message("assistant", "b")], prefilled=True)
    except UserError:
        return "; the chat lets no answer be begun, so the user's turn alone was asked"
    return ""


def code_of(text: str) -> str:
    """What stands in the first fence of an answer; all of it where there is none."""
    before, found, rest = text.partition("```")
    if not found:
        return text
    code = rest.partition("\n")[2].partition("```")[0]
    return code if code.strip() else before

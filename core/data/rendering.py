"""A document as the two strings that are tokenised: what is given, and what is learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opendllm.core.checkpoints.chat_template import apply_template, keeps
from opendllm.registries.corpora import Document, Message
from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from opendllm.core.checkpoints.text_codec import TextCodec


def render(
    document: Document, tokenizer: PreTrainedTokenizerFast, codec: TextCodec, chat: bool
) -> tuple[str, str]:
    """(prompt, text): the prompt may be empty, an EOS token follows the text.

    Args:
        document: as the corpus gives it.
        tokenizer: whose chat template is used.
        codec: that encodes what comes out.
        chat: put the prompt and its answer into that template.

    Raises:
        UserError: the document does not go with `chat`, or the template drops some of the answer.
    """
    prompt = document.prompt
    if not chat:
        if isinstance(prompt, tuple):
            raise UserError(f"{document.name}: is a chat: set data.chat, so that its template is used")
        return prompt or "", document.text
    if prompt is None:
        raise UserError(f"{document.name}: has no prompt, so it is no chat: leave data.chat out")
    given = prompt if isinstance(prompt, tuple) else (Message("user", prompt),)
    try:
        before = apply_template(tokenizer, codec, given, "answer follows")
        whole = apply_template(tokenizer, codec, (*given, Message("assistant", document.text)), "answered")
    except UserError as error:
        raise UserError(f"{document.name}: {error}") from error
    if not whole.startswith(before):
        raise UserError(
            f"{document.name}: the chat template writes an answered chat otherwise than one that waits for "
            f"its answer, so the answer can't be told apart"
        )
    answer = whole[len(before) :].rstrip()
    if not keeps(answer, codec.escaped(document.text)):
        raise UserError(
            f"{document.name}: the chat template leaves out some of the answer, as those do that drop what a "
            f"model thought: take a template that writes it whole"
        )
    eos: str = tokenizer.eos_token
    return before, answer.removesuffix(eos)

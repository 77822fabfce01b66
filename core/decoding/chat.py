"""Prompts in the form that an instruct checkpoint was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opendllm.core.checkpoints.chat_template import apply_template
from opendllm.registries.benchmarks import ChatTemplate
from opendllm.registries.corpora import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from opendllm.core.checkpoints.text_codec import TextCodec


def chat_prompt(tokenizer: PreTrainedTokenizerFast, codec: TextCodec, prompt: str) -> str:
    """The prompt as a user's turn, up to where the model's answer begins.

    Raises:
        UserError: the checkpoint has no chat template, or it fails.
    """
    return apply_template(tokenizer, codec, [Message("user", prompt)], "answer follows")


def chat_template_of(tokenizer: PreTrainedTokenizerFast, codec: TextCodec) -> ChatTemplate:
    """What benchmarks with turns of their own are handed."""

    def render(messages: Sequence[Message], prefilled: bool = False) -> str:
        return apply_template(tokenizer, codec, messages, "answer begun" if prefilled else "answer follows")

    return render

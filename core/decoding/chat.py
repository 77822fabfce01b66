"""Prompts in the form that an instruct checkpoint was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opendllm.core.checkpoints.chat_template import apply_template
from opendllm.registries.corpora import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def chat_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    """The prompt as a user's turn, up to where the model's answer begins.

    Raises:
        UserError: the checkpoint has no chat template, or it fails.
    """
    return apply_template(tokenizer, [Message("user", prompt)], answer_follows=True)

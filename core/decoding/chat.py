"""Prompts in the form that an instruct checkpoint was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def chat_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    """The prompt as a user's turn, up to where the model's answer begins.

    Raises:
        UserError: the checkpoint has no chat template.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            "this checkpoint has no chat template: leave `chat` out, or take its Instruct sibling"
        )
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    return text

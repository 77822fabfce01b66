"""Prompts in the form that an instruct checkpoint was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import TemplateError

from opendllm.registries.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def chat_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    """The prompt as a user's turn, up to where the model's answer begins.

    Raises:
        UserError: the checkpoint has no chat template, or it fails.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            "this checkpoint has no chat template: leave `chat` out, or take its Instruct sibling"
        )
    try:
        text: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
    except TemplateError as error:
        raise UserError(f"the checkpoint's chat template fails: {first_line(error)}") from error
    return text

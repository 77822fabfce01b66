"""How what lm-evaluation-harness asks is called and put here: by the benchmark that runs its tasks, and by
the model that its own command runs. Imports no lm_eval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opendllm.registries.benchmarks import DEFAULT_SETTING, ChatTemplate
from opendllm.registries.corpora import Message
from opendllm.registries.errors import UserError


class LmEvalChat:
    """The chat template as lm-eval calls it. One that refuses a system's turn goes without, as in HFLM.

    Attributes:
        left_out_system: whether that has happened.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self.left_out_system = False

    def __call__(self, history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as text, up to where the answer begins, or goes on after the last turn."""
        messages = [Message(turn["role"], turn["content"]) for turn in history]
        try:
            return self._template(messages, prefilled=not add_generation_prompt)
        except UserError:
            others = [message for message in messages if message.role != "system"]
            text = self._template(others, prefilled=not add_generation_prompt)
        self.left_out_system = True
        return text


def instance_setting(choice: int | None, repeat: int, repeats: int) -> str:
    """The setting of one instance of a document.

    Args:
        choice: its number, where the task has several choices; None where it has none.
        repeat: which time it is asked.
        repeats: how often it is.
    """
    parts = [] if choice is None else [f"choice-{choice}"]
    parts += [f"repeat-{repeat}"] if repeats > 1 else []
    return "-".join(parts) or DEFAULT_SETTING


def stop_strings(generation_kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """A task's `until`; empty ones stop nothing."""
    until = generation_kwargs.get("until") or ()
    return tuple(word for word in ([until] if isinstance(until, str) else until) if word)

"""Prompts from arguments, a file of JSON lines, or standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opendllm.registries.errors import UserError


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        text: what stands left of the gap.
        suffix: what stands right of it, or None.
        fields: all that its line said.
    """

    text: str
    suffix: str | None
    fields: dict[str, Any] = field(default_factory=dict)


def read_prompts(given: Sequence[str] | None, suffix: str | None, file: str | None) -> list[Prompt]:
    """The prompts that a command was given.

    Args:
        given: on the command line.
        suffix: of all of them.
        file: of JSON lines, `-` for standard input; without it and `given`, standard input is one prompt.

    Raises:
        UserError: prompts come from two places, or a line isn't a prompt.
    """
    if file is None:
        return [Prompt(text, suffix) for text in given or [sys.stdin.read()]]
    if given or suffix is not None:
        raise UserError("--input brings prompts and suffixes of its own: leave --prompt and --suffix out")
    if file == "-":
        return _parsed(sys.stdin, "standard input")
    try:
        return _parsed(Path(file).read_text(encoding="utf-8").splitlines(), file)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def _parsed(lines: Iterable[str], source: str) -> list[Prompt]:
    prompts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise UserError(f"{source}:{number}: no JSON: {error}") from error
        if not isinstance(fields, dict) or not isinstance(fields.get("prompt"), str):
            raise UserError(
                f'{source}:{number}: a line is {{"prompt": "..."}}, with a "suffix" if there is one'
            )
        if not isinstance(fields.get("suffix"), str | None):
            raise UserError(f"{source}:{number}: suffix is no text")
        prompts.append(Prompt(fields["prompt"], fields.get("suffix"), fields))
    if not prompts:
        raise UserError(f"{source} holds no prompt")
    return prompts

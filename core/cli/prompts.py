"""Prompts from arguments, a file of JSON lines, or standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opendllm.core.foundation.json_lines import JsonLine, json_lines, parsed_lines
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        gap: what is to be written.
        fields: all that its line said.
    """

    gap: Gap
    fields: dict[str, Any] = field(default_factory=dict)


def read_prompts(given: Sequence[str] | None, suffix: str | None, file: str | None) -> list[Prompt]:
    """The prompts that a command was given.

    Args:
        given: on the command line.
        suffix: of all of them.
        file: of JSON lines, gzipped or not, `-` for standard input; without it and `given`, standard
            input is one prompt.

    Raises:
        UserError: prompts come from two locations, or a line isn't a prompt.
    """
    if file is None:
        return [Prompt(Gap(text, suffix)) for text in given or [_standard_input()]]
    if given or suffix is not None:
        raise UserError("--input brings prompts and suffixes of its own: leave --prompt and --suffix out")
    if file == "-":
        _check_standard_input()
        return _prompts(parsed_lines(sys.stdin.buffer), "standard input")
    return _prompts(json_lines(Path(file)), file)


def _check_standard_input() -> None:
    if sys.stdin is None:  # closed by whoever started this
        raise UserError("standard input is closed: give a --prompt, or an --input file")


def _standard_input() -> str:
    _check_standard_input()
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 (byte {error.start})") from error


def _prompts(lines: Iterable[JsonLine], source: str) -> list[Prompt]:
    prompts = []
    for line in lines:
        location, fields = f"{source}:{line.number}", line.content
        if line.issue is not None:
            raise UserError(f"{location} {line.issue}")
        if not isinstance(fields.get("prompt"), str):
            raise UserError(f'{location} has no "prompt" that is text; a "suffix" may stand beside it')
        if not isinstance(fields.get("suffix"), str | None):
            raise UserError(f'{location} has a "suffix" that isn\'t text')
        prompts.append(Prompt(Gap(fields["prompt"], fields.get("suffix")), fields))
    if not prompts:
        raise UserError(f"{source} holds no prompt")
    return prompts

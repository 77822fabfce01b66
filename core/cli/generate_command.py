"""`generate`: what a checkpoint writes."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from opendllm.core.manifest.sources import parse_value
from opendllm.registries.errors import UserError

DEFAULT_TOKENS = 64


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(generate)


def generate(
    checkpoint: Annotated[
        str, typer.Option(help="A run's variant, a checkpoint, a model folder, or a hub id.")
    ],
    prompt: Annotated[
        list[str] | None, typer.Option(help="What to continue; may be repeated. By default standard input.")
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(help="What stands right of the gap: infilling instead of completion.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="By default the one of the model's authors.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", metavar="KEY=VALUE", help="Of the decoder or the sampler, as in -o steps=32."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random draw.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    chat: Annotated[
        bool, typer.Option("--chat", help="Put each prompt into the checkpoint's chat template.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a prompt.")] = False,
) -> None:
    """Complete a prompt, or fill the gap between a prompt and a suffix."""
    if chat and suffix is not None:
        raise UserError("--chat has no effect with --suffix: infilling has no chat template")
    options = dict(parse_option(text) for text in option or [])
    prompts = prompt or [sys.stdin.read()]
    from opendllm.core import load

    model = load(checkpoint, device=device)
    if suffix is None:
        texts = model.generate(prompts, sampler=sampler, seed=seed, chat=chat, **options)
    else:
        middle_tokens = options.pop("max_new_tokens", DEFAULT_TOKENS)
        gaps = [(text, suffix) for text in prompts]
        texts = model.infill(gaps, middle_tokens, sampler=sampler, seed=seed, **options)
    for given, text in zip(prompts, texts, strict=True):
        typer.echo(json.dumps({"prompt": given, "suffix": suffix, "text": text}) if as_json else text)


def parse_option(text: str) -> tuple[str, Any]:
    """Key and value of a `-o`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"-o {text!r}: write it as key=value")
    try:
        return key, parse_value(value)
    except UserError as error:
        raise UserError(f"-o {key}: {error}") from error

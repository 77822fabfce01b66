"""`generate`: what a checkpoint writes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opendllm.core.cli.described_options import described_options, option_lines
from opendllm.core.cli.output_files import Lines, new_file
from opendllm.core.cli.prompts import Prompt, read_prompts
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.manifest.sources import parse_value
from opendllm.registries.errors import UserError

_SURROGATE = re.compile("[\ud800-\udfff]")

if TYPE_CHECKING:
    from opendllm.core.decoding.text import Written
    from opendllm.core.language_model import LanguageModel


def add_to(app: typer.Typer) -> None:
    """Add the command; its help ends with the decoder's options, which stand in -o."""
    lines = "\n".join(f"  {line}" for line in option_lines(described_options(DecoderOptions)))
    epilog = f"\b\nOf the decoder, as in -o steps=32:\n{lines}"
    app.command(epilog=epilog)(generate)


def generate(
    checkpoint: Annotated[
        str, typer.Option(help="A run's variant, a checkpoint, a model folder, or a hub id.")
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="What to continue; may be repeated. Without it and --input, standard input."),
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(help="What stands right of the gap: infilling instead of completion.")
    ] = None,
    input_file: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="FILE", help='JSON lines {"prompt": ..., "suffix": ...}; - is standard input.'
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write JSON lines here instead of printing.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="By default the one of the model's authors.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", metavar="KEY=VALUE", help="Of the decoder or the sampler, as in -o steps=32."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random draw.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows decoded together; changes no result.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    chat: Annotated[
        bool, typer.Option("--chat", help="Put each prompt into the checkpoint's chat template.")
    ] = False,
    add_bos_token: Annotated[
        bool | None,
        typer.Option(help="Whether prompts begin with BOS; by default as the tokenizer says."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a prompt.")] = False,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Record the canvas at every step.")
    ] = None,
) -> None:
    """Complete prompts, or fill the gaps between prompts and suffixes."""
    options = parse_options(option or [])
    prompts = read_prompts(prompt, suffix, input_file)
    if chat and any(each.gap.suffix is not None for each in prompts):
        raise UserError("--chat has no effect with a suffix: infilling has no chat template")
    with new_file(output) as output_file, new_file(trace) as trace_file:
        from opendllm.core import load
        from opendllm.core.cli.progress import progress_bar

        model = load(checkpoint, device=device, add_bos_token=add_bos_token)
        gaps = [each.gap for each in prompts]
        if chat:
            gaps = [replace(model.chat_gap(gap.prefix), length=gap.length) for gap in gaps]
        json_lines = as_json or input_file is not None or output is not None
        lines = Lines(output, output_file, len(prompts), printed_early=json_lines)

        def on_written(index: int, each: Written) -> None:
            lines.add(index, _line(prompts[index], each) if json_lines else each.text)
            show(len(lines))

        with lines.kept(), progress_bar("generating", len(prompts), shown=len(prompts) > 1) as show:
            written = model.fill(
                gaps,
                options,
                sampler=sampler,
                seed=seed,
                batch_size=batch_size,
                trace=trace is not None,
                on_written=on_written,
            )
        if trace_file is not None:
            about = {
                "checkpoint": checkpoint,
                "sampler": sampler or model.default_sampler,
                "options": options,
            }
            json.dump({**about, "seed": seed, **_trace(model, prompts, written)}, trace_file)


def _line(prompt: Prompt, written: Written) -> str:
    """All that the prompt's own line said, and what was written."""
    said = {**prompt.fields, "prompt": prompt.gap.prefix, "suffix": prompt.gap.suffix}
    found = {"text": written.text, "tokens": written.kept_tokens, "forward_passes": written.forward_passes}
    line = json.dumps(said | found, ensure_ascii=False)
    # A field of the prompt's line may hold half a surrogate pair, which only an escape can spell.
    return json.dumps(said | found) if _SURROGATE.search(line) else line


def _trace(model: LanguageModel, prompts: list[Prompt], written: list[Written]) -> dict[str, Any]:
    """Every canvas as token ids, and how each id that occurs is spelt."""
    assert model.tokenizer is not None
    used = sorted({token for each in written for canvas in each.trace for token in canvas})
    return {
        "mask_token_id": model.lm.mask_token_id,
        "vocabulary": {token: model.tokenizer.decode([token]) for token in used},
        "rows": [
            {
                "prompt": given.gap.prefix,
                "suffix": given.gap.suffix,
                "text": each.text,
                "canvases": each.trace,
            }
            for given, each in zip(prompts, written, strict=True)
        ],
    }


def parse_options(given: Sequence[str]) -> dict[str, Any]:
    """Keys and values of all `-o`.

    Raises:
        UserError: one is no key=value, or a key is there twice.
    """
    options: dict[str, Any] = {}
    for text in given:
        key, value = parse_option(text)
        if key in options:
            raise UserError(f"-o {key} is given twice")
        options[key] = value
    return options


def parse_option(text: str) -> tuple[str, Any]:
    """Key and value of a `-o`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"-o {text!r}: write it as key=value")
    try:
        return key, parse_value(value)
    except UserError as error:
        raise UserError(f"-o {key}: {error}") from error

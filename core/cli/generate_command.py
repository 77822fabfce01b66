"""`generate`: what a checkpoint writes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opendllm.core.checkpoints.families import attention_of, backbone_of, noise_of, stored_block_length
from opendllm.core.checkpoints.files import model_folder
from opendllm.core.checkpoints.pretrained import fetch_config, is_hub_id
from opendllm.core.cli.common_options import ProgressStyle
from opendllm.core.cli.described_options import described_options, option_lines
from opendllm.core.cli.float32_comparison import check_narrow, compared_lines
from opendllm.core.cli.output_files import Lines, new_file
from opendllm.core.cli.prompts import Prompt, read_prompts
from opendllm.core.cli.trace_files import (
    Decoding,
    check_traces,
    decodings,
    is_page,
    write_gif,
    write_json_trace,
    write_page,
)
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.settings import (
    check_destination,
    check_reach,
    check_sampler,
    default_options,
    sort_options,
    sort_over_defaults,
)
from opendllm.core.foundation.heavy_imports import import_model_libraries
from opendllm.core.launching.stopping import stopping_at_once
from opendllm.core.manifest.sources import parse_value
from opendllm.core.progress.views import shown_progress
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

_SURROGATE = re.compile("[\ud800-\udfff]")

if TYPE_CHECKING:
    from opendllm.core.decoding.text import Written
    from opendllm.core.language_model import LanguageModel
    from opendllm.core.progress.progress import Progress
    from opendllm.registries.options import BackboneOptions, SamplerOptions
    from opendllm.registries.registry import Registration
    from opendllm.registries.samplers import Sampler


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
        list[str] | None, typer.Option(help="What stands right of the gap: infilling instead of completion.")
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
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="By default the one of the model's authors, with their options (platform plugins show "
            "backbones/NAME); one that is named begins with its own. Given twice, with --trace FILE.html or "
            "--gif, both are shown side by side.",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-o",
            metavar="KEY=VALUE",
            help="Of the decoder or the sampler, as in -o steps=32; of one of two samplers, -o p2.eta=0.5.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random draw.")] = 0,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1, help="Rows decoded together; changes no result, but for half precision's rounding."
        ),
    ] = 16,
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
        Path | None,
        typer.Option(
            metavar="FILE", help="Record the canvas at every step: FILE.html plays it, FILE.json holds ids."
        ),
    ] = None,
    gif: Annotated[
        Path | None, typer.Option(metavar="FILE.gif", help="Draw the same as an animation.")
    ] = None,
    compare_float32: Annotated[
        bool,
        typer.Option(
            "--compare-float32",
            help="Write all once more with float32 weights, and say how many tokens are the same.",
        ),
    ] = False,
    progress: ProgressStyle = None,
) -> None:
    """Complete prompts, or fill the gaps between prompts and suffixes."""
    options = parse_options(option or [])
    check_decodings(checkpoint, decodings(sampler or [], options))
    if suffix is not None and len(suffix) > 1:
        raise UserError(
            f"--suffix is given {len(suffix)} times, and one holds for all prompts: give several as --input"
        )
    prompts = read_prompts(prompt, suffix[0] if suffix else None, input_file)
    if chat and any(each.gap.suffix is not None for each in prompts):
        raise UserError("--chat has no effect with a suffix: infilling has no chat template")
    samplers = sampler or []
    check_traces(samplers, len(prompts), trace, gif)
    with (
        stopping_at_once(),
        new_file(output, of_lines=True) as output_file,
        new_file(trace) as trace_file,
        new_file(gif) as gif_file,
    ):
        json_lines = as_json or input_file is not None or output is not None
        wanted = decodings(samplers, options)
        total = len(prompts) * len(wanted)
        lines = Lines(output, output_file, total, printed_early=json_lines)
        done: list[Decoding] = []
        with lines.kept(), shown_progress(progress) as shown:
            model = _loaded(checkpoint, wanted, device, add_bos_token, shown)
            if compare_float32:
                check_narrow(model)
            gaps = [each.gap for each in prompts]
            if chat:
                gaps = [replace(model.chat_gap(gap.prefix), length=gap.length) for gap in gaps]
            with shown.activity("generating", unit="prompts") as task:
                for number, decoding in enumerate(wanted):

                    def on_written(index: int, each: Written, first: int = number * len(prompts)) -> None:
                        text = _line(prompts[index], each) if json_lines else each.text
                        lines.add(first + index, text)
                        task.update(len(lines), total)

                    written = model.fill(
                        gaps,
                        decoding.options,
                        sampler=decoding.sampler,
                        seed=seed,
                        batch_size=batch_size,
                        trace=trace is not None or gif is not None,
                        on_written=on_written,
                    )
                    done.append(replace(decoding, written=written))
            compared = []
            if compare_float32:
                wide = _in_float32(checkpoint, device, add_bos_token, shown)
                with shown.activity("generating with float32 weights"):
                    compared = compared_lines(
                        model,
                        wide,
                        done,
                        lambda wide, each: wide.fill(
                            gaps, each.options, sampler=each.sampler, seed=seed, batch_size=batch_size
                        ),
                    )
        for line in compared:
            typer.echo(line, err=True)
        if trace_file is not None and is_page(trace):
            write_page(trace_file, checkpoint, model, prompts, done)
        elif trace_file is not None:
            used, set_to = model.decoding(done[0].sampler, options)
            about: dict[str, Any] = {"checkpoint": checkpoint, "sampler": used}
            about |= {"options": set_to, "seed": seed}
            write_json_trace(trace_file, about, model, prompts, done[0])
        if gif_file is not None:
            write_gif(gif_file, model, prompts, done)


def check_decodings(checkpoint: str, wanted: Sequence[Decoding]) -> None:
    """Say at once what is wrong with names and options, before anything heavy is imported.

    Of a checkpoint on the hub its config.json is asked for alone.

    Raises:
        UserError: there is no such checkpoint or sampler, or it doesn't take these options.
    """
    plugins = installed_plugins()
    for each in wanted:
        if each.sampler is not None:
            sort_options(each.options, plugins.samplers.get(each.sampler))
    path = fetch_config(checkpoint)
    family, noise = backbone_of(plugins, path), noise_of(path)
    attention = attention_of(family, path)
    for each in wanted:
        chosen, decoder, _ = _sorted_options(each, path, family.options)
        check_destination(chosen, noise.destination)
        check_reach(decoder, attention, noise.time_conditioning)


def _sorted_options(
    wanted: Decoding, path: Path, family: BackboneOptions
) -> tuple[Registration[Sampler], DecoderOptions, SamplerOptions]:
    """A sampler, by default that of the model's authors with what they set beside it."""
    chosen = installed_plugins().samplers.get(wanted.sampler or family.default_sampler)
    defaults = default_options(family, stored_block_length(path, family)) if wanted.sampler is None else {}
    return chosen, *sort_over_defaults(wanted.options, defaults, chosen)


def _loaded(
    checkpoint: str, wanted: Sequence[Decoding], device: str, add_bos_token: bool | None, progress: Progress
) -> LanguageModel:
    """The model, once it is known that all samplers go with it.

    Raises:
        UserError: see `load`; or one doesn't.
    """
    with progress.activity("importing libraries"):
        import_model_libraries(device)
        from opendllm.core import load
        from opendllm.core.checkpoints.tokenizer_files import has_tokenizer
    path = fetch_config(checkpoint)
    family = backbone_of(installed_plugins(), path)
    attention, told = attention_of(family, path), noise_of(path).time_conditioning
    for each in wanted:
        chosen, decoder, own = _sorted_options(each, path, family.options)
        check_sampler(chosen.build(own), decoder, attention, told)
    if not is_hub_id(checkpoint) and not has_tokenizer(model_folder(path)):
        where = model_folder(path)
        raise UserError(f"{where} has no tokenizer, which prompts need: put its tokenizer's files there")
    with progress.activity("loading the model"):
        return load(checkpoint, device=device, add_bos_token=add_bos_token)


def _in_float32(
    checkpoint: str, device: str, add_bos_token: bool | None, progress: Progress
) -> LanguageModel:
    """The same weights once more."""
    import torch

    from opendllm.core import load

    with progress.activity("loading the model in float32"):
        return load(checkpoint, device=device, dtype=torch.float32, add_bos_token=add_bos_token)


def _line(prompt: Prompt, written: Written) -> str:
    """All that the prompt's own line said, and what was written."""
    said = {**prompt.fields, "prompt": prompt.gap.prefix, "suffix": prompt.gap.suffix}
    found = {"text": written.text, "tokens": written.kept_tokens, "forward_passes": written.forward_passes}
    line = json.dumps(said | found, ensure_ascii=False)
    # A field of the prompt's line may hold half a surrogate pair, which only an escape can spell.
    return json.dumps(said | found) if _SURROGATE.search(line) else line


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

"""What `generate` writes of how its texts came to be: JSON, a page that plays it, an animated GIF."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from opendllm.core.cli.prompts import Prompt
from opendllm.core.foundation.atomic_files import writing
from opendllm.core.foundation.decoding_traces import DecodingTrace
from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    from opendllm.core.decoding.text import Written
    from opendllm.core.language_model import LanguageModel

PAGES = (".html", ".htm")


@dataclass(frozen=True)
class Decoding:
    """All prompts, written by one sampler.

    Attributes:
        sampler: its name; None for the model's default.
        options: the decoder's and its own.
        written: an answer to each prompt.
    """

    sampler: str | None
    options: Mapping[str, Any]
    written: Sequence[Written] = ()


def check_traces(samplers: Sequence[str], prompts: int, trace: Path | None, gif: Path | None) -> None:
    """What can't be drawn or compared, before anything is loaded.

    Raises:
        UserError: it can't.
    """
    if gif is not None and gif.suffix.lower() != ".gif":
        raise UserError(f"--gif {gif}: an animated GIF's name ends in .gif")
    if gif is not None and prompts > 1:
        raise UserError(f"--gif draws one prompt, and there are {prompts}")
    if trace is not None and trace.suffix.lower() not in (*PAGES, ".json"):
        raise UserError(f"--trace {trace}: a trace's name ends in .html, which plays it, or in .json")
    twice = next((name for name in samplers if samplers.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--sampler {twice} is given twice")
    if len(samplers) > 1 and gif is None and not is_page(trace):
        raise UserError(
            f"--sampler is given {len(samplers)} times: that is for looking at them side by side, with "
            f"--trace FILE.html or --gif FILE.gif"
        )


def is_page(trace: Path | None) -> bool:
    """Whether a trace is to be a page that plays it, and not JSON."""
    return trace is not None and trace.suffix.lower() in PAGES


def decodings(samplers: Sequence[str], options: Mapping[str, Any]) -> list[Decoding]:
    """Each sampler with its options: `SAMPLER.key` is for one of several, any other key for all."""
    if len(samplers) < 2:
        return [Decoding(samplers[0] if samplers else None, options)]
    own: dict[str, dict[str, Any]] = {name: {} for name in samplers}
    shared = {}
    for key, value in options.items():
        name, dot, rest = key.partition(".")
        if dot and name in own:
            own[name][rest] = value
        else:
            shared[key] = value
    return [Decoding(name, {**shared, **own[name]}) for name in samplers]


def write_json_trace(
    file: TextIO,
    about: Mapping[str, Any],
    model: LanguageModel,
    prompts: Sequence[Prompt],
    decoding: Decoding,
) -> None:
    """Every canvas as token ids, and how each id that occurs is spelt."""
    assert model.tokenizer is not None
    used = sorted({token for each in decoding.written for canvas in each.trace for token in canvas})
    content = {
        **about,
        "mask_token_id": model.lm.mask_token_id,
        "vocabulary": {token: model.tokenizer.decode([token]) for token in used},
        "rows": [
            {
                "prompt": given.gap.prefix,
                "suffix": given.gap.suffix,
                "text": each.text,
                "canvases": each.trace,
            }
            for given, each in zip(prompts, decoding.written, strict=True)
        ],
    }
    _write(file, json.dumps(content).encode("ascii"))


def write_page(
    file: TextIO, checkpoint: str, model: LanguageModel, prompts: Sequence[Prompt], done: Sequence[Decoding]
) -> None:
    """A page that plays the traces, those of one prompt side by side."""
    from opendllm.core.reporting.trace_page import render_trace_page

    page = render_trace_page(f"{Path(checkpoint).name}, step by step", _traces(model, prompts, done))
    _write(file, page.encode("utf-8"))


def write_gif(
    file: TextIO, model: LanguageModel, prompts: Sequence[Prompt], done: Sequence[Decoding]
) -> None:
    """The same of the only prompt, as an animation."""
    from opendllm.core.reporting.trace_gif import render_gif

    _write(file, render_gif(_traces(model, prompts, done)))


def _write(file: TextIO, content: bytes) -> None:
    with writing(Path(file.name)):
        file.buffer.write(content)
        file.flush()


def _traces(model: LanguageModel, prompts: Sequence[Prompt], done: Sequence[Decoding]) -> list[DecodingTrace]:
    from opendllm.core.decoding.tracing import spellings

    assert model.tokenizer is not None
    traces = []
    for decoding in done:
        used = {token for each in decoding.written for canvas in each.trace for token in canvas}
        vocabulary = spellings(model.tokenizer.decode, used)
        for given, each in zip(prompts, decoding.written, strict=True):
            assert each.row_trace is not None
            sampler, options = model.decoding(decoding.sampler, decoding.options)
            traces.append(
                DecodingTrace(
                    prompt=given.gap.prefix,
                    suffix=given.gap.suffix,
                    text=each.text,
                    sampler=sampler,
                    mask_token_id=model.lm.mask_token_id,
                    vocabulary=vocabulary,
                    forward_passes=each.forward_passes,
                    row=each.row_trace,
                    options=options,
                )
            )
    return traces

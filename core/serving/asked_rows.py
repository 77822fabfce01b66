"""A row that somebody asked for, and what that somebody is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.text import TextRow
from opendllm.core.decoding.tracing import RowCanvas
from opendllm.core.foundation.decoding_traces import TraceStep
from opendllm.core.language_model import LanguageModel
from opendllm.core.serving.api_errors import ApiError
from opendllm.core.serving.settled_text import Ending, SettledText
from opendllm.registries.samplers import Sampler


@dataclass(frozen=True)
class Decoding:
    """How rows are written; those with one key can be written side by side.

    Attributes:
        model: that writes them.
        sampler: decides.
        options: the decoder's.
        key: names the model, the sampler and all options.
    """

    model: LanguageModel
    sampler: Sampler = field(compare=False)
    options: DecoderOptions
    key: tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """Text that was settled."""

    text: str


@dataclass(frozen=True)
class Canvas:
    """The canvas after a step.

    Attributes:
        canvas: as it is; None after the first.
        step: what has changed since the one before; None of the first.
    """

    canvas: RowCanvas | None
    step: TraceStep | None


@dataclass(frozen=True)
class Finished:
    """The whole row.

    Attributes:
        ending: its text.
        forward_passes: that it took part in; None where it was ended before its last step.
    """

    ending: Ending
    forward_passes: int | None


Event = Piece | Canvas | Finished | ApiError


@dataclass(eq=False)
class AskedRow:
    """A row.

    Attributes:
        row: its canvas.
        length: how many tokens of it were asked for.
        seed: of its draws.
        decoding: how it is written.
        text: what of it is settled.
        tell: takes its events, in the decoding thread.
        streams: whether text is told as it settles.
        has_stops: whether it may end by a stop string.
        shows_canvases: whether the canvas after each step is told.
        is_cancelled: whether nobody waits for it any more; set by anybody.
        goes_alone: whether it is written beside no other row: one of those beside it once made an error.
    """

    row: TextRow
    length: int
    seed: int
    decoding: Decoding
    text: SettledText
    tell: Callable[[Event], None]
    streams: bool = False
    has_stops: bool = False
    shows_canvases: bool = False
    is_cancelled: bool = False
    goes_alone: bool = False

"""Draws traces as an animated GIF, side by side, for a README."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from opendllm.core.foundation.decoding_traces import DecodingTrace
from opendllm.core.foundation.visible_text import visible_line
from opendllm.core.reporting.trace_frames import Change, canvases
from opendllm.core.reporting.trace_layout import COLUMNS, GONE, Drawn, Laid, Window, lay_out, windows

FONTS = ("DejaVuSansMono.ttf", "LiberationMono-Regular.ttf", "Menlo.ttc", "consola.ttf")
"""The first that the system has; else Pillow's own."""
FONT_SIZE, LINE_HEIGHT, MARGIN = 15, 21, 12
FRAME_MILLISECONDS, LAST_FRAME_MILLISECONDS, MOST_FRAMES = 220, 2500, 120
PAGE, INK, FAINT, MASK, BAD, GOOD = "#ffffff", "#1c2430", "#7b8794", "#c9d0d8", "#b02a37", "#157347"
LOW, HIGH = (255, 217, 168), (143, 211, 193)
"""The shades of the first and the last step."""
COLOURS = 48
MARKS: dict[Change, str] = {
    "commit": "written now", "edit": "overwritten", "remask": "masked again", "insert": "put in"
}  # fmt: skip
TAKEN_OUT = "taken out before"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Pane:
    """A trace as it is drawn.

    Attributes:
        trace: itself.
        laid_out: its canvas after each of the steps that are drawn.
        windows: the lines of each that are.
    """

    trace: DecodingTrace
    laid_out: Sequence[Laid]
    windows: Sequence[Window]

    @property
    def steps(self) -> int:
        """All that were taken."""
        return len(self.trace.row.steps)

    @property
    def lines(self) -> int:
        """The most that are drawn of a canvas."""
        return max(window.end - window.top for window in self.windows)


def render_gif(traces: Sequence[DecodingTrace]) -> bytes:
    """One or more traces of the same prompt, each beside the other; the longer one ends last."""
    font = _font()
    steps = max(len(trace.row.steps) for trace in traces)
    stride = -(-(steps + 1) // MOST_FRAMES)
    shown = [*range(0, steps, stride), steps]
    panes = [_pane(trace, shown) for trace in traces]
    images = [_image(panes, number, step, font) for number, step in enumerate(shown)]
    palette = _palette(images)
    quantized = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    file = io.BytesIO()
    quantized[0].save(
        file,
        "GIF",
        save_all=True,
        append_images=quantized[1:],
        duration=[FRAME_MILLISECONDS] * (len(shown) - 1) + [LAST_FRAME_MILLISECONDS],
        loop=0,
        optimize=True,
    )
    return file.getvalue()


def _pane(trace: DecodingTrace, shown: Sequence[int]) -> _Pane:
    last = len(trace.row.steps)
    wanted = {min(step, last) for step in shown}
    laid_out = {
        number: lay_out(trace, cells) for number, cells in enumerate(canvases(trace)) if number in wanted
    }
    of_frames = [laid_out[min(step, last)] for step in shown]
    return _Pane(trace, of_frames, windows(of_frames))


def _palette(images: Sequence[Image.Image]) -> Image.Image:
    """The same for all frames; the colours of rare marks are in it too."""
    chosen = images[:: max(1, len(images) // 6)]
    width, height = images[0].size
    sheet = Image.new("RGB", (width, height * len(chosen) + LINE_HEIGHT), PAGE)
    for number, image in enumerate(chosen):
        sheet.paste(image, (0, number * height))
    for number, colour in enumerate((BAD, GOOD, MASK, INK)):
        left = number * width // 4
        sheet.paste(colour, (left, height * len(chosen), left + width // 4, sheet.height))
    return sheet.quantize(COLOURS, dither=Image.Dither.NONE)


def _font() -> Font:
    for name in FONTS:
        try:
            return ImageFont.truetype(name, FONT_SIZE)
        except OSError:
            continue
    return ImageFont.load_default(FONT_SIZE)


def _image(panes: Sequence[_Pane], number: int, step: int, font: Font) -> Image.Image:
    """The frame of that number, after that step."""
    letter = round(font.getlength("m"))
    width = COLUMNS * letter + 2 * MARGIN
    key = list(_key(panes, width * len(panes) - 2 * MARGIN, font))
    lines = max(pane.lines for pane in panes)
    below = LINE_HEIGHT * (key[-1].line + 1) + MARGIN if key else 0
    image = Image.new("RGB", (width * len(panes), (lines + 1) * LINE_HEIGHT + 3 * MARGIN + below), PAGE)
    draw = ImageDraw.Draw(image)
    for place, pane in enumerate(panes):
        left, top = place * width + MARGIN, LINE_HEIGHT + 2 * MARGIN
        window = pane.windows[number]
        draw.text((left, MARGIN), _head(pane, number, step), font=font, fill=FAINT)
        for drawn in pane.laid_out[number].drawn:
            if window.top <= drawn.line < window.end:
                x, y = left + drawn.column * letter, top + (drawn.line - window.top) * LINE_HEIGHT
                _draw_character(draw, (x, y, letter), drawn, pane, font)
    for entry in key:
        _draw_entry(draw, entry, (MARGIN, (lines + 1) * LINE_HEIGHT + 3 * MARGIN), font)
    return image


def _head(pane: _Pane, number: int, step: int) -> str:
    """Whose canvas it is, how far it is, and what of it is beyond the picture."""
    window, laid = pane.windows[number], pane.laid_out[number]
    said = f"step {min(step, pane.steps)} of {pane.steps}"
    if window.end - window.top < laid.lines:
        said += f", lines {window.top + 1}-{window.end} of {laid.lines}"
    name = visible_line(pane.trace.sampler)
    room = COLUMNS - len(said) - 2
    return f"{name if len(name) <= room else name[: room - 1] + '…'}  {said}"


def _draw_character(
    draw: ImageDraw.ImageDraw, place: tuple[int, int, int], drawn: Drawn, pane: _Pane, font: Font
) -> None:
    x, y, letter = place
    cell, box = drawn.cell, (x, y, x + letter - 1, y + LINE_HEIGHT - 3)
    if drawn.is_gone:
        draw.text((x, y), GONE, font=font, fill=BAD)
        return
    if cell.editable and cell.token == pane.trace.mask_token_id:
        draw.rectangle((x + 1, y + 3, x + letter - 2, y + LINE_HEIGHT - 6), fill=MASK)
    else:
        if cell.editable and cell.step:
            draw.rectangle(box, fill=_shade((cell.step - 1) / max(1, pane.steps - 1)))
        if drawn.text != "\n":
            draw.text((x, y), drawn.text, font=font, fill=INK if cell.editable else FAINT)
    if cell.change is not None:
        _draw_mark(draw, box, cell.change)


def _shade(share: float) -> tuple[int, int, int]:
    red, green, blue = (round(low + share * (high - low)) for low, high in zip(LOW, HIGH, strict=True))
    return red, green, blue


def _draw_mark(draw: ImageDraw.ImageDraw, box: Box, change: Change) -> None:
    """A line, two lines, dots or a frame: they differ without their colours, too."""
    left, top, right, bottom = box
    if change == "remask":
        draw.rectangle((left, top, right, bottom), outline=BAD)
    elif change == "edit":
        for y in (bottom - 2, bottom):
            draw.line((left, y, right, y), fill=BAD)
    elif change == "insert":
        for x in range(left, right, 4):
            draw.line((x, bottom, min(x + 1, right), bottom), fill=GOOD, width=3)
    else:
        draw.line((left, bottom, right, bottom), fill=INK, width=2)


@dataclass(frozen=True)
class _Entry:
    """A part of the key, at `left` pixels of a line: a change's name, what is `GONE`, or the shades."""

    line: int
    left: int
    text: str
    change: Change | None = None


def _key(panes: Sequence[_Pane], width: int, font: Font) -> Iterator[_Entry]:
    """The shades, and the marks that occur anywhere in the traces."""
    steps = [step for pane in panes for step in pane.trace.row.steps]
    occur: list[tuple[str, Change | None]] = [("early to late", None)] if steps else []
    occur += [(text, change) for change, text in MARKS.items() if any(getattr(s, change) for s in steps)]
    occur += [(f"{GONE} {TAKEN_OUT}", None)] if any(step.delete for step in steps) else []
    line = left = 0
    for text, change in occur:
        length = round(font.getlength(text))
        if left and left + length > width:
            line, left = line + 1, 0
        yield _Entry(line, left, text, change)
        left += length + 2 * FONT_SIZE


def _draw_entry(draw: ImageDraw.ImageDraw, entry: _Entry, corner: tuple[int, int], font: Font) -> None:
    x, y = corner[0] + entry.left, corner[1] + entry.line * LINE_HEIGHT
    right, bottom = x + round(font.getlength(entry.text)), y + LINE_HEIGHT - 3
    if entry.change is None and not entry.text.startswith(GONE):
        for column in range(x, right):
            draw.line((column, y, column, bottom), fill=_shade((column - x) / (right - x)))
    draw.text((x, y), entry.text, font=font, fill=INK)
    if entry.text.startswith(GONE):
        draw.text((x, y), GONE, font=font, fill=BAD)
    if entry.change is not None:
        _draw_mark(draw, (x, y, right, bottom), entry.change)

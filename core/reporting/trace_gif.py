"""Draws traces as an animated GIF, side by side, for a README."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from opendllm.core.foundation.decoding_traces import DecodingTrace
from opendllm.core.foundation.visible_text import visible
from opendllm.core.reporting.trace_frames import CanvasCell, canvases

FONTS = ("DejaVuSansMono.ttf", "LiberationMono-Regular.ttf", "Menlo.ttc", "consola.ttf")
"""The first that the system has; else Pillow's own."""
FONT_SIZE, LINE_HEIGHT, MARGIN = 15, 21, 12
COLUMNS, LINES_LEFT_OF_THE_GAP, MOST_LINES = 46, 6, 22
FRAME_MILLISECONDS, LAST_FRAME_MILLISECONDS, MOST_FRAMES = 220, 2500, 120
PAGE, INK, FAINT, MASK, BAD, GOOD = "#ffffff", "#1c2430", "#7b8794", "#c9d0d8", "#b02a37", "#157347"
LOW, HIGH = (255, 217, 168), (143, 211, 193)
"""The shades of the least and of the most confidence, or of the first and the last step."""
COLOURS = 48


@dataclass(frozen=True)
class _Drawn:
    """A character on the grid of a pane, and the cell that it belongs to."""

    line: int
    column: int
    text: str
    cell: CanvasCell


def render_gif(traces: Sequence[DecodingTrace]) -> bytes:
    """One or more traces of the same prompt, each beside the other; the longer one ends last."""
    font = _font()
    frames = [list(canvases(trace)) for trace in traces]
    laid_out = [
        [_layout(trace, cells) for cells in of_trace] for trace, of_trace in zip(traces, frames, strict=True)
    ]
    lines = max(drawn[-1].line for of_trace in laid_out for drawn in of_trace if drawn) + 1
    steps = max(map(len, frames)) - 1
    stride = -(-(steps + 1) // MOST_FRAMES)
    shown = [*range(0, steps, stride), steps]
    images = [_image(traces, laid_out, step, min(lines, MOST_LINES), font) for step in shown]
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


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in FONTS:
        try:
            return ImageFont.truetype(name, FONT_SIZE)
        except OSError:
            continue
    return ImageFont.load_default(FONT_SIZE)


def _layout(trace: DecodingTrace, cells: Sequence[CanvasCell]) -> list[_Drawn]:
    """Characters on a grid, from a few lines left of the first position that is written."""
    line = column = 0
    found: list[_Drawn] = []
    for cell in cells:
        mask = cell.token == trace.mask_token_id
        text = "▒" if mask else visible(trace.vocabulary[cell.token]).replace("\t", "    ")
        for character in text:
            if column >= COLUMNS:
                line, column = line + 1, 0
            found.append(_Drawn(line, column, character, cell))
            column += 1
            if character == "\n":
                line, column = line + 1, 0
    first = next((drawn.line for drawn in found if drawn.cell.editable), 0)
    start = max(0, first - LINES_LEFT_OF_THE_GAP)
    return [
        _Drawn(drawn.line - start, drawn.column, drawn.text, drawn.cell)
        for drawn in found
        if 0 <= drawn.line - start < MOST_LINES
    ]


def _image(
    traces: Sequence[DecodingTrace],
    laid_out: Sequence[Sequence[Sequence[_Drawn]]],
    step: int,
    lines: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> Image.Image:
    letter = round(font.getlength("m"))
    width = COLUMNS * letter + 2 * MARGIN
    image = Image.new("RGB", (width * len(traces), (lines + 1) * LINE_HEIGHT + 3 * MARGIN), PAGE)
    draw = ImageDraw.Draw(image)
    for number, (trace, frames) in enumerate(zip(traces, laid_out, strict=True)):
        at = min(step, len(frames) - 1)
        left, top = number * width + MARGIN, LINE_HEIGHT + 2 * MARGIN
        draw.text((left, MARGIN), f"{trace.sampler}  step {at} of {len(frames) - 1}", font=font, fill=FAINT)
        for drawn in frames[at]:
            x, y = left + drawn.column * letter, top + drawn.line * LINE_HEIGHT
            _draw_character(draw, (x, y, letter), drawn, trace, len(frames) - 1, font)
    return image


def _draw_character(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int, int],
    drawn: _Drawn,
    trace: DecodingTrace,
    steps: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    x, y, letter = place
    cell, box = drawn.cell, (place[0], place[1], place[0] + letter - 1, place[1] + LINE_HEIGHT - 3)
    if cell.editable and cell.token == trace.mask_token_id:
        draw.rectangle((x + 1, y + 3, x + letter - 2, y + LINE_HEIGHT - 6), fill=MASK)
        if cell.change == "remask":
            draw.rectangle(box, outline=BAD)
        return
    if cell.editable and cell.step:
        share = (cell.step - 1) / max(1, steps - 1)
        shade = tuple(round(low + share * (high - low)) for low, high in zip(LOW, HIGH, strict=True))
        draw.rectangle(box, fill=shade)
    if drawn.text != "\n":
        draw.text((x, y), drawn.text, font=font, fill=INK if cell.editable else FAINT)
    if cell.change is not None:
        colour = {"commit": INK, "edit": BAD, "insert": GOOD, "remask": BAD}[cell.change]
        draw.line((x, box[3], box[2], box[3]), fill=colour, width=2)

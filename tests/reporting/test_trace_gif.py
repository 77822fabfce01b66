"""The animated GIF of a trace."""

from __future__ import annotations

import io

from PIL import Image, ImageSequence

from opendllm.core.foundation.decoding_traces import DecodingTrace, read_trace
from opendllm.core.reporting.trace_frames import canvases
from opendllm.core.reporting.trace_gif import MARGIN, render_gif
from opendllm.core.reporting.trace_layout import MOST_LINES, lay_out, windows

from .conftest import FakeRun


def frames(gif: bytes) -> list[Image.Image]:
    with Image.open(io.BytesIO(gif)) as image:
        return [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]


def test_a_frame_for_each_canvas_and_the_last_one_stays(run: FakeRun) -> None:
    run.trace("llada", "b")
    gif = render_gif([read_trace(run.folder / "llada/traces/b.json")])
    shown = frames(gif)
    assert len(shown) == 5
    assert len({frame.tobytes() for frame in shown}) == 5
    with Image.open(io.BytesIO(gif)) as image:
        image.seek(4)
        assert image.info["duration"] > 1000
        assert image.info["loop"] == 0
    assert len(gif) < 30_000


def test_two_stand_side_by_side_until_the_longer_one_ends(run: FakeRun) -> None:
    run.trace("llada", "b")
    run.trace("llada", "c", steps=[{"commit": [[1, 2, 0.5], [2, 3, 0.5], [3, 3, 0.5]]}])
    long, short = (read_trace(run.folder / f"llada/traces/{name}.json") for name in "bc")
    both, alone = frames(render_gif([long, short])), frames(render_gif([long]))
    assert len(both) == 5
    assert both[0].width == 2 * alone[0].width


def one_line_after_the_other(run: FakeRun, lines: int) -> DecodingTrace:
    spelt = {str(number): f"line {number}\n" for number in range(2, lines + 2)}
    run.trace(
        "llada",
        "b",
        vocabulary={"0": "m", "1": "def f(x):\n" * 20, **spelt},
        start=[1] + [0] * lines,
        editable=list(range(1, lines + 1)),
        steps=[{"commit": [[line, line + 1, 0.5]]} for line in range(1, lines + 1)],
    )
    return read_trace(run.folder / "llada/traces/b.json")


def test_of_a_long_canvas_what_is_written_is_shown_and_the_head_says_what_is_not(run: FakeRun) -> None:
    trace = one_line_after_the_other(run, 80)
    laid_out = [lay_out(trace, cells) for cells in canvases(trace)]
    shown = windows(laid_out)
    assert all(window.top <= laid.first for window, laid in zip(shown[:5], laid_out, strict=False))
    for laid, window in zip(laid_out[1:], shown[1:], strict=True):
        assert laid.changes
        assert all(window.top <= line < window.end for line in laid.changes)
        assert window.end - window.top <= MOST_LINES
    assert shown[-1].end == laid_out[-1].lines
    heads = {frame.crop((0, 0, frame.width, 30)).tobytes() for frame in frames(render_gif([trace]))}
    assert len(heads) == 81


def test_what_is_all_in_sight_is_shown_from_a_few_lines_left_of_the_gap(run: FakeRun) -> None:
    trace = one_line_after_the_other(run, 4)
    shown = windows([lay_out(trace, cells) for cells in canvases(trace)])
    assert len({window.top for window in shown}) == 1
    assert (shown[0].top, shown[-1].end) == (14, 24)


def test_a_canvas_that_draws_nothing_is_a_picture_all_the_same(run: FakeRun) -> None:
    """An empty one; one whose tokens are spelt as nothing; one that is emptied."""
    run.trace("llada", "b", start=[], editable=[], steps=[])
    run.trace("llada", "c", vocabulary=dict.fromkeys("01234", ""))
    run.trace("llada", "d", start=[0, 0], editable=[0, 1], steps=[{"delete": [0, 1]}])
    traces = [read_trace(run.folder / f"llada/traces/{name}.json") for name in "bcd"]
    for trace, count in zip(traces, (1, 5, 2), strict=True):
        assert len(frames(render_gif([trace]))) == count
    assert len(frames(render_gif(traces))) == 5
    nothing = lay_out(traces[1], list(canvases(traces[1]))[-1])
    assert [drawn.text for drawn in nothing.drawn if drawn.cell.editable] == [" ", " "]  # but has its place


def test_what_was_taken_out_leaves_a_sign(run: FakeRun) -> None:
    run.trace("llada", "b")
    trace = read_trace(run.folder / "llada/traces/b.json")
    after = list(canvases(trace))
    assert [[cell.gone for cell in cells] for cells in after[2:]] == [[0] * 5, [0, 0, 2], [0, 0, 0]]
    assert "".join(drawn.text for drawn in lay_out(trace, after[3]).drawn) == "def f(x): c×× b"
    assert "".join(drawn.text for drawn in lay_out(trace, after[4]).drawn) == "def f(x): a b"


def test_the_key_names_the_marks_that_occur(run: FakeRun) -> None:
    def colours(*steps: dict[str, object]) -> list[tuple[int, int, int]]:
        """Below the canvas."""
        run.trace("llada", "b", steps=list(steps))
        frame = frames(render_gif([read_trace(run.folder / "llada/traces/b.json")]))[0]
        key = frame.crop((0, 2 * 21 + 3 * MARGIN, *frame.size))
        assert key.height > 0
        pixels = key.tobytes()
        return list(set(zip(pixels[::3], pixels[1::3], pixels[2::3], strict=True)))

    def some(found: list[tuple[int, int, int]], near: tuple[int, int, int]) -> bool:
        return any(sum(abs(a - b) for a, b in zip(colour, near, strict=True)) < 30 for colour in found)

    red, green = (176, 42, 55), (21, 115, 71)
    assert not some(colours({"commit": [[1, 2, 0.5]]}), red)
    assert some(colours({"remask": [1]}), red)
    assert some(colours({"insert": [[1, 0, None]]}), green)
    assert some(colours({"delete": [1]}), red)


def test_any_characters_and_very_long_traces_are_drawn(run: FakeRun) -> None:
    spelt = {"0": "m", "1": "\x1b[31m\u202e 中文 \ud83d\n\t" * 40, "2": "x" * 300, "3": "\n" * 50}
    steps = [{"commit": [[1, 2, None]]}, {"remask": [1]}] * 300
    run.trace("llada", "b", vocabulary=spelt, start=[1, 0, 3], editable=[1], steps=steps)
    shown = frames(render_gif([read_trace(run.folder / "llada/traces/b.json")]))
    assert 2 <= len(shown) <= 121
    assert shown[0].height < 800

"""The animated GIF of a trace."""

from __future__ import annotations

import io

from PIL import Image, ImageSequence

from opendllm.core.foundation.decoding_traces import read_trace
from opendllm.core.reporting.trace_gif import render_gif

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


def test_any_characters_and_very_long_traces_are_drawn(run: FakeRun) -> None:
    spelt = {"0": "m", "1": "\x1b[31m\u202e 中文 \ud83d\n\t" * 40, "2": "x" * 300, "3": "\n" * 50}
    steps = [{"commit": [[1, 2, None]]}, {"remask": [1]}] * 300
    run.trace("llada", "b", vocabulary=spelt, start=[1, 0, 3], editable=[1], steps=steps)
    shown = frames(render_gif([read_trace(run.folder / "llada/traces/b.json")]))
    assert 2 <= len(shown) <= 121
    assert shown[0].height < 800

"""The trace viewer, in a report and in a page of its own."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from opendllm.core.foundation.decoding_traces import (
    DecodingTrace,
    RowTrace,
    TraceStep,
    read_trace,
    trace_content,
)
from opendllm.core.reporting.trace_frames import canvases
from opendllm.core.reporting.trace_page import render_trace_page

from ..reporting.conftest import FakeRun
from .conftest import Open

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def trace_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two samplers on one prompt, and one on another."""
    folder = tmp_path_factory.mktemp("trace")
    run = FakeRun(folder)
    run.trace("a", "b")
    run.trace("a", "c", sampler="p2", steps=[{"commit": [[1, 2, 0.5], [2, 3, 0.5], [3, 3, 0.5]]}])
    run.trace("a", "d", prompt="<script>window.attacked=1</script>\u202e")
    traces = [read_trace(folder / "a" / "traces" / f"{name}.json") for name in "bcd"]
    (folder / "trace.html").write_text(render_trace_page("a, step by step", traces))
    return folder / "trace.html"


def canvas(page: Page, number: int = 0) -> Locator:
    return page.locator(".canvas").nth(number)


def marks(page: Page, kind: str) -> list[str]:
    return canvas(page).locator(f".{kind}").all_inner_texts()


def test_every_change_of_a_canvas_is_marked(trace_page: Path, open_page: Open) -> None:
    page = open_page(trace_page)
    expect(canvas(page)).to_have_text("def f(x):▒▒▒")
    step = page.get_by_label("one step forward")
    step.click()
    expect(canvas(page)).to_have_text("def f(x): a c▒")
    assert marks(page, "commit") == [" a", " c"]
    step.click()
    expect(canvas(page)).to_have_text("def f(x): a▒▒▒")
    assert (marks(page, "remask"), marks(page, "insert")) == (["▒"], ["▒"])
    step.click()
    expect(canvas(page)).to_have_text("def f(x): c b")
    assert (marks(page, "edit"), marks(page, "commit")) == ([" c"], [" b"])
    assert page.locator(".gone[data-gone='××']").count() == 1
    expect(page.get_by_role("status").first).to_contain_text(
        "Step 3 of 4: 1 written, 1 overwritten, 2 taken out; 0 masks left."
    )
    page.get_by_label("one step back").click()
    expect(canvas(page)).to_have_text("def f(x): a▒▒▒")


def test_it_plays_to_the_end_pauses_and_scrubs(trace_page: Path, open_page: Open) -> None:
    page = open_page(trace_page)
    page.get_by_label("speed").select_option("8")
    play = page.get_by_role("button", name="Play")
    play.click()
    expect(page.locator(".play")).to_contain_text("Play")  # it stops by itself
    expect(canvas(page)).to_have_text("def f(x): a b")
    page.get_by_label("speed").select_option("0.5")
    play.click()  # from the beginning again
    page.get_by_role("button", name="Pause").click()
    scrub = page.get_by_role("slider", name="step")
    scrub.fill("2")
    expect(canvas(page)).to_have_text("def f(x): a▒▒▒")
    assert scrub.get_attribute("aria-valuetext") == "step 2 of 4"
    scrub.fill("0")
    expect(canvas(page)).to_have_text("def f(x):▒▒▒")


def test_two_samplers_stand_side_by_side_on_one_prompt(trace_page: Path, open_page: Open, size: str) -> None:
    page = open_page(trace_page)
    expect(page.locator(".pane h4")).to_have_text(["low-confidence", "p2"])
    page.get_by_label("one step forward").click()
    expect(canvas(page, 1)).to_have_text("def f(x): a b b")
    left, right = canvas(page).bounding_box(), canvas(page, 1).bounding_box()
    assert left is not None
    assert right is not None
    assert (left["y"] == right["y"]) == (size == "desktop")
    page.get_by_label("one step forward").click()
    expect(canvas(page, 1)).to_have_text("def f(x): a b b")  # it is done
    page.get_by_label("right", exact=True).select_option("none")
    expect(canvas(page, 1)).to_be_hidden()


def test_colours_tell_confidence_or_the_step(trace_page: Path, open_page: Open) -> None:
    page = open_page(trace_page)
    page.get_by_role("slider", name="step").fill("1")
    cells = canvas(page).locator(".shaded")

    def shares() -> list[str]:
        found: list[str] = cells.evaluate_all(
            "all => all.map((each) => each.style.getPropertyValue('--share'))"
        )
        return found

    assert shares() == ["90%", "20%"]
    page.get_by_label("colour").select_option("step")
    assert shares() == ["0%", "0%"]
    page.get_by_role("slider", name="step").fill("4")
    assert shares() == ["100%", "67%"]
    assert cells.first.get_attribute("title") == "written in step 4, confidence 1.00"


def test_keys_and_a_screen_reader_do_as_the_mouse_does(trace_page: Path, open_page: Open) -> None:
    page = open_page(trace_page)
    canvas(page).focus()
    for key, text in (
        ("ArrowRight", "def f(x): a c▒"),
        ("End", "def f(x): a b"),
        ("ArrowLeft", "def f(x): c b"),
        ("Home", "def f(x):▒▒▒"),
    ):
        page.keyboard.press(key)
        expect(canvas(page)).to_have_text(text)
    page.get_by_label("speed").select_option("8")
    canvas(page).focus()
    page.keyboard.press(" ")
    expect(canvas(page)).to_have_text("def f(x): a b")
    page.get_by_role("slider", name="step").fill("1")
    label = canvas(page).get_attribute("aria-label")
    assert label == "low-confidence, Step 1 of 4: 2 written; 1 masks left.  a c [1 mask] "


def test_the_focus_goes_through_the_controls_in_their_order_and_out_again(
    trace_page: Path, open_page: Open
) -> None:
    """Forwards and back; no control holds it."""
    page = open_page(trace_page)
    expect(canvas(page)).to_be_visible()
    order = [
        *("task", "left", "right", "play", "back", "scrub", "forward"),
        *("speed", "colour", "canvas", "canvas"),
    ]
    focused = "document.activeElement.closest('.viewer') ? document.activeElement.classList[0] : 'outside'"

    def walk(key: str, steps: int) -> list[str]:
        found = []
        for _ in range(steps):
            page.keyboard.press(key)
            found.append(str(page.evaluate(focused)))
        return found

    page.get_by_label("task", exact=True).focus()
    assert walk("Tab", len(order)) == [*order[1:], "outside"]
    page.get_by_label("task", exact=True).focus()
    assert walk("Tab", len(order) - 1) == order[1:]
    assert walk("Shift+Tab", len(order) - 1) == order[-2::-1]


def random_trace(seed: int) -> DecodingTrace:
    """Of steps that write, overwrite, mask again, delete and insert wherever they may."""
    generator = random.Random(seed)
    length = generator.randint(2, 9)
    editable = [column for column in range(length) if generator.random() < 0.8]
    may_change = [column in editable for column in range(length)]
    steps = []
    for _ in range(generator.randint(1, 8)):
        columns = [column for column, free in enumerate(may_change) if free]
        delete = sorted(column for column in columns if generator.random() < 0.2)
        may_change = [free for column, free in enumerate(may_change) if column not in delete]
        insert: list[tuple[int, int, float | None]] = []
        for _ in range(generator.choice([0, 0, 1, 2, 3])):
            after = insert[-1][0] + 1 if insert else 0
            if after <= len(may_change):
                column = generator.randint(after, len(may_change))
                insert.append((column, generator.randrange(5), generator.choice([None, 0.25])))
                may_change.insert(column, True)
        new = {column for column, _, _ in insert}
        kinds: dict[str, list[int]] = {"commit": [], "edit": [], "remask": []}
        for column, free in enumerate(may_change):
            if free and column not in new and generator.random() < 0.6:
                kinds[generator.choice(list(kinds))].append(column)
        written = {
            kind: tuple(
                (column, generator.randrange(1, 5), generator.choice([None, 0.5])) for column in kinds[kind]
            )
            for kind in ("commit", "edit")
        }
        steps.append(
            TraceStep(
                commit=written["commit"],
                edit=written["edit"],
                remask=tuple(kinds["remask"]),
                insert=tuple(insert),
                delete=tuple(delete),
            )
        )
    start = tuple(generator.randrange(5) for _ in range(length))
    row = RowTrace(start, tuple(editable), tuple(steps))
    return DecodingTrace(
        prompt="",
        suffix=None,
        text="",
        sampler="any",
        mask_token_id=0,
        vocabulary={token: str(token) for token in range(5)},
        forward_passes=1,
        row=row,
    )


@pytest.mark.parametrize("size", ["desktop"], indirect=True)
def test_the_page_replays_random_traces_as_python_does(trace_page: Path, open_page: Open) -> None:
    """Which is held to the decoder's own canvases elsewhere."""
    traces = [random_trace(seed) for seed in range(200)]
    page = open_page(trace_page)
    replayed = page.evaluate(
        """(traces) => traces.map((trace) => framesOf(trace).map(({cells}) => cells.map(
            ({token, editable, step, confidence, change}) =>
                [token, editable, step, confidence, CHANGES[change] || null])))""",
        [trace_content(trace) for trace in traces],
    )
    for trace, frames in zip(traces, replayed, strict=True):
        expected = [
            [[each.token, each.editable, each.step, each.confidence, each.change] for each in cells]
            for cells in canvases(trace)
        ]
        assert frames == expected


def test_another_prompt_is_text_and_stands_alone(trace_page: Path, open_page: Open) -> None:
    page = open_page(trace_page)
    page.get_by_label("task", exact=True).select_option(index=1)
    expect(page.locator(".pane h4").first).to_have_text("low-confidence")
    expect(canvas(page, 1)).to_be_hidden()
    assert "\\u202e" in page.get_by_label("task", exact=True).inner_text()
    assert page.evaluate("window.attacked") is None


def test_a_report_plays_its_variants_traces_side_by_side(report: Path, open_page: Open) -> None:
    page = open_page(report, fragment="#steps")
    expect(page.locator(".pane h4")).to_have_text(
        [
            "zebra · sampler-of-zebra-with-a-name-as-long-as-some",
            "llada · sampler-of-llada-with-a-name-as-long-as-some",
        ]
    )
    page.get_by_label("left", exact=True).select_option(
        "dream · sampler-of-dream-with-a-name-as-long-as-some"
    )
    page.locator(".forward").click()
    expect(canvas(page)).to_have_text("def f(x): a c▒")

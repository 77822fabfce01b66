"""What strangers called things and what a model wrote, in every place of a page that shows it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

from opendllm.core.foundation.decoding_traces import read_trace
from opendllm.core.foundation.visible_text import UNSEEN, visible
from opendllm.core.reporting import write_report
from opendllm.core.reporting.trace_page import render_trace_page

from ..reporting.conftest import FakeRun
from .conftest import Open

pytestmark = [pytest.mark.browser, pytest.mark.parametrize("size", ["desktop"], indirect=True)]

HOSTILE = "<img src=x onerror=window.attacked=1>\u202e\x1b[2J\u3164\U000e0041"
SHOWN = "<img src=x onerror=window.attacked=1>\\u202e\\x1b[2J\\u3164\\U000e0041"
SCRIPT = "</pre><script>window.attacked=1</script>"
ATTACKS = {"0": "<mask>", "1": "def f(x):", "2": HOSTILE, "3": SCRIPT, "4": "\ud83d\ufe0f"}


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Variants, a benchmark, settings, metrics, verdicts and tokens, all up to no good."""
    run = FakeRun(tmp_path_factory.mktemp("runs") / "hostile")
    names = (f"a{HOSTILE}", f"b{HOSTILE}")
    run.manifest(f"name: hostile\nvariants: {json.dumps({name: {} for name in names}, ensure_ascii=False)}\n")
    for name in names:
        run.variant(name)
        for benchmark in (f"c{HOSTILE}", "other"):
            metric = f"m{HOSTILE}"
            run.result(name, benchmark, {metric: (0.5, 0.4, 0.6)}, per_task={"t0": {metric: 0.5}})
            for setting in ("default", f"s{HOSTILE}"):
                run.sample(name, benchmark, setting=setting, text=HOSTILE, reference=HOSTILE)
        run.trace(name, f"c{HOSTILE}", vocabulary=ATTACKS)
    return write_report(run.folder).html


def test_names_are_text_in_filters_rows_tables_and_charts(hostile_report: Path, open_page: Open) -> None:
    page = open_page(hostile_report)
    for label, name in (("variant", f"a{SHOWN}"), ("benchmark", f"c{SHOWN}"), ("setting", f"s{SHOWN}")):
        chosen = page.locator("#samples").get_by_label(label, exact=True)
        assert name in chosen.locator("option").all_text_contents()
        chosen.select_option(label=name)
    expect(page.locator("#samples .count")).to_contain_text("1 of 8")
    row = page.locator("#samples [role=option]")
    expect(row.locator(".task")).to_have_text(f"a{SHOWN} · s{SHOWN} · t0")
    expect(row.locator(".answer-line")).to_have_text(SHOWN)
    detail = page.locator("#samples .detail")
    assert detail.locator("mark").first.inner_text() == SHOWN
    expect(detail.locator("h3")).to_contain_text(f"(c{SHOWN}, s{SHOWN}, sample 0)")
    expect(page.locator("#scores")).to_contain_text(f"m{SHOWN}")
    for chart in page.locator(".chart").all():
        chart.scroll_into_view_if_needed()
        expect(chart.locator(".main-svg").first).to_be_attached(timeout=60_000)
    assert page.evaluate("window.attacked") is None
    assert page.locator("img").count() == 0
    assert page.evaluate("[...document.body.innerText].filter((sign) => sign !== plainly(sign))") == []


def test_tokens_are_text_in_every_canvas_that_is_played(hostile_report: Path, open_page: Open) -> None:
    trace = next(hostile_report.parent.glob("*/traces/*.json"))
    alone = hostile_report.parent / "trace.html"
    alone.write_text(render_trace_page(f"x{HOSTILE}", [read_trace(trace)]))
    for path in (hostile_report, alone):
        page = open_page(path)
        shown = page.locator(".canvas").first
        step = page.get_by_label("one step forward")
        written = []
        for _ in range(3):
            step.click()
            written.append(shown.inner_text())
        assert written[0] == f"def f(x):{SHOWN}\\ud83d\\ufe0f▒"
        assert written[2] == f"def f(x):\\ud83d\\ufe0f{SCRIPT}"
        page.get_by_label("one step back").click()
        label = shown.get_attribute("aria-label")
        assert label is not None
        assert SHOWN in label
        assert page.evaluate("window.attacked") is None
        assert page.locator("#traces img, #traces script").count() == 0


def test_a_page_spells_what_python_does(hostile_report: Path, open_page: Open) -> None:
    """Each sign there is; the list is written once."""
    page = open_page(hostile_report)
    found = page.evaluate(
        "(last) => Array.from({length: last + 1}, (_, code) => code)"
        ".filter((code) => plainly(String.fromCodePoint(code)) !== String.fromCodePoint(code))",
        sys.maxunicode,
    )
    assert found == [code for first, last in UNSEEN for code in range(first, last + 1)]
    for text in ("\x1b", "\u3164", "\U000e0041", "a\ud83db\ude00", "😀", "\udc00\ud83d"):
        assert page.evaluate(f"plainly({json.dumps(text)})") == visible(text)

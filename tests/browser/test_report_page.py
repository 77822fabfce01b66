"""The report as its readers use it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from .conftest import BENCHMARKS, HOSTILE, SAMPLES, VARIANTS, Open

pytestmark = pytest.mark.browser


def first_column(page: Page) -> list[str]:
    return page.locator("#scores table").first.locator("tbody td:first-child .number").all_inner_texts()


def test_a_large_report_is_small_and_keeps_its_samples_out_of_the_document(
    report: Path, open_page: Open
) -> None:
    assert report.stat().st_size < 10_000_000
    page = open_page(report)
    expected = f"{len(VARIANTS) * len(BENCHMARKS) * SAMPLES:,} of"
    expect(page.locator("#samples .count")).to_contain_text(expected)
    assert page.locator("#samples [role=option]").count() < 40
    assert page.evaluate("document.querySelectorAll('*').length") < 5000


def test_nothing_is_off_the_screen_and_first_columns_stay(report: Path, open_page: Open) -> None:
    page = open_page(report)
    expect(page.locator("#traces .cell").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    outside = """() => [...document.querySelectorAll('main *')].filter((element) => {
        if (element.closest('.scroll, pre, .list, svg, [hidden], .unseen-status')) return false;
        const box = element.getBoundingClientRect();
        return box.width && (box.right > innerWidth + 1 || box.left < -1);
    }).map((element) => element.outerHTML.slice(0, 100))"""
    assert page.evaluate(outside) == []
    table = page.locator("#scores .scroll").first
    cell = table.locator("tbody td").first
    before = cell.bounding_box()
    table.evaluate("element => { element.scrollLeft = 10000; }")
    assert cell.bounding_box() == before


def test_a_click_on_a_head_sorts_and_another_turns_round(report: Path, open_page: Open) -> None:
    page = open_page(report)
    head = page.locator("#scores th", has_text="perplexity ↓")
    assert first_column(page) == ["zebra", "llada", "dream"]
    head.get_by_role("button").click()
    assert first_column(page) == ["llada", "zebra", "dream"]  # what has no value stays at the end
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").press("Enter")
    assert first_column(page) == ["zebra", "llada", "dream"]
    assert head.get_attribute("aria-sort") == "descending"
    page.locator("#scores th", has_text="variant").first.get_by_role("button").click()
    assert first_column(page) == ["dream", "llada", "zebra"]
    assert head.get_attribute("aria-sort") is None


def test_charts_are_drawn_when_they_come_into_sight(report: Path, open_page: Open) -> None:
    page = open_page(report)
    charts = page.locator(".chart")
    assert charts.count() > 10
    assert page.locator(".chart[data-drawn]").count() < charts.count()
    for number in range(charts.count()):
        charts.nth(number).scroll_into_view_if_needed()
        expect(charts.nth(number).locator(".main-svg").first).to_be_attached()
    legends = page.locator("#training .chart").first.locator(".legendtext").all_text_contents()
    assert legends == list(VARIANTS)


def test_samples_are_filtered_searched_and_walked_by_keys(report: Path, open_page: Open) -> None:
    page = open_page(report)
    count, options = page.locator("#samples .count"), page.locator("#samples [role=option]")
    page.get_by_label("benchmark", exact=True).select_option("math")
    page.get_by_label("variant", exact=True).select_option("llada")
    expect(count).to_contain_text(re.compile("^1,000 of"))
    page.get_by_label("verdict", exact=True).select_option("failed")
    failed = [task for task in range(SAMPLES - len(HOSTILE)) if (task * 7 + 1) % 3 != 0]
    expect(count).to_contain_text(re.compile(f"^{len(failed)} of"))
    page.get_by_label("search the samples").fill("result_501 ")
    expect(options).to_have_count(1)
    detail = page.locator("#samples .detail")
    expect(detail).to_contain_text("task/501 (math, sample 0)")
    expect(detail).to_contain_text("failed: assertion: f(1) == 2")
    expect(detail.locator("mark")).to_contain_text("result_501 = llada(values, ")
    expect(detail).to_contain_text("dream(values, ")  # the others' answers
    page.get_by_label("search the samples").fill("no such text")
    expect(detail).to_contain_text("No sample is like that.")
    page.get_by_label("search the samples").fill("")
    rows = page.get_by_role("listbox", name="samples")
    rows.press("End")
    last = page.locator("#samples [aria-selected=true]")
    expect(last).to_have_attribute("aria-posinset", str(len(failed)))
    expect(detail).to_contain_text(f"task/{failed[-1]}")
    rows.press("ArrowUp")
    expect(page.locator("#samples [aria-selected=true]")).to_have_attribute(
        "aria-posinset", str(len(failed) - 1)
    )
    assert options.count() < 40


def test_a_screen_reader_is_told_of_the_row_that_is_chosen_and_no_more(report: Path, open_page: Open) -> None:
    page = open_page(report)
    rows = page.get_by_role("listbox", name="samples")
    rows.press("ArrowDown")
    expect(rows).to_have_attribute("aria-activedescendant", "sample-1")
    assert page.locator("#samples [aria-live]").count() == 0
    rows.evaluate("element => { element.scrollTop = 100000; }")
    expect(page.locator("#sample-1")).to_have_count(0)
    expect(rows).not_to_have_attribute("aria-activedescendant", re.compile(""))
    rows.press("ArrowDown")
    expect(rows).to_have_attribute("aria-activedescendant", "sample-2")
    expect(page.locator("#sample-2")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("region", name="the chosen sample")).to_be_visible()


def test_what_a_model_wrote_is_text_whatever_it_is(report: Path, open_page: Open) -> None:
    page = open_page(report)
    shown = {}
    for name in HOSTILE:
        page.get_by_label("search the samples").fill(f"hostile/{name}")
        page.get_by_label("benchmark", exact=True).select_option("code")
        expect(page.locator("#samples .detail")).to_contain_text(f"hostile/{name}")
        shown[name] = page.locator("#samples .detail mark").first.inner_text()
    assert shown["html"] == HOSTILE["html"]
    assert (
        shown["steering"] == "\\x1b[31mred\\x07 \\u202eright to left\\u202c \u05d0\u05d1 \\ud83d \\ufeffend"
    )
    assert shown["blank"].split() == ["··⏎", "→"]
    assert shown["empty"] == "nothing"
    assert page.evaluate("window.attacked") is None
    assert page.locator("#samples img").count() == 0


def test_the_page_follows_the_systems_dark_mode(report: Path, open_page: Open) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    page = open_page(report)
    assert page.evaluate(colour) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colour) == "rgb(20, 24, 30)"

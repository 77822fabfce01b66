"""The report as its readers use it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from .conftest import BENCHMARKS, HOSTILE, MANY_SAMPLES, SAMPLES, VARIANTS, Open

pytestmark = pytest.mark.browser


def first_column(page: Page) -> list[str]:
    return page.locator("#scores table").first.locator("tbody td:first-child .number").all_inner_texts()


def test_a_large_report_is_small_and_keeps_its_samples_out_of_the_document(
    large_report: Path, open_page: Open
) -> None:
    """Whatever they are made of: these don't pack."""
    assert large_report.stat().st_size < 10_000_000
    page = open_page(large_report)
    options = page.locator("#samples [role=option]")
    expect(options.first).to_be_attached()
    said = page.locator("#answers > p").inner_text()
    there = f"{len(VARIANTS) * len(BENCHMARKS) * (MANY_SAMPLES + len(HOSTILE)):,}"
    found = re.fullmatch(
        rf"This page holds ([\d,]+) of {there} samples, texts up to 500 characters \(([\d,]+) are cut\)\. "
        r"All of them, and whole, are in the run's folder: VARIANT/samples/BENCHMARK\.jsonl\.",
        said,
    )
    assert found is not None, said
    assert page.locator("#samples .count").inner_text().startswith(f"{found[1]} of {found[1]} samples; ")
    assert int(found[1].replace(",", "")) > 0.75 * len(VARIANTS) * len(BENCHMARKS) * MANY_SAMPLES
    assert options.count() < 40
    assert page.evaluate("document.querySelectorAll('*').length") < 5000


def test_a_long_list_of_samples_is_scrolled_with_few_rows_and_none_missing_in_sight(
    large_report: Path, open_page: Open
) -> None:
    page = open_page(large_report)
    expect(page.locator("#samples [role=option]").first).to_be_attached()
    found = page.evaluate("""async () => {
        const list = document.querySelector("#samples .list");
        const box = list.getBoundingClientRect();
        const painted = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
        const found = [];
        for (const share of [0, 0.2, 0.5, 0.500001, 0.9, 1]) {
            list.scrollTop = share * list.scrollHeight;
            await painted();
            const rows = [...list.querySelectorAll("[role=option]")];
            const boxes = rows.map((row) => row.getBoundingClientRect());
            found.push({
                rows: rows.length,
                above: Math.min(...boxes.map((each) => each.top)) <= box.top + 2,
                below: Math.max(...boxes.map((each) => each.bottom)) >= box.bottom - 2,
                last: Math.max(...rows.map((row) => Number(row.ariaPosInSet))),
            });
        }
        return found;
    }""")
    assert all(each["above"] and each["below"] and each["rows"] < 40 for each in found)
    shown = page.locator("#samples .count").inner_text().split(" of ")[0]
    assert found[-1]["last"] == int(shown.replace(",", ""))


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
    expect(count).to_contain_text(re.compile(f"^{SAMPLES + len(HOSTILE)} of"))
    page.get_by_label("verdict", exact=True).select_option("failed")
    failed = [task for task in range(SAMPLES) if (task * 7 + 1) % 3 != 0]
    expect(count).to_contain_text(re.compile(f"^{len(failed)} of"))
    page.get_by_label("search the samples").fill("result_51 ")
    expect(options).to_have_count(1)
    detail = page.locator("#samples .detail")
    expect(detail).to_contain_text("task/51 (math, sample 0)")
    expect(detail).to_contain_text("failed: assertion: f(1) == 2")
    expect(detail.locator("mark")).to_contain_text("result_51 = llada(values, ")
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


@pytest.mark.parametrize("size", ["desktop"], indirect=True)
def test_readmes_pictures_can_be_taken_of_a_report(
    report: Path, browser: Browser, size: str, repository: Path, tmp_path: Path
) -> None:
    """Not only of the one that they were taken of."""
    spec = importlib.util.spec_from_file_location("screenshots", repository / "docs" / "screenshots.py")
    assert spec is not None
    assert spec.loader is not None
    screenshots = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(screenshots)
    screenshots.take_pictures(browser, report, tmp_path)
    sizes = {}
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            sizes[path.name] = image.size
    assert sizes == {"report.png": (1280, 860), "report-phone.png": (390, 844), "samples.png": (1280, 760)}


def test_the_page_follows_the_systems_dark_mode(report: Path, open_page: Open) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    page = open_page(report)
    assert page.evaluate(colour) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colour) == "rgb(20, 24, 30)"

"""The pictures and the scores in README.md, from a run: python docs/screenshots.py runs/quickstart

Makes the run's report anew and photographs it in the system's Chromium; has one of its checkpoints write by
two samplers, drawn as a GIF; keeps the scores that README's table shows. Needs playwright, as tests/browser
does. `--charts NAME.png` takes the headline metrics' charts alone; the run's checkpoints needn't be there.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, Playwright, sync_playwright

HERE = Path(__file__).parent
PROGRAMS = (HERE.parent / "tests" / "browser" / "programs.txt").read_text().split()
"""What the system's Chromium may be called."""
COLOURS, LARGEST = 128, 150_000
PROMPT = "def add(a, b):\n    return a + b\n\ndef sub(a, b):\n"
OPTIONS = ("-o", "max_new_tokens=64", "-o", "steps=32", "-o", "temperature=0.7")
SCORES = "scores.txt"
DRAWN = """() => [...document.querySelectorAll(".chart")].every((chart) => {
    const box = chart.getBoundingClientRect();
    return chart.dataset.drawn || box.bottom < 0 || box.top > innerHeight;
})"""


def main() -> None:
    """Take all pictures."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("--variant", default="llada", help="whose checkpoint writes the trace")
    parser.add_argument("--output", type=Path, default=HERE / "images")
    parser.add_argument("--charts", metavar="NAME", help="of the only picture that is taken")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    platform("report", str(given.run))
    if given.charts:
        with sync_playwright() as playwright, chromium(playwright) as browser:
            take_charts(browser, given.run / "report.html", given.output / given.charts)
        return
    scores = (given.run / "report.md").read_text().split("\n## Scores\n")[1].split("\n## ")[0]
    (given.output / SCORES).write_text("\n".join(re.findall(r"^[#|].*", scores, re.MULTILINE)) + "\n")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        trace = Path(folder) / "trace.gif"
        platform(
            *("generate", "--checkpoint", str(given.run / given.variant), "--prompt", PROMPT, *OPTIONS),
            *("--sampler", "low-confidence", "--sampler", "p2", "--gif", str(trace)),
        )
        shutil.copy(trace, given.output / trace.name)
        with chromium(playwright) as browser:
            take_pictures(browser, given.run / "report.html", given.output)


@contextmanager
def chromium(playwright: Playwright) -> Iterator[Browser]:
    """The system's."""
    program = next(found for name in PROGRAMS if (found := shutil.which(name)))
    browser = playwright.chromium.launch(executable_path=program)
    yield browser
    browser.close()


def platform(*arguments: str) -> None:
    """Run a command of the platform."""
    subprocess.run([sys.executable, "-m", "opendllm.core", *arguments], check=True)


def take_pictures(browser: Browser, report: Path, output: Path) -> None:
    """Of a report that has samples: its beginning, at two sizes, and its samples in the dark."""
    photograph(open_page(browser, report, (1280, 860)), output / "report.png")
    photograph(open_page(browser, report, (390, 844)), output / "report-phone.png")
    page = open_page(browser, report, (1280, 760), dark=True)
    page.evaluate("document.querySelector('#answers').scrollIntoView()")
    photograph(page, output / "samples.png")


def take_charts(browser: Browser, report: Path, path: Path) -> None:
    """Of a report: its headline metrics' charts."""
    page = open_page(browser, report, (1280, 1500))
    heading = page.get_by_role("heading", name="Headline metrics with their intervals")
    heading.evaluate("heading => heading.scrollIntoView()")
    page.wait_for_function(DRAWN)
    box = heading.locator("xpath=following-sibling::*[1]").bounding_box()
    assert box is not None
    photograph(page, path, box)


def open_page(browser: Browser, path: Path, size: tuple[int, int], dark: bool = False) -> Page:
    """A page with its samples there."""
    page = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light"
    ).new_page()
    page.goto(path.resolve().as_uri())
    page.wait_for_selector("#samples [role=option]", state="attached")
    return page


def photograph(page: Page, path: Path, part: FloatRect | None = None) -> None:
    """A small PNG of what is in sight, or part of it, once that is drawn."""
    page.wait_for_function(DRAWN)
    page.screenshot(path=path, clip=part)
    page.context.close()
    with Image.open(path) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        raise SystemExit(f"{path} has {path.stat().st_size:,} bytes, more than {LARGEST:,}")


if __name__ == "__main__":
    main()

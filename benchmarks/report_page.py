"""How large a report of many samples is, how soon it opens in Chromium, and how smoothly its samples scroll.

    python benchmarks/report_page.py [--samples 1000] [--characters 2000]

Three variants, four benchmarks, that many samples of random words each. Seconds are by the clock, and in
brackets those of a processor (of the page's own thread), which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import CDPSession, Page, sync_playwright

from opendllm.core.reporting import write_report

PROGRAMS = (Path(__file__).parent.parent / "tests" / "browser" / "programs.txt").read_text().split()
VARIANTS, BENCHMARKS = ("one", "two", "three"), ("code", "math", "fill", "more")
SCROLL = """async () => {
    const list = document.querySelector("#samples .list");
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    const spent = [];
    for (let step = 0; step <= 200; step += 1) {
        const before = performance.now();
        list.scrollTop = list.scrollHeight * step / 200;
        list.dispatchEvent(new Event("scroll"));
        list.offsetHeight;
        spent.push(performance.now() - before);
        await frame();
    }
    return spent;
}"""


def write_run(folder: Path, samples: int, characters: int) -> None:
    """A run's files; every text is another one."""
    generator = random.Random(0)  # noqa: S311
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(generator.choices(letters, k=generator.randint(2, 9))) for _ in range(5000)]

    def text() -> str:
        return " ".join(generator.choices(words, k=characters // 5))[:characters]

    for variant in VARIANTS:
        for benchmark in BENCHMARKS:
            path = folder / variant / "samples" / f"{benchmark}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            tasks = [f"task/{number}" for number in range(samples)]
            lines = [{"task_id": task, "prefix": f"{task} of {benchmark}", "text": text()} for task in tasks]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
            metric = {"value": 0.5, "low": 0.4, "high": 0.6}
            per_task = {task: {"pass@1": float(generator.random() < 0.5)} for task in tasks}
            result = folder / variant / "results" / f"{benchmark}.json"
            result.parent.mkdir(exist_ok=True)
            result.write_text(json.dumps({"metrics": {"pass@1": metric}, "per_task": per_task}))


def busy(session: CDPSession) -> float:
    """Processor seconds of the page's main thread."""
    found = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    return float(found["TaskDuration"])


def open_page(page: Page, path: Path) -> None:
    """Until the first samples are painted."""
    page.goto(path.as_uri())
    page.wait_for_selector("#samples [role=option]", state="attached")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--characters", type=int, default=2000)
    given = parser.parse_args()
    program = next(found for name in PROGRAMS if (found := shutil.which(name)))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run = Path(folder) / "run"
        write_run(run, given.samples, given.characters)
        started, worked = time.perf_counter(), time.process_time()
        report = write_report(run).html
        passed, worked = time.perf_counter() - started, time.process_time() - worked
        print(f"written in {passed:.1f} s ({worked:.1f} s), {report.stat().st_size / 1e6:.2f} MB")
        browser = playwright.chromium.launch(executable_path=program)
        for name in ("cold", "warm"):
            page = browser.new_page()
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            started = time.perf_counter()
            open_page(page, report)
            passed = time.perf_counter() - started
            print(f"opened {name} in {passed:.2f} s ({busy(session):.2f} s)")
        print(page.locator("#answers > p").inner_text())
        spent = page.evaluate(SCROLL)
        print(
            f"a step of scrolling: median {statistics.median(spent):.1f} ms, longest {max(spent):.1f} ms, "
            f"{page.locator('#samples [role=option]').count()} rows in the document"
        )
        browser.close()


if __name__ == "__main__":
    main()

"""A real browser, at a desktop's and a phone's size, that may complain of nothing and fetch nothing."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from opendllm.core.reporting import write_report

from ..reporting.conftest import FakeRun

PROGRAMS = Path(__file__).with_name("programs.txt").read_text().split()
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
VARIANTS, BENCHMARKS = ("zebra", "llada", "dream"), ("code", "math", "fill", "more")
SAMPLES, MANY_SAMPLES = 100, 1000

HTML = "<img src=x onerror='window.attacked=1'><script>window.attacked=1</script></script>&lt;b&gt;"
STEERING = "\x1b[31mred\x07 \u202eright to left\u202c \u05d0\u05d1 \ud83d \ufeffend"
HOSTILE = {"html": HTML, "steering": STEERING, "blank": "  \n\t", "empty": ""}

Open = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium: none is downloaded."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        missing = "no Chromium here: apt-get install chromium (or Google Chrome), then run this again"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program)
        yield running
        running.close()


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    """Of the window."""
    return str(request.param)


@pytest.fixture
def open_page(browser: Browser, size: str) -> Iterator[Open]:
    """Opens a file; whatever the page complains of or asks the network for fails the test."""
    complaints: list[str] = []
    width, height = SIZES[size]
    contexts = []

    def open_file(path: Path, fragment: str = "") -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="light",
            is_mobile=size == "phone",
            has_touch=size == "phone",
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", lambda asked: complaints.append(asked.url) if not _is_own(asked.url) else None)
        page.goto(f"{path.as_uri()}{fragment}")
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert complaints == []


def _is_own(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:"))


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three variants, four benchmarks, some samples each; a few of them are up to no good."""
    return _written(tmp_path_factory.mktemp("runs") / "small", SAMPLES)


@pytest.fixture(scope="session")
def large_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a thousand samples each."""
    return _written(tmp_path_factory.mktemp("runs") / "large", MANY_SAMPLES)


def _written(folder: Path, samples: int) -> Path:
    run = FakeRun(folder)
    run.manifest("name: large\nvariants: {zebra: {}, llada: {}, dream: {}}\n")
    for number, name in enumerate(VARIANTS):
        run.variant(name)
        run.training(name, steps=60)
        run.perplexity(name, (88.0, 66.0, None)[number])
        for benchmark in BENCHMARKS:
            passed = [(task * 7 + number) % 3 == 0 for task in range(samples)]
            run.result(
                name,
                benchmark,
                {f"pass@{k}": (sum(passed) / samples, 0.1, 0.5) for k in (1, 10)},
                per_task={f"task/{task}": {"pass@1": float(each)} for task, each in enumerate(passed)},
                verdicts=[
                    [f"task/{task}", "default", 0, "passed" if each else "assertion: f(1) == 2"]
                    for task, each in enumerate(passed)
                ],
                speed={
                    "tokens_per_second": 10.0 + number,
                    "forward_passes": 100 * (number + 1),
                    "seconds": 9.0,
                    "tokens": 900,
                    "texts": 20,
                },
            )
            _write_samples(run.folder, name, benchmark, samples)
        run.trace(
            name,
            "code",
            task_id="task/0",
            setting="default",
            sampler=f"sampler-of-{name}-with-a-name-as-long-as-some",
        )
    return write_report(run.folder).html


def _write_samples(folder: Path, variant: str, benchmark: str, samples: int) -> None:
    """Of 2,000 characters that don't pack; those up to no good first, since the last ones give way."""
    path = folder / variant / "samples" / f"{benchmark}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"task_id": f"hostile/{name}", "prefix": text, "text": text} for name, text in HOSTILE.items()]
    generator = random.Random(f"{variant} {benchmark}")
    for task in range(samples):
        text = f"    result_{task} = {variant}(values, {task * 31 % 977})\n    return result_{task}\n"
        noise = base64.b64encode(generator.randbytes(1500)).decode()
        lines.append(
            {
                "task_id": f"task/{task}",
                "prefix": f'def {benchmark}_{task}(values):\n    """Returns one of them."""\n',
                "text": (text + noise)[:2000],
                "reference": f"    return {task}\n",
            }
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

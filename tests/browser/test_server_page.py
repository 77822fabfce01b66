"""The page of a server, against a real one in a thread of this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from opendllm.core.serving.limits import Limits
from opendllm.core.serving.server import HttpServer, Served, load_models

from ..serving.conftest import MODELS, served_run
from .conftest import SIZES

__all__ = ["served_run"]

pytestmark = pytest.mark.browser
TOKEN = "a-token"
NOTED = "the server responded with a status of 4"
"""What the browser itself says of an answer that refuses something."""


@pytest.fixture(scope="module")
def url(served_run: Path) -> Iterator[str]:
    limits = Limits(new_tokens=200)
    models = load_models(Served({name: served_run / name for name in MODELS}, None, {}, "cpu"), limits)
    is_ready = threading.Event()
    server = HttpServer(models, limits, TOKEN, is_ready.set)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    thread = threading.Thread(target=server.answer, args=(listening,))
    thread.start()
    is_ready.wait()
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(browser: Browser, size: str, url: str) -> Iterator[Page]:
    """With its token given; the page may ask its own server only, and complain of nothing else."""
    complaints: list[str] = []
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, is_mobile=size == "phone", has_touch=size == "phone"
    )
    opened = context.new_page()
    opened.on("console", lambda said: complaints.append(said.text) if NOTED not in said.text else None)
    opened.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    opened.on(
        "request",
        lambda asked: None if asked.url.startswith(f"{url}/") else complaints.append(asked.url),
    )
    opened.goto(f"{url}/")
    expect(opened.get_by_role("status").first).to_contain_text("wants a token")
    opened.get_by_label("token", exact=True).fill(TOKEN)
    opened.get_by_label("token", exact=True).blur()
    expect(opened.get_by_label("sampler")).to_be_visible()
    yield opened
    context.close()
    assert complaints == []


def status(page: Page, text: str) -> None:
    expect(page.locator("#status")).to_contain_text(text)


def test_a_gap_is_filled_while_one_looks_and_can_be_played_again(page: Page, size: str) -> None:
    page.get_by_label("Prompt").fill("def add(a, b):\n    c =")
    page.get_by_label("Suffix").fill("\n    return c")
    page.get_by_label("sampler").select_option("p2")
    page.get_by_label("max tokens").fill("16")
    page.get_by_label("temperature").first.fill("5")
    page.get_by_label("seed").fill("3")
    page.get_by_role("button", name="Write").click()
    status(page, "Done: ")
    canvas = page.locator(".canvas").first
    expect(canvas).to_contain_text("def add(a, b):")
    expect(canvas).to_contain_text("return c")
    assert canvas.locator(".cell").count() == 16
    assert "▒" not in canvas.inner_text()
    scrub = page.get_by_role("slider", name="step")
    assert scrub.get_attribute("aria-valuetext") == "step 16 of 16"
    scrub.fill("0")
    assert canvas.locator(".mask").count() == 16
    # Another beside it, and nothing wider than the window.
    page.get_by_label("sampler").select_option("")
    assert page.get_by_label("max tokens").input_value() == "16"
    page.get_by_label("Suffix").press("Control+Enter")
    expect(page.locator(".pane h4")).to_have_text(["low-confidence, seed 3", "p2, seed 3"])
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size][0]


def test_a_block_causal_model_is_chosen_and_stopped(page: Page) -> None:
    page.get_by_label("model").select_option("sdar")
    page.get_by_label("Prompt").fill("<b>x</b>")
    page.get_by_label("max tokens").fill("200")
    page.get_by_role("button", name="Write").click()
    expect(page.locator("#live .canvas")).to_contain_text("<b>x</b>")
    assert page.get_by_role("button", name="Write").is_disabled()
    page.keyboard.press("Escape")
    status(page, "Stopped.")
    assert page.get_by_role("button", name="Stop").is_disabled()
    page.get_by_label("max tokens").fill("4")
    page.get_by_role("button", name="Write").click()
    status(page, "Done: ")


def test_what_the_server_refuses_is_said(page: Page) -> None:
    page.get_by_label("Prompt").fill("x")
    page.get_by_label("max tokens").fill("2000")
    page.get_by_role("button", name="Write").click()
    status(page, "this server writes up to 200")

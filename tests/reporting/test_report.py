"""The three files of a report."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects
import pytest

from opendllm.core.reporting import write_report
from opendllm.registries.errors import UserError

from .conftest import MANIFEST, FakeRun

ATTACK = "</script><script>alert(1)</script>"


class Page(HTMLParser):
    """What a browser would make of the page: its tags, its text, and what its scripts hold."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.marked: list[str] = []
        self._open: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "script":
            self.scripts.append("")
        if tag == "mark":
            self.marked.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text += data
        if self._open and self._open[-1] == "mark":
            self.marked[-1] += data

    @property
    def figures(self) -> list[dict[str, Any]]:
        return [json.loads(values["data-figure"] or "") for _, values in self.tags if "data-figure" in values]


def row(markdown: str, start: str, heading: str) -> str:
    section = markdown.split(f"{heading}\n", 1)[1]
    return next(line for line in section.splitlines() if line.startswith(f"| {start}"))


def test_the_report_lies_in_the_run_folder_and_nothing_else_is_left_there(run: FakeRun) -> None:
    before = {path.name for path in run.folder.iterdir()}
    report = write_report(run.folder)
    after = {path.name for path in run.folder.iterdir()}
    assert after - before == {"results.json", "report.md", "report.html"}
    assert report.html == run.folder / "report.html"


def test_results_json_is_strict_and_holds_summaries_metrics_and_comparisons(run: FakeRun) -> None:
    run.perplexity("zebra", None)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads(write_report(run.folder).results.read_text(), parse_constant=refuse)
    assert list(content["variants"]) == ["zebra", "llada"]
    zebra, llada = content["variants"].values()
    assert zebra["benchmarks"]["perplexity"]["metrics"]["perplexity"]["value"] is None
    assert llada["benchmarks"]["perplexity"]["metrics"]["perplexity"]["value"] == 66.0
    assert llada["benchmarks"]["perplexity"]["speed"]["forward_passes"] == 812
    assert llada["training"] == {
        "steps": 3,
        "first_loss": 6.0,
        "last_loss": 4.0,
        "first_held_out_loss": 6.3,
        "last_held_out_loss": 4.1,
        "tokens": 6144,
        "tokens_per_second": 2000.0,
    }
    assert content["comparisons"][0]["difference"] == pytest.approx(0.4)
    assert content["provenance"]["plugins"]["llada"] == {"backbones/llada": "open-dllm 0.1.0"}


def test_markdown_shows_scores_with_intervals_and_the_best_in_bold(run: FakeRun) -> None:
    text = write_report(run.folder).text
    assert "**66.00** [59.40, 72.60]" in row(text, "llada", "### perplexity")
    assert "**" not in row(text, "zebra", "### perplexity")
    assert "**0.600** [0.500, 0.700]" in row(text, "llada", "### stdlib-infilling")
    assert "6.00 → 4.00" in row(text, "llada", "## Training")
    assert "+0.400" in row(text, "llada", "## Paired differences")


PUBLISHED = """
published:
- {model: Elsewhere 8B, benchmark: perplexity, metrics: {perplexity: 12.5, other: 3}, source: arXiv:0000.0}
- {model: Nowhere, benchmark: no-such-result, metrics: {perplexity: 1.0}, source: x}
- {model: Unsaid, benchmark: perplexity, metrics: {perplexity: 1.0}}
"""


def test_published_figures_stand_beside_the_measured_ones_with_their_source(run: FakeRun) -> None:
    run.manifest(MANIFEST + PUBLISHED)
    report = write_report(run.folder)
    shown = row(report.text, "Elsewhere 8B published", "### perplexity")
    assert "12.50" in shown
    assert "**" not in shown
    assert "**66.00**" in row(report.text, "llada", "### perplexity")
    assert "published figures of Elsewhere 8B: arXiv:0000.0" in report.text
    assert "Nowhere" not in report.text
    assert "Unsaid" not in report.text
    assert "Elsewhere 8B" in report.html.read_text()
    published = json.loads(report.results.read_text())["published"]
    assert published[0]["metrics"] == {"perplexity": 12.5, "other": 3.0}


def test_markdown_shows_the_mean_over_seeds(empty_run: FakeRun) -> None:
    for seed, value in enumerate((10.0, 12.0, 14.0)):
        empty_run.perplexity(f"llada-seed-{seed}", value)
    empty_run.perplexity("zebra", 20.0)
    text = write_report(empty_run.folder).text
    assert "**12.00 ± 2.00** (3 seeds)" in row(text, "llada mean", "### perplexity")


def test_missing_pieces_are_dashes(run: FakeRun) -> None:
    run.variant("bare")
    (run.folder / "zebra/train.jsonl").unlink()
    text = write_report(run.folder).text
    assert re.fullmatch(r"\| bare +\| +- \|", row(text, "bare", "### perplexity"))
    assert row(text, "bare", "## Speed").count(" - ") == 3
    assert row(text, "zebra", "## Training").count(" - ") == 6
    assert "-" in Page(run.folder / "report.html").text


def test_a_sample_of_one_task_is_shown_for_every_variant_infilling_at_oracle_length_first(
    run: FakeRun,
) -> None:
    for name in ("zebra", "llada"):
        path = run.folder / name / "samples/stdlib-infilling.jsonl"
        path.unlink()
        run.sample(name, "stdlib-infilling", task_id="continued", suffix=None, text="wrong")
        run.sample(name, "stdlib-infilling", task_id="hidden", setting="length-8", text="wrong")
        run.sample(name, "stdlib-infilling", task_id="hidden", text=f"{name} & co")
    with (run.folder / "zebra/samples/stdlib-infilling.jsonl").open("a") as file:
        file.write('{"task_id": "hid')
    page = Page(write_report(run.folder).html)
    assert page.marked == ["y = x + 1", "zebra & co", "llada & co"]


def test_the_page_fetches_nothing(run: FakeRun) -> None:
    text = write_report(run.folder).html.read_text()
    page = Page(run.folder / "report.html")
    assert not [
        tag for tag, values in page.tags if tag in ("link", "img", "iframe", "base") or "src" in values
    ]
    style = text.split("<style>")[1].split("</style>")[0]
    assert "@import" not in style
    assert "url(" not in style
    policy = next(values["content"] for tag, values in page.tags if values.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_plotly_stands_in_the_page_once(run: FakeRun) -> None:
    page = Page(write_report(run.folder).html)
    assert len(page.scripts) == 2
    assert sum("plotly.js v" in script for script in page.scripts) == 1


def test_text_from_a_run_is_inert_wherever_it_is_shown(run: FakeRun) -> None:
    run.manifest(f"name: '{ATTACK}'\ndescription: '{ATTACK}'\nevaluate: ['{ATTACK}']\nvariants: {{}}\n")
    hostile = "x<svg onload=alert(1)>"
    run.variant(hostile, backbone=ATTACK, plugins={ATTACK: ATTACK})
    run.training(hostile)
    run.result(hostile, "perplexity", {ATTACK: (1.0, 0.5, 2.0)}, notes=[ATTACK], per_task={"t": {ATTACK: 1}})
    run.sample(hostile, "stdlib-infilling", task_id=ATTACK, text=ATTACK, prefix=ATTACK, suffix=ATTACK)
    for name in ("zebra", "llada"):
        run.sample(name, "stdlib-infilling", task_id=ATTACK, text=ATTACK, prefix=ATTACK, suffix=ATTACK)
    page = Page(write_report(run.folder).html)
    nonces = {values.get("nonce") for tag, values in page.tags if tag == "script"}
    assert len(page.scripts) == 2
    assert len(nonces) == 1
    assert None not in nonces
    assert not [tag for tag, _ in page.tags if tag == "svg"]
    assert page.text.count("alert(1)") > 10
    assert not [script for script in page.scripts if "alert(1)" in script]
    names = json.dumps(page.figures)
    assert "x&lt;svg" in names
    assert "<svg" not in names


def test_a_sample_that_closes_a_script_is_shown_as_it_was_written(run: FakeRun) -> None:
    (run.folder / "llada/samples/stdlib-infilling.jsonl").unlink()
    run.sample("llada", "stdlib-infilling", text=ATTACK)
    assert ATTACK in Page(write_report(run.folder).html).marked


def test_markdown_cannot_be_broken_out_of(run: FakeRun) -> None:
    for name in ("zebra", "llada"):
        (run.folder / name / "samples/stdlib-infilling.jsonl").unlink()
        run.sample(name, "stdlib-infilling", text="```\n# gotcha\x1b[31m\x07")
    run.variant("zebra", backbone="a|b<b>")
    text = write_report(run.folder).text
    assert "````\n```\n# gotcha" in text
    assert "\x1b" not in text
    assert "a\\|b&lt;b&gt;" in text


def test_every_chart_is_a_figure_that_plotly_accepts(run: FakeRun) -> None:
    figures = Page(write_report(run.folder).html).figures
    for figure in figures:
        plotly.graph_objects.Figure(figure)
    bars, curves = figures[:2], figures[2]
    assert [bar["data"][0]["y"] for bar in bars] == [["zebra", "llada"]] * 2
    assert bars[1]["data"][0]["error_x"]["array"] == pytest.approx([8.8, 6.6])
    names = [trace["name"] for trace in curves["data"]]
    assert names == ["zebra: training", "zebra: held-out", "llada: training", "llada: held-out"]


def test_a_shared_training_run_is_drawn_once_under_both_names(run: FakeRun) -> None:
    run.variant("twin", trained_in="llada")
    run.perplexity("twin", 60.0)
    curves = Page(write_report(run.folder).html).figures[-1]
    assert [trace["name"] for trace in curves["data"]][2:] == [
        "llada, twin: training",
        "llada, twin: held-out",
    ]


def test_a_long_curve_is_thinned_to_means(run: FakeRun) -> None:
    run.training("llada", steps=2000)
    curves = Page(write_report(run.folder).html).figures[-1]
    losses = curves["data"][2]
    assert len(losses["x"]) == 500
    assert (losses["x"][-1], losses["y"][0]) == (2000, pytest.approx(4.5))


def test_a_failed_report_leaves_the_earlier_one_as_it_was(
    run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = write_report(run.folder)
    before = {path: path.read_bytes() for path in (report.results, report.markdown, report.html)}
    run.perplexity("llada", 1.0)

    write_bytes = Path.write_bytes

    def full_disk(path: Path, data: bytes) -> int:
        if "report.html" in path.name:
            raise OSError(28, "No space left on device", str(path))
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(UserError, match="No space left"):
        write_report(run.folder)
    assert {path: path.read_bytes() for path in before} == before
    assert not list(run.folder.glob(".*"))


def test_a_report_made_twice_is_the_same(run: FakeRun) -> None:
    first = write_report(run.folder).html.read_bytes()
    assert write_report(run.folder).html.read_bytes() == first


def test_half_a_surrogate_pair_in_a_sample_is_no_error(run: FakeRun) -> None:
    for name in ("zebra", "llada"):
        run.sample(name, "perplexity", text="\ud83d")
    assert "?" in Page(write_report(run.folder).html).marked


def test_several_runs_are_reported_in_a_folder_of_their_own(run: FakeRun, tmp_path: Path) -> None:
    other = type(run)(tmp_path / "runs" / "second")
    other.perplexity("llada", 50.0)
    with pytest.raises(UserError, match="output"):
        write_report(run.folder, other.folder)
    report = write_report(run.folder, other.folder, output=tmp_path / "new" / "both")
    assert report.html.parent == tmp_path / "new" / "both"
    assert "**50.00**" in row(report.text, "second/llada", "### perplexity")
    assert not (run.folder / "report.html").exists()


def test_a_report_needs_a_run() -> None:
    with pytest.raises(UserError, match="at least one"):
        write_report()


def test_importing_the_package_loads_neither_torch_nor_the_pages_libraries() -> None:
    heavy = "torch numpy plotly jinja2 transformers"
    code = (
        "import sys, opendllm.core.reporting; "
        f"print([name for name in {heavy.split()!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_settings_that_are_not_finite_are_null_in_results_json(run: FakeRun) -> None:
    run.result("llada", "perplexity", {"perplexity": (1.0, 1.0, 1.0)}, settings={"gamma": float("nan")})
    content = json.loads(write_report(run.folder).results.read_text())
    assert content["variants"]["llada"]["benchmarks"]["perplexity"]["settings"] == {"gamma": None}


def test_a_benchmark_that_writes_nothing_has_no_forward_passes(run: FakeRun) -> None:
    speed = {"tokens_per_second": None, "forward_passes": 0, "seconds": 2.0}
    run.result("llada", "perplexity", {"perplexity": (1.0, 1.0, 1.0)}, speed=speed)
    text = write_report(run.folder).text
    assert re.search(r"\| llada +\| perplexity +\| +- \| +- \| +2\.00 \|", text)


def test_only_the_lines_around_a_samples_answer_are_shown(run: FakeRun) -> None:
    lines = [f"line {number}" for number in range(100)]
    for name in ("zebra", "llada"):
        (run.folder / name / "samples/stdlib-infilling.jsonl").unlink()
        run.sample(name, "stdlib-infilling", prefix="\n".join(lines), suffix="\n".join(lines))
    text = Page(write_report(run.folder).html).text
    assert "…\nline 76\n" in text
    assert "\nline 23\n…" in text
    assert "line 50" not in text

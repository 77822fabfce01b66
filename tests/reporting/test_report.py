"""The three files of a report."""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects
import pytest

from opendllm.core.reporting import write_report
from opendllm.core.reporting.collect import read_study
from opendllm.core.reporting.differences import manifest_differences, variants_only_in
from opendllm.core.reporting.figures import held_out_chart, training_chart
from opendllm.core.reporting.sample_browser import sample_page, trace_page
from opendllm.core.reporting.tradeoff_figures import pass_at_k_charts
from opendllm.registries.errors import UserError

from .conftest import MANIFEST, FakeRun

FIELDS = (
    *("benchmark", "variant", "task", "setting", "sample", "prefix", "suffix", "reference", "text"),
    *("verdict", "reason"),
)
ATTACK = "</script><script>alert(1)</script>"


class Page(HTMLParser):
    """What a browser would make of the page: its tags, its text, and what its scripts hold."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.marked: list[str] = []
        self.captions: list[str] = []
        self._open: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "script":
            self.scripts.append("")
        if tag == "mark":
            self.marked.append("")
        if tag == "figcaption":
            self.captions.append("")

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
        if self._open and self._open[-1] == "figcaption":
            self.captions[-1] += data

    def packed(self, name: str) -> str:
        """What lies packed in the script of that id."""
        numbers = [number for number, values in enumerate(self._script_values()) if values.get("id") == name]
        return gzip.decompress(base64.b64decode(self.scripts[numbers[0]])).decode()

    def _script_values(self) -> list[dict[str, str | None]]:
        return [values for tag, values in self.tags if tag == "script"]

    @property
    def answers(self) -> list[dict[str, Any]]:
        """The samples that can be looked through, with their texts in place of numbers."""
        data = json.loads(self.packed("samples-data"))
        texts = [entry for entry in data["entries"] if isinstance(entry, str)]
        rows = [dict(zip(FIELDS, row, strict=True)) for row in data["entries"] if isinstance(row, list)]
        for row in rows:
            row["benchmark"] = data["benchmarks"][row["benchmark"]]
            row["variant"] = data["variants"][row["variant"]]
            for name in ("prefix", "suffix", "reference"):
                row[name] = None if row[name] < 0 else texts[row[name]]
        return rows

    @property
    def titles(self) -> dict[str, dict[str, Any]]:
        """Charts by title."""
        return dict(zip(self.captions, self.figures, strict=True))

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
    assert llada["benchmarks"]["perplexity"]["metrics"]["perplexity"] == {
        "value": 66.0,
        "low": pytest.approx(59.4),
        "high": pytest.approx(72.6),
        "kind": "estimate",
    }
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
    assert content["repeats"] == {}  # neither has several seeds
    assert content["provenance"]["plugins"]["llada"] == {"backbones/llada": "open-dllm 0.1.0"}


def test_markdown_shows_scores_with_intervals_and_the_best_in_bold(run: FakeRun) -> None:
    text = write_report(run.folder).text
    assert "**66.00** [59.40, 72.60]" in row(text, "llada", "### perplexity")
    assert "**" not in row(text, "zebra", "### perplexity")
    assert "**0.600** [0.500, 0.700]" in row(text, "llada", "### stdlib-infilling")
    assert "6.00 → 4.00" in row(text, "llada", "## Training")
    assert "+0.400" in row(text, "llada", "## Paired differences")


def test_every_published_figure_is_shown_and_those_that_contradict_each_other_with_their_sources(
    run: FakeRun, tmp_path: Path
) -> None:
    entry = "- {{model: M, benchmark: {}, metrics: {{{}}}, source: {}}}\n"
    figures = entry.format("perplexity", "perplexity: 12.5", "paper A")
    figures += entry.format("perplexity", "bits: 0.9, perplexity: 12.5", "paper A")
    figures += entry.format("stdlib-infilling", "token_accuracy_oracle: 0.31", "paper B")
    run.manifest(f"{MANIFEST}published:\n{figures}")
    other = type(run)(tmp_path / "runs" / "second")
    disputed = entry.format("perplexity", "perplexity: 13.25", "paper C")
    other.manifest(MANIFEST + "published:\n" + disputed)
    other.perplexity("llada", 30.0)
    names = ["perplexity", "bits"]
    other.result("llada", "perplexity", dict.fromkeys(names, (30.0, 20.0, 40.0)), headline=names)
    report = write_report(run.folder, other.folder)
    quoted = [line for line in report.text.splitlines() if line.startswith("| M published")]
    perplexity = [line for line in quoted if "paper" in line]
    assert [re.findall(r"[0-9.]+ paper .", line) for line in perplexity] == [
        ["12.50 paper A", "0.900 paper A"],
        ["13.25 paper C"],
    ]
    assert any("0.310" in line for line in quoted)
    bars = Page(report.html).titles["perplexity: perplexity (less is better)"]["data"][1]
    assert bars["y"] == ["M (published, paper A)", "M (published, paper C)"]
    for source in "ABC":
        assert f"published figures of M: paper {source}" in report.text
    assert len(json.loads(report.results.read_text())["published"]) == 4


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
        empty_run.perplexity(f"zebra-seed-{seed}", value + 20.0)
    text = write_report(empty_run.folder).text
    assert "**12.00 ± 2.00** (3 seeds)" in row(text, "llada mean", "### perplexity")


def test_missing_pieces_are_dashes(run: FakeRun) -> None:
    run.variant("bare", objective=None)
    run.variant("zebra", objective=None)
    (run.folder / "zebra/train.jsonl").unlink()
    text = write_report(run.folder).text
    assert re.fullmatch(r"\| bare +\| +- \|", row(text, "bare", "### perplexity"))
    assert row(text, "bare", "## Speed").count(" - ") == 5
    assert row(text, "zebra", "## Training").count(" - ") == 6
    assert "missing" not in text
    assert "-" in Page(run.folder / "report.html").text


def test_a_sample_of_one_task_is_shown_for_every_variant_infilling_at_oracle_length_first(
    run: FakeRun,
) -> None:
    for name in ("zebra", "llada"):
        path = run.folder / name / "samples/stdlib-infilling.jsonl"
        path.unlink()
        run.sample(name, "stdlib-infilling", task_id="continued", suffix=None, text="wrong")
        run.sample(name, "stdlib-infilling", task_id="hidden", setting="length-8", text="wrong")
        run.sample(name, "stdlib-infilling", task_id="hidden", text=f"{name} \x1b & co")
    with (run.folder / "zebra/samples/stdlib-infilling.jsonl").open("a") as file:
        file.write('{"task_id": "hid')
    report = write_report(run.folder)
    assert "zebra \\x1b & co" in report.text
    assert "llada \\x1b & co" in report.text
    assert "wrong" not in report.text
    assert len(Page(report.html).answers) == 6


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


def test_plotly_stands_in_the_page_once_and_packed(run: FakeRun) -> None:
    report = write_report(run.folder)
    page = Page(report.html)
    assert "plotly.js v" in page.packed("plotly-script")
    assert sum("plotly.js v" in script for script in page.scripts) == 0
    assert report.html.stat().st_size < 3_000_000


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
    values = [values for tag, values in page.tags if tag == "script"]
    assert [each.get("type") for each in values] == ["application/octet-stream"] * 2 + [None]
    assert [each.get("id") for each in values] == ["samples-data", "plotly-script", None]
    assert values[-1]["nonce"]
    assert not [tag for tag, _ in page.tags if tag == "svg"]
    assert page.text.count("alert(1)") > 10
    assert not [script for script in page.scripts if "alert(1)" in script]
    names = json.dumps(page.figures)
    assert "x&lt;svg" in names
    assert "<svg" not in names


def test_a_sample_that_closes_a_script_is_there_as_it_was_written(run: FakeRun) -> None:
    (run.folder / "llada/samples/stdlib-infilling.jsonl").unlink()
    run.sample("llada", "stdlib-infilling", text=ATTACK)
    report = write_report(run.folder)
    assert ATTACK in [answer["text"] for answer in Page(report.html).answers]
    assert ATTACK not in report.html.read_text()


def test_an_answers_verdict_is_its_own_where_it_was_judged_and_else_its_tasks_number(run: FakeRun) -> None:
    samples = run.folder / "llada/samples/stdlib-infilling.jsonl"
    samples.unlink()
    for number, text in enumerate(("good", "bad", "unjudged")):
        run.sample("llada", "stdlib-infilling", sample=number, text=text)
    run.sample("llada", "stdlib-infilling", task_id="long", text="", failure="has too many tokens")
    run.sample("llada", "stdlib-infilling", task_id="unknown", text="x")
    run.result(
        "llada",
        "stdlib-infilling",
        {"accuracy_oracle": (0.5, 0.4, 0.6)},
        per_task={"t0": {"accuracy_oracle": 0.25, "empty_length-8": 1.0}},
        verdicts=[["t0", "oracle", 0, "passed"], ["t0", "oracle", 1, "assertion: 1 == 2"], ["broken"], 3],
    )
    answers = [each for each in Page(write_report(run.folder).html).answers if each["variant"] == "llada"]
    assert [(each["text"], each["verdict"], each["reason"]) for each in answers] == [
        ("good", "passed", ""),
        ("bad", "failed", "assertion: 1 == 2"),
        ("unjudged", "partly", "accuracy 0.250"),
        ("", "not asked", "has too many tokens"),
        ("x", "not scored", ""),
    ]


def test_a_page_holds_a_thousand_samples_of_each_result_and_says_how_many_more_there_are(
    run: FakeRun,
) -> None:
    lines = [
        json.dumps({"task_id": f"t{number}", "text": "x" * 30_000 * (number == 0)}) for number in range(1100)
    ]
    (run.folder / "llada/samples/stdlib-infilling.jsonl").write_text("\n".join(lines) + "\n")
    page = Page(write_report(run.folder).html)
    assert len(page.answers) == 1001
    assert "1,001 of 1,101 samples, texts up to 20,000 characters (1 are cut)" in page.text
    assert [each for each in page.answers if each["text"].endswith("x\n… 10,000 more characters")]


def noise(length: int, seed: int) -> str:
    """Letters that hardly pack."""
    return base64.b64encode(random.Random(seed).randbytes(length)).decode()[:length]


@pytest.mark.parametrize(
    ("most_packed", "longest", "all_there"), [(1_400_000, 2000, True), (300_000, 500, False)]
)
def test_texts_are_cut_and_then_samples_left_out_until_the_page_is_small_enough(
    run: FakeRun, most_packed: int, longest: int, all_there: bool
) -> None:
    for name in ("zebra", "llada"):
        (run.folder / name / "samples/stdlib-infilling.jsonl").unlink()
        for task in range(200):
            run.sample(
                name,
                "stdlib-infilling",
                task_id=f"t{task}",
                prefix=noise(3000, task) + "the end",
                text=noise(5000, 1000 * len(name) + task),
                reference=None,
                suffix=None,
            )
    study = read_study([run.folder])
    page = sample_page(study, most_packed)
    assert len(page.packed) < most_packed
    assert page.longest == longest
    assert (page.count == 400) == all_there
    assert page.count + page.left_out == 400
    data = json.loads(gzip.decompress(base64.b64decode(page.packed)))
    rows = [entry for entry in data["entries"] if isinstance(entry, list)]
    assert len(rows) == page.count
    shown = [sum(row[1] == variant for row in rows) for variant in (0, 1)]
    assert abs(shown[0] - shown[1]) <= 1  # each variant has its share
    assert max(len(row[8]) for row in rows) < longest + 40
    prompts = [entry for entry in data["entries"] if isinstance(entry, str)]
    assert all(prompt.endswith("the end") for prompt in prompts)  # what stands before the answer


def test_traces_that_are_too_large_are_named(run: FakeRun) -> None:
    run.trace("zebra", "stdlib-infilling")
    run.trace("llada", "perplexity", vocabulary={str(token): noise(4000, token) for token in range(5)})
    page = trace_page(read_study([run.folder]), 3000)
    assert (page.count, page.left_out) == (1, ("perplexity · t0 · oracle",))


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
    for name, speed in (("zebra", 100), ("llada", 50)):
        metrics: dict[str, Any] = {
            **{f"pass@{k}": (k / 20, 0.0, 1.0) for k in (1, 5, 10)},
            **{f"accuracy_{setting}": (0.5, 0.4, 0.6) for setting in ("oracle", "length-8", "length-64")},
        }
        counted = {
            "forward_passes": speed,
            "seconds": 2.0,
            "tokens": 400,
            "texts": 10,
            "tokens_per_second": 200,
        }
        run.result(name, "code", metrics, speed=counted)
    charts = Page(write_report(run.folder).html).titles
    for figure in charts.values():
        plotly.graph_objects.Figure(figure)
    [bars] = charts["perplexity: perplexity (less is better)"]["data"]
    assert bars["y"] == ["zebra", "llada"]
    assert bars["error_x"]["array"] == pytest.approx([8.8, 6.6])
    titles = list(charts)
    held_out = titles.index("Held-out loss by training step, in nats a token")
    assert titles.index("Training loss by step, smoothed; each objective's own") == held_out + 1
    assert charts["code: pass@k by k"]["data"][0]["x"] == [1, 5, 10]
    assert charts["code: accuracy by masks"]["data"][0]["x"] == ["8", "64", "oracle"]
    against = charts["code: pass@1 against forward passes a text"]
    assert [trace["x"] for trace in against["data"] if trace["mode"] == "markers"] == [[10], [5]]


def test_a_bars_value_stands_beside_it_and_zeros_have_a_scale(run: FakeRun) -> None:
    for name in ("zebra", "llada"):
        run.result(name, "code", {"pass@1": (0.0, 0.0, 0.0)})
    charts = Page(write_report(run.folder).html).titles
    bars = charts["perplexity: perplexity (less is better)"]
    assert bars["layout"]["yaxis"]["ticktext"] == ["zebra<br>88.00", "llada<br>66.00"]
    assert bars["layout"]["yaxis"]["tickvals"] == bars["data"][0]["y"]
    assert bars["data"][0]["textposition"] == "none"  # an interval would cross it out
    assert "range" not in bars["layout"]["xaxis"]
    zeros = charts["code: pass@1 (more is better)"]["layout"]
    assert (zeros["xaxis"]["range"], zeros["yaxis"]["ticktext"][0]) == ([0, 1], "zebra<br>0.000")


def test_the_dotted_line_is_spoken_of_where_there_is_one(run: FakeRun) -> None:
    said = "On the dotted line lies"

    def read(zebra: float, llada: float) -> str:
        for name, value, passes in (("zebra", zebra, 100), ("llada", llada, 50)):
            speed = {"forward_passes": passes, "seconds": 2.0, "texts": 10}
            run.result(name, "code", {"pass@1": (value, 0.0, 1.0)}, speed=speed)
        return write_report(run.folder).html.read_text()

    assert said in read(0.8, 0.2)
    assert said not in read(0.2, 0.2)  # the faster one beats the other


def test_what_a_chart_shows_is_told_in_words_and_numbers(run: FakeRun) -> None:
    for name in ("zebra", "llada"):
        run.training(name, steps=60)
        run.result(name, "code", {f"pass@{k}": (k / 20, 0.0, 1.0, "upper bound") for k in (1, 5, 10)})
    study = read_study([run.folder])
    held_out, code = held_out_chart(study), pass_at_k_charts(study)[0]
    assert held_out is not None
    assert held_out.label == (
        "Held-out loss by training step, in nats a token. "
        "zebra 6.30 at 0 to 4.10 at 60; llada 6.30 at 0 to 4.10 at 60."
    )
    assert [[cell.value for cell in each] for each in code.values.rows] == [
        ["1", "0.050", "0.050"],
        ["5", "0.250", "0.250"],
        ["10", "0.500", "0.500"],
    ]
    assert code.values.header == ("k", "zebra", "llada")
    training = training_chart(study)
    assert training is not None
    assert len(training.values.rows) == 12
    assert [cell.value for cell in training.values.rows[-1]][:1] == ["60"]
    labels = {
        str(values["aria-label"])
        for _, values in Page(write_report(run.folder).html).tags
        if "data-figure" in values
    }
    assert held_out.label in labels
    assert "code: pass@1 (more is better; ≤: upper bounds). zebra ≤ 0.050; llada ≤ 0.050." in labels


def test_a_shared_training_run_is_drawn_once_under_both_names(run: FakeRun) -> None:
    run.variant("twin", trained_in="llada")
    run.perplexity("twin", 60.0)
    curves = Page(write_report(run.folder).html).titles["Held-out loss by training step, in nats a token"]
    assert [trace["name"] for trace in curves["data"]] == ["zebra", "llada, twin"]


def test_a_long_curve_is_smoothed_and_thinned_to_means_with_the_losses_behind_it(run: FakeRun) -> None:
    run.training("llada", steps=2000)
    charts = Page(write_report(run.folder).html).titles
    raw, curve = charts["Training loss by step, smoothed; each objective's own"]["data"][1:]
    assert len(raw["x"]) == len(curve["x"]) == 500
    assert (raw["x"][-1], raw["y"][0]) == (2000, pytest.approx(4.5))
    assert curve["y"][-1] == pytest.approx(7.0 - 2000 + 49, abs=3)  # lags by what it averages over
    assert (raw["showlegend"], raw["opacity"]) == (False, 0.25)


def test_a_loss_that_falls_far_has_a_logarithmic_axis(run: FakeRun) -> None:
    run.training("llada", held_out=(20.0, 0.5))
    charts = Page(write_report(run.folder).html).titles
    far = charts["Held-out loss by training step, in nats a token; logarithmic axis"]
    assert far["layout"]["yaxis"]["type"] == "log"


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
    report = write_report(run.folder)
    assert [
        answer["text"] for answer in Page(report.html).answers if answer["benchmark"] == "perplexity"
    ] == ["\ud83d"] * 2
    assert "\n\\ud83d\n" in report.text


def test_what_cant_be_seen_is_spelt_in_names_and_notes(run: FakeRun) -> None:
    run.result("llada", "perplexity", {"perplexity": (1.0, 0.5, 2.0)}, notes=["left\u202eright\x9b31m"])
    report = write_report(run.folder)
    assert "left\\u202eright\\x9b31m" in Page(report.html).text
    assert "\u202e" not in report.html.read_text() + report.text


def test_several_runs_are_reported_beside_the_first_one(run: FakeRun, tmp_path: Path) -> None:
    other = type(run)(tmp_path / "runs" / "second")
    other.perplexity("llada", 30.0)
    report = write_report(run.folder, other.folder)
    assert report.html.parent == tmp_path / "runs" / "quickstart-and-second"
    assert "**30.00**" in row(report.text, "second/llada", "### perplexity")
    assert not (run.folder / "report.html").exists()
    elsewhere = write_report(run.folder, other.folder, output=tmp_path / "new" / "both")
    assert elsewhere.html.parent == tmp_path / "new" / "both"


def test_a_report_of_several_runs_takes_no_runs_place(run: FakeRun, tmp_path: Path) -> None:
    other, third = (type(run)(tmp_path / "runs" / name) for name in ("b", "quickstart-and-b"))
    other.perplexity("llada", 50.0)
    third.manifest()
    with pytest.raises(UserError, match="own folder: choose another one with --output"):
        write_report(run.folder, other.folder)


def test_of_several_runs_it_says_what_their_manifests_say_differently(run: FakeRun, tmp_path: Path) -> None:
    other = type(run)(tmp_path / "runs" / "second")
    base = "name: {}\nvariants:\n  zebra: {{train: {{steps: {}}}, generate: {{steps: {}}}, seed: 7}}\n"
    run.manifest(
        base.format("one", 200, 8) + "  llada: {train: {steps: 200}, generate: {steps: 16}, seed: 7}\n"
    )
    other.manifest(
        base.format("two", 400, 9) + "  other: {train: {steps: 400}, generate: {steps: 16}, seed: 7}\n"
    )
    other.perplexity("zebra", 50.0)
    study = read_study([run.folder, other.folder])
    found = [(each.variant, each.key, each.values) for each in manifest_differences(study)]
    assert found == [
        (None, "train.steps", ("200", "400")),
        ("zebra", "generate.steps", ("8", "9")),
    ]
    assert variants_only_in(study) == (("quickstart", ("llada",)), ("second", ("other",)))
    report = write_report(run.folder, other.folder)
    assert re.search(r"\| all +\| train.steps +\| 200 +\| 400 +\|", report.text)
    assert "Only in second: other" in Page(report.html).text


def test_manifests_that_say_the_same_differ_in_nothing(run: FakeRun, tmp_path: Path) -> None:
    other = type(run)(tmp_path / "runs" / "second")
    other.manifest(MANIFEST.replace("name: quickstart", "name: second\noutput: elsewhere"))
    other.perplexity("llada", 50.0)
    assert manifest_differences(read_study([run.folder, other.folder])) == ()


def test_what_is_damaged_or_missing_is_said_in_its_place_and_the_rest_is_shown(run: FakeRun) -> None:
    (run.folder / "zebra/results/perplexity.json").write_text("{")
    (run.folder / "llada/results/stdlib-infilling.json").unlink()
    report = write_report(run.folder)
    page = Page(report.html)
    for text in (report.text, page.text):
        assert "Not all of it could be read:" in text
        assert "not valid JSON" in text
    assert "damaged" in row(report.text, "zebra", "### perplexity")
    assert "66.00" in row(report.text, "llada", "### perplexity")
    assert "missing" in row(report.text, "llada", "### stdlib-infilling")
    assert [values["class"] for tag, values in page.tags if "broken" in (values.get("class") or "")]


def test_a_variants_files_that_should_be_there_are_named_where_their_content_would_stand(
    run: FakeRun,
) -> None:
    (run.folder / "zebra/train.jsonl").unlink()
    (run.folder / "llada/variant.json").unlink()
    (run.folder / "llada/samples/stdlib-infilling.jsonl").unlink()
    run.result("llada", "stdlib-infilling", {"m": (1.0, 0.5, 1.5)}, speed={"texts": 3})
    report = write_report(run.folder)
    page = Page(report.html)
    assert "train.jsonl is missing" in row(report.text, "zebra", "## Training")
    assert "variant.json is missing" in row(report.text, "llada", "## Variants")
    for text in (report.text, page.text):
        assert "llada: samples/stdlib-infilling.jsonl is missing" in text
        assert "zebra: samples" not in text
    broken = [values for _, values in page.tags if "broken" in (values.get("class") or "")]
    assert len(broken) == 3
    (run.folder / "llada/variant.json").write_text("{")
    text = write_report(run.folder).text
    assert "variant.json is damaged" in row(text, "llada", "## Variants")
    assert "which writes it anew" in text


def test_a_damaged_contamination_file_is_named_at_the_top_with_what_helps(run: FakeRun) -> None:
    (run.folder / "contamination.json").write_text("{")
    report = write_report(run.folder)
    for text in (report.text, Page(report.html).text):
        damaged = text.split("Not all of it could be read:")[1].split("Variants")[0]
        assert "contamination.json: not valid JSON" in damaged
        assert "run the manifest again" in damaged
        assert "evaluate this variant" not in text


def test_settings_of_one_checkpoint_that_nothing_trained_are_trained_in_none_of_them(
    empty_run: FakeRun,
) -> None:
    for steps in (8, 16):
        empty_run.variant(f"steps-{steps}", trained_in="steps-8", objective=None)
        empty_run.perplexity(f"steps-{steps}", 20.0)
    text = write_report(empty_run.folder).text
    assert re.search(r"\| steps-16 +\| - +\|", row(text, "steps-16", "## Training"))
    assert "in steps-8" not in text


def test_costs_are_those_of_the_steps_and_of_every_device(run: FakeRun) -> None:
    log = run.folder / "llada/train.jsonl"
    lines = [
        {
            "step": step,
            "loss": 1.0,
            "seconds": 1800,
            "processes": 4,
            "peak_memory_bytes": 2_000_000_000 * step,
        }
        for step in (1, 2)
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    speed = {"tokens_per_second": 1, "forward_passes": 1, "seconds": 1800, "peak_memory_bytes": 900_000_000}
    run.result("llada", "perplexity", {"perplexity": (1.0, 1.0, 1.0)}, speed=speed)
    (run.folder / "llada/results/stdlib-infilling.json").unlink()
    run.variant("twin", trained_in="llada")
    shown = write_report(run.folder).text
    found = re.split(r" *\| *", row(shown, "llada", "## Time, memory, device-hours"))
    assert found[2:-1] == ["1:00:00", "4.00", "4.0 GB", "30:00", "4.50", "900 MB"]
    assert "in llada" in row(shown, "twin", "## Time, memory, device-hours")


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
    assert re.search(r"\| llada +\| perplexity +(\| +- ){4}\| +2\.00 \|", text)


def test_only_the_lines_around_a_samples_answer_are_shown(run: FakeRun) -> None:
    lines = [f"line {number}" for number in range(100)]
    for name in ("zebra", "llada"):
        (run.folder / name / "samples/stdlib-infilling.jsonl").unlink()
        run.sample(name, "stdlib-infilling", prefix="\n".join(lines), suffix="\n".join(lines))
    text = write_report(run.folder).text
    assert "…\nline 76\n" in text
    assert "\nline 23\n…" in text
    assert "line 50" not in text

"""The evaluator: what it asks, what it keeps, and what it leaves to chance."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, cast

import pytest
import torch

from opendllm.core.checkpoints.text_codec import TextCodec, codec_of
from opendllm.core.data.tokenizers import train_tokenizer
from opendllm.core.decoding import kept_steps
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.text import Written
from opendllm.core.evaluation.answering import Asked, Replica, tokens_of
from opendllm.core.evaluation.answers import AnswerFile
from opendllm.core.evaluation.evaluation import Evaluation
from opendllm.core.evaluation.evaluator import evaluate
from opendllm.core.evaluation.kept_traces import TraceWanted, keep_trace
from opendllm.core.evaluation.progress import OnProgress, OnScoring
from opendllm.core.evaluation.result_file import write_result
from opendllm.core.evaluation.text_likelihood import TextToScore, score_texts
from opendllm.core.foundation.decoding_traces import read_trace
from opendllm.core.reporting.variant_files import read_result
from opendllm.core.sandbox.launch import LevelUnavailableError
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.benchmarks import (
    Answer,
    Benchmark,
    BenchmarkContext,
    CodeExecution,
    GeneratedText,
    GenerationRequest,
    LikelihoodRequest,
    Request,
    Scores,
    TextLikelihood,
)
from opendllm.registries.corpora import Document
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap

CONTEXT = BenchmarkContext(None, 0, 64, lambda: iter(()))
TOKENIZER = train_tokenizer([Document("a", "def f(x):\n    return x + 1\n" * 9)], 270)
CODEC = codec_of(TOKENIZER)


def tiny_lm(backbone: str = "llada", **options: str) -> DiffusionLM:
    torch.manual_seed(0)
    vocabulary = Vocabulary(len(TOKENIZER), TOKENIZER.mask_token_id, TOKENIZER.eos_token_id)
    lm = installed_plugins().backbones.get(backbone).build(options).build(vocabulary)
    lm.module.eval()
    return lm


class Questions(Benchmark):
    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests
        self.answers: list[Answer] = []

    def requests(self, context: BenchmarkContext) -> Sequence[Request]:
        return self._requests

    def score(self, answers: Sequence[Answer]) -> Scores:
        self.answers = list(answers)
        return Scores({}, {})


def ask(
    benchmark: Benchmark,
    path: Path,
    batch_size: int | Literal["auto"] = 4,
    lms: Sequence[DiffusionLM] | None = None,
    context: BenchmarkContext = CONTEXT,
    on_progress: OnProgress = lambda *_: None,
    on_scoring: OnScoring = lambda *_: None,
) -> Evaluation:
    sampler = installed_plugins().samplers.get("low-confidence").build()
    asked = Asked(
        replicas=[Replica(lm, TOKENIZER, CODEC, sampler) for lm in lms or [tiny_lm()]],
        options=DecoderOptions(steps=4, max_new_tokens=6, temperature=0.9),
        chat=False,
        samples_per_task=2,
        batch_size=batch_size,
        likelihood_estimator="llada",
        likelihood_draws=16,
        seed=0,
    )
    evaluation = evaluate(
        asked, benchmark, context, AnswerFile(path, "d"), on_progress, on_scoring=on_scoring
    )
    assert evaluation is not None
    return evaluation


def test_answers_that_are_all_the_same_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of them at temperature 0 are one, and pass@10 is pass@1."""
    drawn = ask(Questions(infillings()), tmp_path / "drawn.jsonl")
    assert drawn.scores is not None
    assert not any("the same" in note for note in drawn.scores.notes)
    mode = DecoderOptions(steps=4, max_new_tokens=6)
    monkeypatch.setattr(f"{__name__}.DecoderOptions", lambda **_: mode)
    greedy = ask(Questions(infillings()), tmp_path / "greedy.jsonl")
    assert greedy.scores is not None
    assert greedy.scores.notes[0].startswith("the 2 answers to each request are all the same")


def test_answers_that_had_not_ended_are_told(tmp_path: Path) -> None:
    """Code that is cut off after 64 tokens fails, whatever would have come."""

    def notes(name: str, stop: tuple[str, ...] = (), length: int | None = None) -> tuple[str, ...]:
        asked = [GenerationRequest(f"t{n}", Gap("ab" * (n + 1), None, length), stop=stop) for n in range(3)]
        found = ask(Questions(asked), tmp_path / name)
        assert found.scores is not None
        return found.scores.notes

    [note] = notes("plain")
    assert re.match("[3-6] of 6 answers hadn't ended after 6 tokens, and are scored as they are", note)
    assert not notes("stopped", stop=tuple(map(chr, range(0x250))))
    assert not notes("short", length=5)


def test_graphs_are_counted_said_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later run that finds all answers on file says what they had cost."""

    class Again:
        """A graph that calls the function again."""

        def capture(self, function: Callable[[], None]) -> SimpleNamespace:
            return SimpleNamespace(replay=function)

    monkeypatch.setattr(kept_steps, "captures_on", lambda _device: Again())
    monkeypatch.setattr(torch, "compile", lambda function, **_options: function)
    monkeypatch.setattr("shutil.which", lambda _name: "a compiler")
    plain = Questions(infillings())
    ask(plain, tmp_path / "plain.jsonl")
    monkeypatch.setattr(f"{__name__}.DecoderOptions", partial(DecoderOptions, compile=True))
    benchmark, lm = Questions(infillings()), tiny_lm()
    monkeypatch.setattr(f"{__name__}.tiny_lm", lambda: lm)
    first = ask(benchmark, tmp_path / "s.jsonl")
    assert benchmark.answers == plain.answers
    assert first.graphs is not None
    assert first.graphs.shapes == 1
    assert "graphs for canvases of 1 shape captured in 0." in str(first.graphs)
    assert "_kept_steps" not in vars(lm)
    again = ask(Questions(infillings()), tmp_path / "s.jsonl")
    assert again.graphs is None
    for evaluation in (first, again):
        write_result(tmp_path / "r.json", benchmark, evaluation, {})
        assert json.loads((tmp_path / "r.json").read_text())["speed"]["graphs"] == asdict(first.graphs)


def keys_of(path: Path) -> list[tuple[str, str, int]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["task_id"], line["setting"], line["sample"]) for line in lines]


def infillings() -> list[Request]:
    return [
        GenerationRequest("a", Gap("def f(", "):\n"), "x", "oracle", oracle_length=True),
        GenerationRequest("b", Gap("def g(x):\n    return", "\n", 5), "x + 1", "length-5"),
        GenerationRequest("c", Gap("x = ")),
    ]


def test_lengths_are_the_oracles_the_requests_or_the_manifests(tmp_path: Path) -> None:
    benchmark = Questions(infillings())
    ask(benchmark, tmp_path / "s.jsonl")
    lengths = {a.task_id: len(a.tokens) for a in benchmark.answers if isinstance(a, GeneratedText)}
    assert lengths == {"a": 1, "b": 5, "c": 6}
    assert len(benchmark.answers) == 6


def test_at_an_empty_references_length_nothing_is_written(tmp_path: Path) -> None:
    benchmark = Questions([GenerationRequest("a", Gap("x = ", "\n"), reference="", oracle_length=True)])
    ask(benchmark, tmp_path / "s.jsonl")
    assert [a.tokens for a in benchmark.answers if isinstance(a, GeneratedText)] == [(), ()]


def test_samples_do_not_depend_on_the_batch_size_or_on_a_restart(tmp_path: Path) -> None:
    whole, single, auto = (Questions(infillings()) for _ in range(3))
    ask(whole, tmp_path / "whole.jsonl", batch_size=4)
    assert ask(single, tmp_path / "single.jsonl", batch_size=1).batch_size == 1
    assert ask(auto, tmp_path / "auto.jsonl", batch_size="auto").batch_size == 6
    assert whole.answers == single.answers == auto.answers
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_text("".join(lines[:2]) + lines[2][:20])
    resumed = Questions(infillings())
    ask(resumed, tmp_path / "cut.jsonl")
    assert resumed.answers == whole.answers
    assert len((tmp_path / "cut.jsonl").read_text().splitlines()) == len(lines)


def test_samples_do_not_depend_on_the_number_of_devices(tmp_path: Path) -> None:
    one, three = Questions(infillings()), Questions(infillings())
    ask(one, tmp_path / "one.jsonl")
    ask(three, tmp_path / "three.jsonl", batch_size=1, lms=[tiny_lm() for _ in range(3)])
    assert three.answers == one.answers
    assert keys_of(tmp_path / "three.jsonl") == keys_of(tmp_path / "one.jsonl")


def test_a_device_that_fails_stops_the_evaluation_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UserError("out of memory")

    monkeypatch.setattr("opendllm.core.evaluation.answering.write", fail)
    with pytest.raises(UserError, match="out of memory"):
        ask(Questions(infillings()), tmp_path / "s.jsonl", lms=[tiny_lm(), tiny_lm()])


LONG = GenerationRequest("long", Gap("x = 1\n" * 4000))
EMPTY = GenerationRequest("empty", Gap(""))


def test_a_problem_that_does_not_fit_the_model_fails_and_the_rest_goes_on(tmp_path: Path) -> None:
    plain, mixed = Questions(infillings()), Questions([LONG, *infillings(), EMPTY])
    ask(plain, tmp_path / "plain.jsonl")
    evaluation = ask(mixed, tmp_path / "s.jsonl", lms=[tiny_lm(), tiny_lm()])
    answers = [answer for answer in mixed.answers if isinstance(answer, GeneratedText)]
    failed = [answer for answer in answers if answer.failure is not None]
    assert [(answer.task_id, answer.text) for answer in failed] == [("long", "")] * 2 + [("empty", "")] * 2
    assert [answer for answer in answers if answer.failure is None] == plain.answers
    assert set(evaluation.unasked) == {"long", "empty"}
    assert "more than the model's context of" in evaluation.unasked["long"]
    assert evaluation.scores is not None
    assert "2 of 5 problems couldn't be asked and count as failed (long: " in (evaluation.scores.notes[-1])
    before = (tmp_path / "s.jsonl").read_bytes()
    assert ask(Questions([LONG, *infillings(), EMPTY]), tmp_path / "s.jsonl").unasked == evaluation.unasked
    assert (tmp_path / "s.jsonl").read_bytes() == before


MASK = str(TOKENIZER.mask_token)
LIKELY = LikelihoodRequest("fine", " x", context="def f(")
ODD_REQUESTS: dict[str, tuple[Request, str]] = {
    "reference-surrogate": (GenerationRequest("odd", Gap("x = "), "\ud800"), "is a lone surrogate"),
    "no-reference": (
        GenerationRequest("odd", Gap("x = "), oracle_length=True),
        "its reference, and has none",
    ),
    "no-text": (GenerationRequest("odd", Gap(None)), "its preparation fails (AttributeError"),  # type: ignore[arg-type]
    "unprepared": (GenerationRequest("odd", Gap(""), failure="KeyError: 'text'"), "KeyError: 'text'"),
    "text-surrogate": (LikelihoodRequest("odd", "x = \ud800"), "character 4 is a lone surrogate"),
    "nothing": (LikelihoodRequest("odd", "", context="x = 1"), "has no tokens to score"),
    "unprepared-text": (LikelihoodRequest("odd", "", failure="KeyError: 'text'"), "KeyError: 'text'"),
}


@pytest.mark.parametrize(("odd", "reason"), ODD_REQUESTS.values(), ids=list(ODD_REQUESTS))
def test_an_odd_problem_stops_nobody(tmp_path: Path, odd: Request, reason: str) -> None:
    plain, mixed = Questions([*infillings(), LIKELY]), Questions([odd, *infillings(), LIKELY])
    ask(plain, tmp_path / "plain.jsonl")
    evaluation = ask(mixed, tmp_path / "s.jsonl")
    failed = [answer for answer in mixed.answers if answer.failure is not None]
    assert {answer.task_id for answer in failed} == {"odd"}
    assert isinstance(failed[0], GeneratedText) == isinstance(odd, GenerationRequest)
    assert [answer for answer in mixed.answers if answer.failure is None] == plain.answers
    assert reason in evaluation.unasked["odd"]
    assert evaluation.scores is not None
    assert reason in evaluation.scores.per_task["odd"]["failure"]
    assert evaluation.scores.notes[-1].startswith(
        "1 of 5 problems couldn't be asked and count as failed (odd: "
    )
    before = (tmp_path / "s.jsonl").read_bytes()
    again = Questions([odd, *infillings(), LIKELY])
    assert ask(again, tmp_path / "s.jsonl").unasked == evaluation.unasked
    assert [repr(answer) for answer in again.answers] == [repr(answer) for answer in mixed.answers]
    assert (tmp_path / "s.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "request_",
    [
        GenerationRequest("spelt", Gap("x = "), MASK, oracle_length=True),
        GenerationRequest("spelt", Gap(f"x = {MASK}", f"{MASK} + 1")),
        LikelihoodRequest("spelt", f"x = {MASK}"),
        LikelihoodRequest("spelt", f" {MASK}", context=f"x {MASK}="),
    ],
    ids=["reference", "prompt", "text", "context"],
)
def test_a_problem_that_spells_the_mask_is_asked_as_text(tmp_path: Path, request_: Request) -> None:
    asked = Questions([request_])
    assert not ask(asked, tmp_path / "s.jsonl").unasked
    assert [answer.failure for answer in asked.answers] == [None] * len(asked.answers)
    for answer in asked.answers:
        if isinstance(answer, GeneratedText):
            assert TOKENIZER.mask_token_id not in (*answer.tokens, *answer.reference_tokens)


def test_an_empty_stop_string_cuts_nothing(tmp_path: Path) -> None:
    free, stopped = (
        Questions([GenerationRequest("t", Gap("x = ", length=12), stop=stop)]) for stop in ((), ("",))
    )
    ask(free, tmp_path / "free.jsonl")
    ask(stopped, tmp_path / "stopped.jsonl")
    assert stopped.answers == free.answers


def test_a_benchmark_of_which_no_problem_fits_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no problem .* long: prompt has \d+ tokens"):
        ask(Questions([LONG]), tmp_path / "s.jsonl")
    assert (tmp_path / "s.jsonl").read_bytes() == b""


def test_answers_to_problems_that_have_changed_are_refused(tmp_path: Path) -> None:
    ask(Questions([GenerationRequest("a", Gap("x = "))]), tmp_path / "s.jsonl")
    before = (tmp_path / "s.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"s\.jsonl: the answer to a was given to another prompt"):
        ask(Questions([GenerationRequest("a", Gap("y = "))]), tmp_path / "s.jsonl")
    ask(Questions([LikelihoodRequest("t", "x = 1")]), tmp_path / "t.jsonl")
    with pytest.raises(UserError, match="the answer to t was given to another prompt"):
        ask(Questions([LikelihoodRequest("t", "x = 2")]), tmp_path / "t.jsonl")
    assert (tmp_path / "s.jsonl").read_bytes() == before


def test_generated_code_is_not_scored_without_leave(tmp_path: Path) -> None:
    class Executes(Questions):
        executes_code = True

    forbidden = Executes(infillings())
    evaluation = ask(forbidden, tmp_path / "s.jsonl")
    assert evaluation.scores is None
    assert forbidden.answers == []
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 6
    before = (tmp_path / "s.jsonl").read_bytes()
    allowed = Executes(infillings())
    assert ask(allowed, tmp_path / "s.jsonl", context=replace(CONTEXT, code_execution=CodeExecution())).scores
    assert len(allowed.answers) == 6
    assert (tmp_path / "s.jsonl").read_bytes() == before


def test_a_sandbox_that_is_not_there_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Executes(Questions):
        executes_code = True

    def refuse(level: str) -> None:
        raise LevelUnavailableError("not on this machine")

    monkeypatch.setattr("opendllm.core.sandbox.levels.ForkServerHandle", refuse)
    context = replace(CONTEXT, code_execution=CodeExecution("namespaces"))
    with pytest.raises(UserError, match=r"no sandbox as strong as namespaces .*not on this machine"):
        ask(Executes(infillings()), tmp_path / "s.jsonl", context=context)
    assert (tmp_path / "s.jsonl").read_bytes() == b""


def test_whether_an_answer_ended_is_known(tmp_path: Path) -> None:
    benchmark = Questions([GenerationRequest(str(n), Gap("x = ", length=12)) for n in range(8)])
    ask(benchmark, tmp_path / "free.jsonl")
    answers = [a for a in benchmark.answers if isinstance(a, GeneratedText)]
    for answer in answers:
        assert answer.ended == (TOKENIZER.eos_token_id in answer.tokens)
    whole = next(a for a in answers if not a.ended and len(a.text) > 3)
    stopped = Questions([GenerationRequest(whole.task_id, Gap("x = ", length=12), stop=(whole.text[2],))])
    ask(stopped, tmp_path / "stopped.jsonl")
    cut = stopped.answers[whole.sample]
    assert isinstance(cut, GeneratedText)
    assert cut.ended


def test_the_progress_bar_hears_the_score_so_far(tmp_path: Path) -> None:
    class Half(Questions):
        def quick_score(self, answer: Answer) -> float | None:
            return 1.0 if answer.task_id == "a" else 0.0

    told: list[tuple[int, int, float | None]] = []
    ask(Half(infillings()), tmp_path / "s.jsonl", on_progress=lambda *now: told.append(now))
    assert told[0] == (0, 6, None)
    assert told[-1] == (6, 6, pytest.approx(1 / 3))
    told.clear()
    ask(Half(infillings()), tmp_path / "s.jsonl", on_progress=lambda *now: told.append(now))
    assert told == [(6, 6, pytest.approx(1 / 3))]


def test_the_scoring_is_heard_of_when_it_begins_and_as_it_goes_on(tmp_path: Path) -> None:
    class Executes(Questions):
        executes_code = True

        def requests(self, context: BenchmarkContext) -> Sequence[Request]:
            self.execution = context.code_execution
            return super().requests(context)

        def score(self, answers: Sequence[Answer]) -> Scores:
            assert self.execution is not None
            self.execution.on_progress(1, 3, 0.5)
            return super().score(answers)

    told: list[tuple[int, int | None, float | None]] = []
    allowed = replace(CONTEXT, code_execution=CodeExecution())
    for context, expected in ((allowed, [(0, None, None), (1, 3, 0.5)]), (CONTEXT, [])):
        told.clear()
        ask(
            Executes(infillings()),
            tmp_path / "s.jsonl",
            context=context,
            on_scoring=lambda *now: told.append(now),
        )
        assert told == expected


def test_finished_answers_are_not_made_again(tmp_path: Path) -> None:
    ask(Questions(infillings()), tmp_path / "s.jsonl")
    before = (tmp_path / "s.jsonl").read_bytes()
    ask(Questions(infillings()), tmp_path / "s.jsonl")
    assert (tmp_path / "s.jsonl").read_bytes() == before


def test_stop_strings_cut_the_text(tmp_path: Path) -> None:
    free = Questions([GenerationRequest(str(n), Gap("x = ", length=12)) for n in range(8)])
    ask(free, tmp_path / "free.jsonl")
    whole = max((a for a in free.answers if isinstance(a, GeneratedText)), key=lambda a: len(a.text))
    text = whole.text
    assert len(text) > 4
    stop = (text[3:5], text[2:5])
    stopped = Questions([GenerationRequest(whole.task_id, Gap("x = ", length=12), stop=stop)])
    ask(stopped, tmp_path / "stopped.jsonl")
    cut = stopped.answers[whole.sample]
    assert isinstance(cut, GeneratedText)
    assert cut.text == text[: min(text.index(word) for word in stop)]
    assert cut.tokens == whole.tokens


def test_what_a_stop_string_cut_off_is_no_token_written(tmp_path: Path) -> None:
    """Neither in tokens a pass nor a second: a text's tokens are those that it takes to spell it."""
    free = Questions([GenerationRequest(str(n), Gap("x = ", length=12)) for n in range(8)])
    ask(free, tmp_path / "free.jsonl")
    whole = max((a for a in free.answers if isinstance(a, GeneratedText)), key=lambda a: len(a.text))
    stop = (whole.text[3:5],)
    stopped = Questions([GenerationRequest(whole.task_id, Gap("x = ", length=12), stop=stop)])
    result = ask(stopped, tmp_path / "stopped.jsonl")
    records = [json.loads(line) for line in (tmp_path / "stopped.jsonl").read_text().splitlines()]
    cut = records[whole.sample]
    assert CODEC.decode(cut["tokens"][: cut["kept_tokens"]]).startswith(cut["text"])
    assert cut["kept_tokens"] < len(cut["tokens"])
    assert result.tokens == sum(record["kept_tokens"] for record in records)


class Bytes:
    """A codec whose tokens are bytes; spaces are dropped where nothing stands on the left."""

    def decode(self, ids: Sequence[int], _left: Sequence[int] = ()) -> str:
        return bytes(ids).decode(errors="replace").removeprefix(" ")

    def decode_beginning(self, ids: Sequence[int], left: Sequence[int] = ()) -> str:
        return self.decode(ids, left).rstrip("\ufffd")


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), (" ", 1), (" x", 2), (" x☕", 5), (" x☕y", 6)],
)
def test_how_many_tokens_a_text_takes(text: str, count: int) -> None:
    """Of a character of several bytes all, and of a stop id none."""
    written = " x☕y"
    ids = tuple(written.encode())
    found = Written(written, (*ids, 0, 0), (1,) * 8, len(ids), 8, 1.0)
    codec = cast(TextCodec, Bytes())
    assert tokens_of(codec, found, text) == count


def test_a_likelihood_is_asked_once_whatever_the_samples(tmp_path: Path) -> None:
    benchmark = Questions([LikelihoodRequest("t", "def f(x):\n    return x\n")])
    ask(benchmark, tmp_path / "s.jsonl")
    (answer,) = benchmark.answers
    assert isinstance(answer, TextLikelihood)
    assert answer.tokens == len(TOKENIZER("def f(x):\n    return x\n")["input_ids"]) - 1


@pytest.mark.parametrize("text", ["def f(x):\n    return x\n", "naïve ☕ café", "    indented  \n\n"])
def test_bytes_are_those_of_the_scored_tokens(text: str) -> None:
    ids = TOKENIZER(text)["input_ids"]
    (scored,) = score_texts(tiny_lm(), CODEC, [TextToScore(text, 0)], 64, 16)
    assert scored.tokens == len(ids) - 1
    assert scored.bytes == len(text.encode()) - len(TOKENIZER.decode(ids[:1]).encode())


def test_a_causal_models_likelihood_is_exact_and_the_logits_own() -> None:
    lm = tiny_lm("open-dcoder", attention="causal")
    text = "def f(x):\n    return x + 1\n"
    (scored,) = score_texts(lm, CODEC, [TextToScore(text, 0)], 64, 16)
    assert scored.variance == 0
    assert math.isfinite(scored.log_likelihood)


def test_perplexity_leaves_out_a_document_that_failed_and_says_so() -> None:
    benchmark = installed_plugins().benchmarks.get("perplexity").build({})
    documents = [Document(name, f"x = {name}\ny = 2\n") for name in "ab"]
    benchmark.requests(replace(CONTEXT, held_out=lambda: iter(documents)))
    whole = TextLikelihood("a", "default", -6.0, 0.0, 3, 8)
    failed = TextLikelihood("b", "default", math.nan, 0.0, 0, 0, failure="odd")
    alone, both = benchmark.score([whole]), benchmark.score([whole, failed])
    assert both.metrics == alone.metrics
    assert alone.metrics["nats_per_token"].value == pytest.approx(2)
    assert "documents that failed are left out" in both.notes
    assert "documents that failed are left out" not in alone.notes


@pytest.mark.parametrize(("attention", "kind"), [("causal", "exact"), ("bidirectional", "upper bound")])
def test_a_perplexity_says_whether_it_is_exact_or_a_bound_and_how_it_is_made(
    tmp_path: Path, attention: str, kind: str
) -> None:
    """In the result file; of answers on file from before they said it, too."""
    samples, result = tmp_path / "s.jsonl", tmp_path / "r.json"
    lm = tiny_lm("open-dcoder", attention=attention)
    documents = [Document(str(n), f"x = {n}\n" * (n + 2)) for n in range(3)]
    context = replace(CONTEXT, held_out=lambda: iter(documents))
    benchmark = installed_plugins().benchmarks.get("perplexity").build({})
    for _ in range(2):
        write_result(result, benchmark, ask(benchmark, samples, context=context, lms=[lm]), {})
        found = read_result(result)
        assert {estimate.kind for estimate in found.metrics.values()} == {kind}
        for estimate in found.metrics.values():
            ratio = estimate.ratio
            assert ratio is not None
            totals = [
                sum(numbers[name] for numbers in found.per_task.values())
                for name in (ratio.numerator, ratio.denominator)
            ]
            value = totals[0] / totals[1]
            assert (math.exp(value) if ratio.exponential else value) == pytest.approx(estimate.value)
        lines = [json.loads(line) for line in samples.read_text().splitlines()]
        assert {line.pop("exact", kind == "exact") for line in lines} == {kind == "exact"}
        samples.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_result_says_what_the_answers_cost_also_when_they_are_on_file(tmp_path: Path) -> None:
    benchmark = Questions(infillings())
    first = ask(benchmark, tmp_path / "s.jsonl")
    write_result(tmp_path / "r.json", benchmark, first, {})
    speed = json.loads((tmp_path / "r.json").read_text())["speed"]
    texts = [answer for answer in benchmark.answers if isinstance(answer, GeneratedText)]
    assert speed["texts"] == len(texts) == 6
    assert speed["tokens_per_forward_pass"] == speed["tokens"] / speed["forward_passes"]
    assert 0 <= speed["tokens"] <= sum(len(answer.tokens) for answer in texts)
    assert speed["peak_memory_bytes"] > 50_000_000
    assert speed["batch_size"] == 4
    again = ask(benchmark, tmp_path / "s.jsonl")
    assert again.peak_memory_bytes is None
    write_result(tmp_path / "r.json", benchmark, again, {})
    assert json.loads((tmp_path / "r.json").read_text())["speed"] == speed


def test_the_first_tasks_longest_gap_is_the_one_to_be_traced(tmp_path: Path) -> None:
    lengths = [
        GenerationRequest("a", Gap("x = ", "\n", length), "1 + 1", f"length-{length}") for length in (2, 5, 3)
    ]
    longer = GenerationRequest("b", Gap("y = ", "\n", 9), "2")
    oracle = GenerationRequest("a", Gap("x = ", "\n"), "1 + 1", "oracle", oracle_length=True)
    found = ask(Questions([oracle, *lengths, longer]), tmp_path / "s.jsonl")
    assert found.first_text is not None
    assert found.first_text == (("a", "length-5", 0), lengths[1])


def test_a_traced_answer_is_the_one_that_was_given_step_by_step(tmp_path: Path) -> None:
    asked = Asked(
        replicas=[Replica(tiny_lm(), TOKENIZER, CODEC, installed_plugins().samplers.get("p2").build())],
        options=DecoderOptions(steps=4, max_new_tokens=6, temperature=0.9),
        chat=False,
        samples_per_task=1,
        batch_size=4,
        likelihood_estimator="llada",
        likelihood_draws=16,
        seed=0,
    )
    benchmark, answers = Questions(infillings()), AnswerFile(tmp_path / "s.jsonl", "d")
    found = evaluate(asked, benchmark, CONTEXT, answers, lambda *_: None)
    assert found is not None
    assert found.first_text is not None
    settings = {"sampler": {"name": "p2", "options": {"eta": 1}}, "decoder": {"steps": 4}}
    wanted = TraceWanted(tmp_path / "traces" / "t.json", *found.first_text, answers.digest, settings)
    keep_trace(asked, wanted)
    trace, given = read_trace(wanted.path), answers.records[wanted.key]
    assert (trace.text, trace.forward_passes) == (given.text, given.forward_passes)
    assert (trace.prompt, trace.suffix, trace.options) == ("def f(", "):\n", {"steps": 4, "eta": 1})
    before = wanted.path.stat().st_mtime_ns
    keep_trace(asked, wanted)
    assert wanted.path.stat().st_mtime_ns == before
    keep_trace(asked, replace(wanted, digest="another"))
    assert read_trace(wanted.path).digest == "another"

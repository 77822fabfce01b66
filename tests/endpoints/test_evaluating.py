"""A server's model on benchmarks: what it is asked, and what is made of its answers."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.experiment import run_experiment
from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

from .conftest import HUMANEVAL, INFILLING, INSTRUCTED, PROBLEMS, Evaluate, Evaluated
from .fake_server import Asked, FakeServer, Reply, completion, prompts, written


def test_a_prompt_is_asked_as_a_completion(server: FakeServer, evaluate: Evaluate) -> None:
    """With the settings of the manifest, a seed of its own, and no more stop strings than the API takes."""
    found = evaluate({"extra_body": {"steps": 7}}, {**HUMANEVAL, "samples_per_task": 2}, seed=5)
    assert {asked.path for asked in server.asked} == {"/v1/completions"}
    assert len(server.asked) == len(found.samples()) == 8
    for asked in server.asked:
        assert set(asked.body) == {"model", "prompt", "max_tokens", "temperature", "seed", "stop", "steps"}
        assert asked.body["model"] == "tiny"
        assert (asked.body["max_tokens"], asked.body["temperature"], asked.body["steps"]) == (12, 0.5, 7)
        assert 1 <= len(asked.body["stop"]) <= 4
        assert 0 <= asked.body["seed"] < 1 << 31
    assert len({asked.body["seed"] for asked in server.asked}) == 8
    by_prompt = {(asked.body["prompt"], written(asked)) for asked in server.asked}
    assert {(sample["prefix"], sample["text"]) for sample in found.samples()} == by_prompt


def test_the_same_seed_asks_the_same_and_another_one_something_else(
    server: FakeServer, evaluate: Evaluate
) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        evaluate(folder=folder, seed=seed)
    first, again, other = (prompts(server.asked[at : at + 4]) for at in (0, 4, 8))
    assert first == again
    assert not set(first) & set(other)


def test_many_at_once_give_what_one_after_the_other_gives(server: FakeServer, evaluate: Evaluate) -> None:
    entry = {**HUMANEVAL, "samples_per_task": 12}
    alone = evaluate({"concurrency": 1}, entry, "alone")
    started = time.perf_counter()
    together = evaluate({"concurrency": 8}, entry, "together")
    elapsed = time.perf_counter() - started
    assert alone.texts() == together.texts()
    assert len(alone.texts()) == 48
    assert sum(sample["seconds"] for sample in together.samples()) <= elapsed  # each has its share of them


def test_requests_are_under_way_together(server: FakeServer, evaluate: Evaluate) -> None:
    """Each waits until four are there; with fewer at once nobody would ever come."""
    barrier = threading.Barrier(4)

    def wait_for_others(asked: object, before: int) -> Reply:
        barrier.wait(60)
        return completion(server.asked[0], "together")

    server.answering = wait_for_others
    assert [text for *_, text, _, _ in evaluate({"concurrency": 4}).texts()] == ["together"] * 4


@pytest.mark.parametrize("how", ["generate.chat", "api: chat"])
def test_a_prompt_is_a_users_turn_where_chat_is_asked_for(
    server: FakeServer, evaluate: Evaluate, how: str
) -> None:
    generate = {"max_new_tokens": 12, "chat": how == "generate.chat"}
    found = evaluate({"api": "chat"} if how == "api: chat" else {}, INSTRUCTED, generate=generate)
    assert {asked.path for asked in server.asked} == {"/v1/chat/completions"}
    sent = [asked.body["messages"] for asked in server.asked]
    assert sorted(map(str, sent)) == sorted(str(json.loads(sample["prefix"])) for sample in found.samples())
    assert {(turns[0]["role"], len(turns)) for turns in sent} == {("user", 1)}
    assert all("\n```" not in asked.body.get("stop", []) for asked in server.asked), "fences begin code, too"


def test_infilling_sends_the_suffix_at_each_length(server: FakeServer, evaluate: Evaluate) -> None:
    """The oracle's length is one in the model's tokens, which nobody knows here: it is not asked."""
    found = evaluate(entry=INFILLING, generate={"max_new_tokens": 99})
    sent = {(asked.body["prompt"], asked.body["suffix"], asked.body["max_tokens"]) for asked in server.asked}
    lines = found.samples("humaneval-infilling")
    assert {line["setting"] for line in lines} == {"length-4", "length-8"}
    assert sent == {(line["prefix"], line["suffix"], int(line["setting"][7:])) for line in lines}
    assert "stop" not in server.asked[0].body


def test_a_chat_s_length_has_the_name_that_the_server_takes(server: FakeServer, evaluate: Evaluate) -> None:
    evaluate({"api": "chat", "length_field": "max_completion_tokens"}, INSTRUCTED, limit=1)
    evaluate({"length_field": "max_completion_tokens"}, limit=1, folder="plain")
    found = [{key for key in asked.body if key.startswith("max_")} for asked in server.asked]
    assert found == [{"max_completion_tokens"}, {"max_tokens"}]


def test_a_server_that_ignores_suffixes_is_refused(server: FakeServer, evaluate: Evaluate) -> None:
    """It counts the same tokens with and without one."""

    def deaf(asked: object, before: int) -> Reply:
        return Reply({"choices": [{"text": "x", "finish_reason": "stop"}], "usage": {"prompt_tokens": 5}})

    server.answering = deaf
    with pytest.raises(UserError, match="takes a `suffix` and doesn't read it"):
        evaluate(entry=INFILLING)
    assert server.asked == []


def test_a_server_that_may_ignore_suffixes_is_noted(server: FakeServer, evaluate: Evaluate) -> None:
    """It counts nothing; the note stays when the run is gone on with, and nothing is asked any more."""
    server.answering = lambda asked, before: Reply({"choices": [{"text": "x", "finish_reason": "stop"}]})
    told = "whether the server reads a `suffix` or ignores it couldn't be told"
    entry = {"benchmark": {"name": "stdlib-infilling", "options": {"problems": 2, "fixed_lengths": [4]}}}
    for _ in range(2):
        found = evaluate(entry=entry)
        assert told in str(found.result("stdlib-infilling")["notes"])
        (found.folder / "results" / "stdlib-infilling.json").unlink()
    assert len(server.asked) == 2
    server.answering = lambda asked, before: completion(asked)
    assert told not in str(evaluate(entry=entry, folder="counted").result("stdlib-infilling")["notes"])


def test_a_server_without_suffixes_says_so(server: FakeServer, evaluate: Evaluate) -> None:
    said = {"error": {"message": "suffix is not currently supported", "type": "BadRequestError"}}
    server.answering = lambda asked, before: Reply(said, 400)
    with pytest.raises(UserError, match=r"refuses the request \(400: suffix is not currently supported\)"):
        evaluate(entry=INFILLING)


def test_stop_strings_beyond_the_fourth_cut_all_the_same(server: FakeServer, evaluate: Evaluate) -> None:
    server.answering = lambda asked, before: completion(asked, "    return 1\nprint(2)\nclass A: pass")
    found = evaluate()
    [sent] = {tuple(asked.body["stop"]) for asked in server.asked}
    assert len(sent) == 4
    assert "\nprint" not in sent
    assert {(text, ended) for *_, text, ended, _ in found.texts()} == {("    return 1", True)}


def test_how_a_text_ended_is_what_the_server_says(server: FakeServer, evaluate: Evaluate) -> None:
    reasons = ["stop", "length", "content_filter", None]

    def answer(asked: object, before: int) -> Reply:
        reply = completion(server.asked[-1], "text", "")
        reply.content["choices"][0]["finish_reason"] = reasons[len(server.asked) - 1]
        return reply

    server.answering = answer
    found = evaluate({"concurrency": 1})
    assert sorted(str(ended) for *_, ended, _ in found.texts()) == ["False", "None", "None", "True"]


def test_tokens_are_those_that_the_server_counts(server: FakeServer, evaluate: Evaluate) -> None:
    """And nobody's where it counts none: neither speed nor forward passes are made up."""
    entry = {"benchmark": {"name": "stdlib-infilling", "options": {"problems": 2, "fixed_lengths": [4]}}}
    found = evaluate(entry=entry, folder="counted")
    speed = found.result("stdlib-infilling")["speed"]
    assert (speed["texts"], speed["tokens"]) == (2, 6)
    assert math.isclose(speed["tokens_per_second"], 6 / speed["seconds"])
    unknown = ("forward_passes", "tokens_per_forward_pass", "peak_memory_bytes")
    assert [speed[name] for name in unknown] == [None, None, None]

    def uncounted(asked: object, before: int) -> Reply:
        reply = completion(server.all[-1], "x")
        if len(server.asked) % 2:
            del reply.content["usage"]["completion_tokens"]
        return reply

    server.answering = uncounted
    speed = evaluate(entry=entry, folder="uncounted").result("stdlib-infilling")["speed"]
    assert (speed["texts"], speed["tokens"], speed["tokens_per_second"]) == (2, None, None)


def test_a_result_says_who_was_asked_and_that_the_weights_are_unknown(
    server: FakeServer, evaluate: Evaluate
) -> None:
    entry = {"benchmark": {"name": "stdlib-infilling", "options": {"problems": 2, "fixed_lengths": [4, 8]}}}
    found = evaluate(entry=entry, stages=("evaluate", "report"))
    result = found.result("stdlib-infilling")
    expected = {"url": server.url, "model": "tiny", "served_models": ["tiny", "other"], "weights": "unknown"}
    assert result["provenance"]["endpoint"] == expected
    assert found.about("stdlib-infilling")["provenance"]["endpoint"] == expected
    assert f"written by tiny at {server.url}; its weights and decoder aren't known here" in result["notes"]
    assert any(note.startswith("not asked (oracle)") for note in result["notes"])
    assert not any(
        name.endswith("_oracle") or name.startswith("token_accuracy") for name in result["metrics"]
    )
    report = (found.folder.parent / "report.md").read_text(encoding="utf-8")
    assert f"| served  | tiny at {server.url} |" in report
    identity = json.loads((found.folder / "variant.json").read_text())
    assert (identity["endpoint"], identity["model"], identity["backbone"]) == (server.url, "tiny", None)


def test_a_server_that_lists_no_models_is_asked_all_the_same(server: FakeServer, evaluate: Evaluate) -> None:
    server.models = None
    assert evaluate().about()["provenance"]["endpoint"]["served_models"] is None
    assert len(server.asked) == 4


def test_a_problem_that_is_too_long_counts_as_failed(server: FakeServer, evaluate: Evaluate) -> None:
    """The others are answered, and the result names it."""
    said = {"error": {"message": "This model's maximum context length is 64 tokens.", "code": 400}}

    def answer(asked: Asked, before: int) -> Reply:
        return Reply(said, 400) if "rotate" in asked.body["prompt"] else completion(asked)

    server.answering = answer
    found = evaluate({"concurrency": 1})
    failures = {task: failure for task, *_, failure in found.texts() if failure}
    assert list(failures) == ["HumanEval/1"]
    assert failures["HumanEval/1"].startswith("the server refuses it as too long (400: This model's maximum")
    assert len(server.asked) == 4


def test_a_server_stands_beside_a_local_model_in_one_manifest(server: FakeServer, tmp_path: Path) -> None:
    """A null takes away what only the other one has; both are asked the same problems, and paired by them."""
    (tmp_path / "train.py").write_text("def f(a):\n    return a\n" * 40)
    (tmp_path / "held_out.py").write_text("def g(a):\n    return a + 1\n")
    (tmp_path / "both.yaml").write_text(f"""\
name: both
output: {tmp_path / "both"}
device: cpu
model: {{backbone: {{name: llada, options: {{preset: nano}}}}}}
data:
  corpus: {{name: text-files, options: {{train: train.py, held_out: held_out.py}}}}
  tokenizer: {{train: {{vocab_size: 260}}}}
  sequence_length: 512
generate: {{max_new_tokens: 2, steps: 1}}
evaluate:
  - benchmark: {{name: stdlib-infilling, options: {{problems: 3, fixed_lengths: [2]}}}}
variants:
  here: {{}}
  there:
    model: {{backbone: null, endpoint: "{server.url}", model: tiny}}
    generate: {{steps: null}}
""")
    experiment = read_experiment(tmp_path / "both.yaml", [], installed_plugins())
    run_experiment(experiment)
    here, there = (
        Evaluated(tmp_path / "both" / name).result("stdlib-infilling") for name in ("here", "there")
    )
    assert "exact_match_oracle" in here["metrics"]
    assert set(there["metrics"]) < set(here["metrics"])
    assert list(there["per_task"]) == list(here["per_task"])
    report = (tmp_path / "both" / "report.md").read_text(encoding="utf-8")
    assert f"| there   | tiny at {server.url} |" in report
    assert "| there   | stdlib-infilling |" in report


def test_answers_that_are_longer_than_asked_for_are_counted_and_said(
    server: FakeServer, evaluate: Evaluate
) -> None:
    """A server that doesn't read max_tokens has an advantage over one that does."""

    def talkative(asked: Asked, before: int) -> Reply:
        reply = completion(asked)
        reply.content["usage"]["completion_tokens"] = 4 + 3 * (server.asked[:1] == [asked])
        return reply

    server.answering = talkative
    entry = {"benchmark": {"name": "stdlib-infilling", "options": {"problems": 3, "fixed_lengths": [4]}}}
    notes = evaluate(entry=entry).result("stdlib-infilling")["notes"]
    said = "1 of 3 answers have more tokens than were asked for, as the server counts them: up to 7 in"
    assert f"{said} place of 4" in notes


TURNS = """
task: turns
dataset_path: json
dataset_kwargs: {data_files: {test: docs.jsonl, train: docs.jsonl}}
test_split: test
fewshot_split: train
num_fewshot: 1
description: "Be brief."
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["."]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def test_a_tasks_own_turns_are_messages(
    server: FakeServer, evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Description and examples of lm-eval's tasks; one that begins the answer cannot be asked."""
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(3)]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "turns.yaml").write_text(TURNS)
    (tmp_path / "begun.yaml").write_text(
        TURNS.replace("task: turns", "task: begun") + 'gen_prefix: "It is"\n'
    )
    server.answering = lambda asked, before: completion(asked, "1. Or so", "stop")
    entry = {"benchmark": {"name": "lm-eval", "options": {"task": "turns", "folder": str(tmp_path)}}}
    found = evaluate(entry=entry, generate={"chat": True})
    assert {asked.path for asked in server.asked} == {"/v1/chat/completions"}
    roles = {tuple(turn["role"] for turn in asked.body["messages"]) for asked in server.asked}
    assert roles == {("system", "user", "assistant", "user")}
    assert {asked.body["messages"][-1]["content"] for asked in server.asked} == {
        f"{n} + 1?" for n in range(3)
    }
    assert found.result("lm-eval")["metrics"]["exact_match"]["value"] == pytest.approx(1 / 3)
    begun = {"benchmark": {"name": "lm-eval", "options": {"task": "begun", "folder": str(tmp_path)}}}
    with pytest.raises(UserError, match="begins the model's answer, which chat completions have no form for"):
        evaluate(entry=begun, folder="begun", generate={"chat": True})


LIKELIHOODS = TURNS.replace("generate_until", "loglikelihood").replace(
    "exact_match, aggregation: mean", "acc"
)


def test_likelihoods_are_refused_before_anything_is_asked(
    server: FakeServer, evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the manifest's checks where the benchmark asks nothing else, and by its requests otherwise."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    (tmp_path / "turns.yaml").write_text(LIKELIHOODS)
    with pytest.raises(
        UserError, match="'perplexity' asks for likelihoods, which a server's API doesn't give"
    ):
        evaluate(entry={"benchmark": {"name": "perplexity"}})
    entry = {"benchmark": {"name": "lm-eval", "options": {"task": "turns", "folder": str(tmp_path)}}}
    with pytest.raises(UserError, match="turns/0 asks for a likelihood, which a server's API doesn't give"):
        evaluate(entry=entry)
    assert server.all == []


@pytest.mark.parametrize(
    ("change", "entry", "named"),
    [
        ({}, {"options": {"lengths": ["oracle"]}}, "asks at the reference's own length only"),
        ({"model": {"api": "chat"}}, {}, "is to be filled in, and chat completions have no suffix"),
        ({"generate": {"steps": 8}}, {}, "generate.steps: OpenAI's API has no steps: leave it out"),
        ({"generate": {"top_k": 5}}, {}, "give the server's own name for it in model.extra_body"),
        ({"generate": {"sampler": {"name": "p2"}}}, {}, "generate.sampler: the server decodes as it likes"),
        (
            {"train": {"objective": {"name": "mdlm"}, "steps": 1}},
            {},
            "train: a server's model is not trained",
        ),
        ({"model": {"extra_body": {"seed": 1}}}, {}, "extra_body: seed is said by seed"),
        ({"model": {"extra_body": {"x": math.inf}}}, {}, "extra_body"),
        ({"model": {"backbone": {"name": "llada"}}}, {}, "has no `backbone` beside an `endpoint`"),
        ({"model": {"timeout": 0}}, {}, "model.timeout: Input should be greater than 0"),
        ({"model": {"retries": {"after": ["conection"]}}}, {}, "'conection' is none of connection, timeout,"),
        (
            {"model": {"retries": {"after": [200]}}},
            {},
            "200 is none of connection, timeout, malformed, nor a",
        ),
    ],
)
def test_what_a_server_cannot_be_asked_is_refused_by_name(
    server: FakeServer, evaluate: Evaluate, change: dict[str, Any], entry: dict[str, Any], named: str
) -> None:
    options = {**INFILLING["benchmark"]["options"], **entry.get("options", {})}
    asked = {"benchmark": {**INFILLING["benchmark"], "options": options}}
    with pytest.raises(UserError) as caught:
        evaluate(entry=asked, **change)
    assert named in str(caught.value)
    assert server.asked == []


def test_half_a_surrogate_pair_in_a_prompt_is_that_problems_failure(
    server: FakeServer, evaluate: Evaluate, tmp_path: Path
) -> None:
    lines = (PROBLEMS / "humaneval.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    row["prompt"] += "# \ud83d"
    (tmp_path / "odd.jsonl").write_text("\n".join([json.dumps(row), *lines[1:]]))
    found = evaluate(
        entry={"benchmark": {"name": "humaneval", "options": {"problems": str(tmp_path / "odd.jsonl")}}}
    )
    failures = {task: failure for task, *_, failure in found.texts() if failure}
    assert failures == {"HumanEval/0": "the prompt holds half of a surrogate pair, which is no character"}
    assert len(server.asked) == 3

"""Benchmarks that run generated code, on small problems of our own in the published formats."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.evaluation.answering import cut
from opendllm.registries.benchmarks import (
    Benchmark,
    BenchmarkContext,
    CodeExecution,
    GeneratedText,
    GenerationRequest,
    Scores,
)
from opendllm.registries.corpora import Message
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

PROBLEMS = Path(__file__).parent / "problems"
NAMES = ("humaneval", "humaneval-plus", "mbpp", "mbpp-sanitized", "mbpp-plus", "humaneval-infilling")
CONTEXT = BenchmarkContext(None, 0, 4096, lambda: iter(()), CodeExecution())


def asked(name: str, context: BenchmarkContext = CONTEXT, **options: Any) -> tuple[Benchmark, list[Any]]:
    chosen = {"problems": str(PROBLEMS / f"{name}.jsonl"), **options}
    benchmark = installed_plugins().benchmarks.get(name).build(chosen)
    return benchmark, list(benchmark.requests(context))


def one_a_task(requests: Sequence[GenerationRequest]) -> list[GenerationRequest]:
    return list({request.task_id: request for request in requests}.values())


def score(
    name: str, text_of: Callable[[GenerationRequest], str], form: Any = "completion", **options: Any
) -> Scores:
    benchmark, requests = asked(name, **options)
    return benchmark.score(
        [GeneratedText(r.task_id, "default", 0, text_of(r), form=form) for r in one_a_task(requests)]
    )


def passed(scores: Scores) -> list[bool]:
    return [bool(values["passed"]) for values in scores.per_task.values()]


def reference(request: GenerationRequest) -> str:
    assert request.reference is not None
    return request.reference


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "open-dllm" / "judges"


@pytest.mark.parametrize("name", NAMES)
def test_the_published_solutions_pass_however_they_are_given(name: str) -> None:
    assert all(passed(score(name, reference)))
    assert score(name, reference).metrics["pass@1"].value == 1
    assert all(passed(score(name, lambda r: r.gap.prefix + reference(r) + (r.gap.suffix or ""), "solution")))
    assert all(passed(score(name, reference, "written")))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "humaneval-infilling"])
@pytest.mark.parametrize(
    "text", ["", "    pass\n", "    return True\n", "x = 1\n", "\0", "\ud800", "def f(:"]
)
def test_nothing_and_nonsense_pass_nowhere(name: str, text: str) -> None:
    assert not any(passed(score(name, lambda r: text)))
    assert not any(passed(score(name, lambda r: text, "solution")))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "humaneval-infilling"])
def test_a_neighbours_solution_passes_nowhere(name: str) -> None:
    _, requests = asked(name)
    gold = [reference(request) for request in requests]
    neighbours = dict(zip((r.task_id for r in requests), gold[1:] + gold[:1], strict=True))
    assert not any(passed(score(name, lambda r: neighbours[r.task_id])))


def test_an_empty_line_passes_where_the_line_was_not_needed() -> None:
    found = score("humaneval-infilling", lambda r: "")
    assert [task for task, values in found.per_task.items() if values["passed"]] == [
        "SingleLineInfilling/HumanEval/3/L9"
    ]
    assert found.metrics["empty"].value == 1


@pytest.mark.parametrize(
    ("name", "field", "at_asking"),
    [
        ("mbpp", "test_list", True),
        ("humaneval-infilling", "prompt", False),
        ("humaneval", "test", False),
        ("humaneval-plus", "canonical_solution", False),
    ],
)
def test_a_problem_that_is_not_as_published_fails_alone(
    tmp_path: Path, name: str, field: str, at_asking: bool
) -> None:
    rows = [json.loads(line) for line in (PROBLEMS / f"{name}.jsonl").read_text().splitlines()]
    rows[1][field] = None
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    benchmark, requests = asked(name, problems=str(tmp_path / "problems.jsonl"))
    broken = list(dict.fromkeys(request.task_id for request in requests))[1]
    failures = {request.task_id for request in requests if request.failure is not None}
    assert failures == ({broken} if at_asking else set())
    scores = benchmark.score(
        [GeneratedText(r.task_id, r.setting, 0, r.reference or "", failure=r.failure) for r in requests]
    )
    for task, values in scores.per_task.items():
        assert {value for key, value in values.items() if key.startswith("pass")} == {task != broken}
    for metric in (metric for name, metric in scores.metrics.items() if name.startswith("pass@1")):
        assert metric.value == pytest.approx(1 - 1 / len(scores.per_task))


def test_a_parser_that_gives_up_on_a_text_fails_that_sample_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from opendllm.plugins.benchmarks import evalplus

    def give_up(text: str, entry_point: str) -> str:
        if "deep" in text:
            raise RecursionError("too deep")
        return text

    monkeypatch.setattr(evalplus, "sanitize", give_up)
    _, requests = asked("humaneval-plus")
    first = requests[0].task_id
    scores = score("humaneval-plus", lambda r: "deep" if r.task_id == first else reference(r), "written")
    assert [task for task, values in scores.per_task.items() if not values["passed"]] == [first]
    assert any("1 no program" in note for note in scores.notes)


@pytest.mark.parametrize("name", NAMES)
def test_without_leave_nothing_is_run(name: str) -> None:
    benchmark, requests = asked(name, BenchmarkContext(None, 0, 4096, lambda: iter(()), None))
    assert benchmark.executes_code
    with pytest.raises(UserError, match=r"runs generated code: allow it with `allow_code_execution: true`"):
        benchmark.score([GeneratedText(r.task_id, r.setting, 0, reference(r)) for r in requests])


def test_the_sandbox_in_force_and_why_programs_failed_are_in_the_notes() -> None:
    notes = score("humaneval", lambda r: "    return 1 / 0\n").notes
    assert any(note.startswith("programs ran in a sandbox: ") for note in notes)
    assert "failed: 3 ZeroDivisionError, 1 AssertionError" in notes or "failed: 4 ZeroDivisionError" in notes


def test_samples_of_a_task_give_pass_at_k() -> None:
    benchmark, requests = asked("humaneval")
    answers = [
        GeneratedText(r.task_id, "default", n, reference(r) if n < 3 else "", form="completion")
        for r in requests
        for n in range(10)
    ]
    metrics = benchmark.score(answers).metrics
    assert metrics["pass@1"].value == pytest.approx(0.3)
    assert metrics["pass@10"].value == 1
    assert "pass@100" not in metrics


def test_any_k_may_be_asked_for() -> None:
    for name, prefix in (("humaneval", ""), ("mbpp-plus", "base_"), ("humaneval-infilling", "")):
        benchmark, requests = asked(name, pass_at=(2, 5, 7))
        answers = [
            GeneratedText(r.task_id, "default", n, reference(r) if n == 0 else "(", form="completion")
            for r in one_a_task(requests)
            for n in range(5)
        ]
        scores = benchmark.score(answers)
        found = {k: m.value for k, m in scores.metrics.items() if k.startswith(f"{prefix}pass@")}
        assert found == {f"{prefix}pass@2": pytest.approx(0.4), f"{prefix}pass@5": 1}
        assert f"{prefix}pass@2" in benchmark.headline
    with pytest.raises(ValueError, match="pass_at"):
        asked("humaneval", pass_at=(0,))


def test_each_answer_has_a_verdict_of_its_own_with_the_reason() -> None:
    benchmark, requests = asked("humaneval")
    task = one_a_task(requests)[0]
    texts = {0: reference(task), 1: "    return )", 2: "    raise ValueError('no')\n"}
    scores = benchmark.score(
        [GeneratedText(task.task_id, "default", n, text, form="completion") for n, text in texts.items()]
    )
    verdicts = [scores.verdicts[task.task_id, "default", n] for n in texts]
    assert verdicts[0] == "passed"
    assert "SyntaxError" in verdicts[1]
    assert "ValueError" in verdicts[2]


def test_an_answer_that_failed_is_wrong_even_where_an_empty_one_is_right() -> None:
    failure = "the prompt is too long"
    for name in NAMES:
        benchmark, requests = asked(name)
        answers = [
            GeneratedText(r.task_id, "default", 0, reference(r), failure=failure)
            for r in one_a_task(requests)
        ]
        scores = benchmark.score(answers)
        assert not any(passed(scores))
        assert scores.metrics["pass@1"].value == 0
        assert "empty" not in scores.metrics
        assert any("not asked" in note for note in scores.notes)


def test_the_scoring_tells_how_far_it_is() -> None:
    told: list[tuple[int, int, float]] = []
    context = replace(CONTEXT, code_execution=CodeExecution(on_progress=lambda *now: told.append(now)))
    benchmark, requests = asked("humaneval", context)
    right = {request.task_id for request in requests[:2]}
    answers = [
        GeneratedText(r.task_id, "default", 0, reference(r) if r.task_id in right else "", form="completion")
        for r in requests
    ]
    benchmark.score(answers)
    assert told == [(1, 4, 1.0), (2, 4, 1.0), (3, 4, pytest.approx(2 / 3)), (4, 4, 0.5)]


def test_a_broken_problem_is_named_and_the_others_are_scored(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (PROBLEMS / "humaneval.jsonl").read_text().splitlines()]
    gold = {row["task_id"]: row["canonical_solution"] for row in rows}
    rows[1]["canonical_solution"] = "    return (\n"
    (tmp_path / "broken.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scores = score("humaneval", lambda r: gold[r.task_id], problems=str(tmp_path / "broken.jsonl"))
    assert passed(scores) == [True, False, True, True]
    said = "HumanEval/1 can't be scored here, its own solution or tests fail"
    assert any(said in note for note in scores.notes)


def test_helpers_of_the_prompt_are_the_benchmarks_own() -> None:
    """A program that breaks the prompt's helper can't make a wrong answer right with it."""
    program = "def rotate_left(text): return text\ndef rotate_right(text): return text\n"
    assert score("humaneval", lambda r: program, "solution").per_task["HumanEval/1"]["passed"] is False


def test_base_and_plus_are_told_apart() -> None:
    solutions = {
        "HumanEval/0": "def double_all(n): return [2 * x for x in n if x != 0.5]",
        "HumanEval/1": "def mean(n): return sum(n) / len(n) + 1e-9",  # within the tolerance for floats
        "HumanEval/2": "def find_zero(c): return -c[0] / c[1] + 1e-6",  # within the problem's own
        "HumanEval/3": "def last_word(t): return t.split()[-1]",
    }
    scores = score("humaneval-plus", lambda r: solutions[r.task_id], "solution")
    assert passed(scores) == [False, True, True, False]
    assert scores.metrics["pass@1"].value == 0.5
    assert scores.metrics["base_pass@1"].value == 1


@pytest.mark.parametrize(
    ("task", "program", "right"),
    [
        ("HumanEval/1", "def mean(n): return sum(n) / len(n) * (1 + 1e-5)", False),
        ("HumanEval/1", "import numpy\ndef mean(n): return numpy.float64(sum(n) / len(n))", True),
        ("HumanEval/1", "import numpy\ndef mean(n): return numpy.float64(sum(n) / len(n) + 1e-9)", False),
        ("HumanEval/2", "def find_zero(c): c.clear(); return 0", False),
        ("HumanEval/2", "def find_zero(c): return 'x'", False),
        ("HumanEval/3", "def last_word(t): return (t.split() or ('',))[-1]", True),
        ("Mbpp/2", "def similar_elements(a, b): return sorted(set(a) & set(b), reverse=True) * 2", True),
        ("Mbpp/2", "def similar_elements(a, b): return set()", False),
        ("Mbpp/737", "def check_str(t): return t[:1] in tuple('aeiou')", True),
        ("Mbpp/737", "def check_str(t): return object() if t[:1] in tuple('aeiou') else None", True),
        ("Mbpp/737", "def check_str(t): return object()", False),
        ("Mbpp/21", "def count_words(w): return {x: w.count(x) for x in w}", True),
        ("Mbpp/21", "class D(dict):\n  def __eq__(s, o): return True\ndef count_words(w): return D()", False),
    ],
)
def test_outputs_are_compared_as_evalplus_compares_them(task: str, program: str, right: bool) -> None:
    name = "humaneval-plus" if task.startswith("H") else "mbpp-plus"
    assert score(name, lambda r: program, "solution").per_task[task]["passed"] is right


def test_prompts_and_stop_strings_of_both_protocols() -> None:
    _, ours = asked("humaneval-plus")
    function = "import math\n\n\ndef find_zero(coefficients: list) -> float:\n"
    assert ours[2].gap.prefix == function + '    """A zero of a line a + b x."""\n'
    assert {"\nif __name__", "\ndef ", "\nassert "} <= set(ours[0].stop)
    _, plus = asked("mbpp-plus")
    assert plus[0].gap.prefix.startswith('"""\nWrite a function')
    assert plus[0].gap.prefix.endswith('"""\n')
    assert '\n"""' in plus[0].stop
    _, fenced = asked("mbpp", protocol="open-dllm")
    assert fenced[0].gap.prefix == (
        "Write a function to add three numbers. Your code should pass these tests:\n\n"
        "assert add_three(1, 2, 3) == 6\nassert add_three(0, 0, 0) == 0\nassert add_three(-1, 1, 5) == 5\n"
        "```python\n"
    )
    assert fenced[0].stop == ("\nclass", "\n#", "\nif", "\nprint")
    _, of_plus = asked("mbpp-plus", protocol="open-dllm")
    assert of_plus[3].gap.prefix == (
        "Write a function to count the words of a list. Your code should pass these tests:\n\n"
        'assert count_words(["a", "a"]) == {"a": 2}\nassert count_words([]) == {}\n'
        'assert count_words(["b"]) == {"b": 1}\n```python\n'
    )


def test_what_was_written_is_cleaned_up_as_its_protocol_has_it() -> None:
    tail = "\n\nHere is how it works: very well.\n"
    for name, protocol in (
        ("humaneval-plus", "evalplus"),
        ("humaneval", "open-dllm"),
        ("mbpp-plus", "evalplus"),
    ):
        assert all(passed(score(name, lambda r: reference(r) + tail, "written", protocol=protocol)))
        assert not any(passed(score(name, lambda r: reference(r) + tail, "completion", protocol=protocol)))
    fenced = "```python\n{}\n```"
    for name in ("mbpp", "mbpp-plus"):
        scores = score(name, lambda r: fenced.format(reference(r)), "written", protocol="open-dllm")
        assert all(passed(scores))


INSTRUCTED = ("humaneval", "humaneval-plus", "mbpp", "mbpp-sanitized", "mbpp-plus")


def turns(messages: Sequence[Message], prefilled: bool = False) -> str:
    """A chat template, one that can begin an answer."""
    return "".join(f"<{m.role}>{m.content}" for m in messages) + ("" if prefilled else "<assistant>")


def trimmed_turns(messages: Sequence[Message], prefilled: bool = False) -> str:
    """One that trims, as LLaMA 3's and LLaDA's do."""
    return turns([replace(message, content=message.content.strip()) for message in messages], prefilled)


def turns_alone(messages: Sequence[Message], prefilled: bool = False) -> str:
    """One that can't, as a server's."""
    if prefilled:
        raise UserError("begins the model's answer")
    return turns(messages)


def whole_program(request: GenerationRequest) -> str:
    """The published solution, with the function's head where the reference is its body."""
    head = request.gap.prefix if request.task_id.startswith("HumanEval") else ""
    return head + reference(request)


def answered(
    requests: Sequence[GenerationRequest], texts_of: Callable[[GenerationRequest], Sequence[str]]
) -> list[GeneratedText]:
    """Several samples of each task, cut at its stop strings."""
    return [
        GeneratedText(request.task_id, "default", number, cut(text, request.stop))
        for request in one_a_task(requests)
        for number, text in enumerate(texts_of(request))
    ]


@pytest.mark.parametrize("name", INSTRUCTED)
def test_an_answer_that_goes_on_with_begun_code_is_its_program(name: str) -> None:
    """As instruct models answer: with the fence closed, and words and further fences behind it."""
    programs = {request.task_id: whole_program(request) for request in asked(name)[1]}
    benchmark, requests = asked(name, replace(CONTEXT, chat=turns), protocol="instruct")
    assert all(request.gap.templated for request in requests)
    tails = (
        "",
        "\n",
        "```\nThis adds them.",
        "\n```",
        "\n```\nIt adds `a` to b.\n\n```python\nadd(1, 2)\n```\n",
    )

    def texts(request: GenerationRequest) -> list[str]:
        body = reference(request) if name == "humaneval" else programs[request.task_id]
        return [body + tail for tail in tails]

    assert benchmark.score(answered(requests, texts)).metrics["pass@1"].value == 1


@pytest.mark.parametrize("name", INSTRUCTED)
def test_an_answer_begins_the_same_where_a_template_trims(name: str) -> None:
    ends = [
        [
            request.gap.prefix[-20:]
            for request in asked(name, replace(CONTEXT, chat=chat), protocol="instruct")[1]
        ]
        for chat in (turns, trimmed_turns)
    ]
    assert [end.split("```")[-1] for end in ends[0]] == [end.split("```")[-1] for end in ends[1]]
    assert all(end.endswith("\n") for end in ends[1])


@pytest.mark.parametrize("name", INSTRUCTED)
def test_an_answer_in_fences_is_its_program(name: str) -> None:
    programs = {request.task_id: whole_program(request) for request in asked(name)[1]}
    neighbours = dict(zip(programs, [*programs.values()][1:] + [*programs.values()][:1], strict=True))
    benchmark, requests = asked(name, replace(CONTEXT, chat=turns_alone), protocol="instruct")
    forms = ("```python\n{}\n```", "Sure! Here it is:\n\n```\n{}\n```\n\nIt is short.\n")
    right = answered(requests, lambda r: [form.format(programs[r.task_id]) for form in forms])
    assert benchmark.score(right).metrics["pass@1"].value == 1
    wrong = answered(
        requests,
        lambda r: [
            *(form.format(other) for form in forms for other in (neighbours[r.task_id], "pass")),
            "I can't help with that.",
        ],
    )
    assert benchmark.score(wrong).metrics["pass@1"].value == 0, "the control"


def test_what_an_instruct_model_is_asked() -> None:
    """lm-eval's humaneval_instruct and mbpp_instruct; EvalPlus's chat prompts."""
    context = replace(CONTEXT, chat=turns)
    function = asked("humaneval")[1][0].gap.prefix
    [of_humaneval, *_] = asked("humaneval", context, protocol="instruct")[1]
    assert of_humaneval.gap.prefix == (
        "<user>Write a solution to the following problem and make sure that it passes the tests:\n"
        f"```python\n{function}\n```\n<assistant>Here is the completed function:\n```python\n{function}\n"
    )
    assert of_humaneval.stop == ("```",)
    plain = asked("humaneval", protocol="instruct")[1][0].gap
    assert not plain.templated
    assert f"<user>{plain.prefix}".replace("\n```\nHere", "\n```\n<assistant>Here") == of_humaneval.gap.prefix
    [of_mbpp, *_] = asked("mbpp", context, protocol="instruct")[1]
    assert of_mbpp.gap.prefix == (
        "<user>You are an expert Python programmer, and here is your task:\nWrite a function to add three "
        "numbers.\nYour code should pass these tests:\nassert add_three(1, 2, 3) == 6\n"
        "assert add_three(0, 0, 0) == 0\nassert add_three(-1, 1, 5) == 5<assistant>\n```python\n"
    )
    [of_plus, *_] = asked("humaneval-plus", context, protocol="instruct")[1]
    problem = asked("humaneval-plus")[1][0].gap.prefix.strip()
    assert of_plus.gap.prefix == (
        "<user>Please provide a self-contained Python script that solves the following problem in a markdown "
        f"code block:\n```\n{problem}\n```\n<assistant>Below is a Python script with a self-contained "
        "function that solves the problem and passes corresponding tests:\n```python\n"
    )
    assert "\n```\n" in of_plus.stop
    assert "\ndef " not in of_plus.stop
    alone = asked("humaneval-plus", replace(CONTEXT, chat=turns_alone), protocol="instruct")[1][0]
    assert alone.gap.prefix.endswith("\n```\n<assistant>")
    assert "\n```\n" not in alone.stop


@pytest.mark.parametrize("name", ["humaneval", "humaneval-plus", "mbpp"])
def test_a_chat_that_begins_no_answer_is_noted(name: str) -> None:
    for chat, is_noted in ((turns, False), (turns_alone, True)):
        benchmark, requests = asked(name, replace(CONTEXT, chat=chat), protocol="instruct")
        notes = benchmark.score(answered(requests[:1], lambda _: ["pass"])).notes
        assert any("no answer be begun" in note for note in notes) is is_noted
    benchmark, requests = asked(name, protocol="instruct")
    notes = benchmark.score(answered(requests[:1], lambda _: ["pass"])).notes
    assert any(note.endswith("; asked without a chat template") for note in notes)


def test_infilling_is_asked_at_every_length_and_averaged() -> None:
    benchmark, requests = asked("humaneval-infilling", lengths=("oracle", 4, 8))
    assert [r.setting for r in requests[:3]] == ["oracle", "length-4", "length-8"]
    answers = [
        GeneratedText(r.task_id, r.setting, 0, reference(r) if r.setting != "length-8" else "    (\n")
        for r in requests
    ]
    metrics = benchmark.score(answers).metrics
    values = {name: metrics[name].value for name in metrics if name.startswith("pass@1")}
    assert values == {
        "pass@1_oracle": 1,
        "pass@1_length-4": 1,
        "pass@1_length-8": 0,
        "pass@1_averaged-4-8": 0.5,
    }
    assert [name for name in benchmark.headline if name in metrics] == [
        "pass@1_oracle",
        "pass@1_averaged-4-8",
    ]


def test_the_test_split_and_spellings_of_task_ids() -> None:
    benchmark, requests = asked("mbpp")
    assert [r.task_id for r in requests] == ["Mbpp/11", "Mbpp/12", "Mbpp/13", "Mbpp/14"]
    assert benchmark.task_of("12") == benchmark.task_of("Mbpp/12") == "Mbpp/12"
    assert len(asked("mbpp", tasks="all")[1]) == 5
    assert asked("humaneval")[0].task_of("3") == "HumanEval/3"


def test_a_slow_program_fails_and_the_limit_is_an_option() -> None:
    slow = "import time\ndef add_three(a, b, c):\n  time.sleep(0.4)\n  return a + b + c"
    assert score("mbpp", lambda r: slow, timeout=0.3).per_task["Mbpp/11"]["passed"] is False
    assert score("mbpp", lambda r: slow, timeout=30).per_task["Mbpp/11"]["passed"] is True


def test_expected_outputs_are_kept_and_damaged_ones_computed_again(cache: Path) -> None:
    """Kept for exactly this problem; what is kept is what programs are compared with."""
    for name in ("humaneval-plus", "mbpp-plus"):
        assert all(passed(score(name, reference)))
    assert len(list(cache.iterdir())) == 8
    assert all(passed(score("mbpp-plus", reference)))
    for file in cache.iterdir():
        file.write_text(file.read_text().replace("1", "4"))
    assert not all(passed(score("mbpp-plus", reference)))
    assert all(passed(score("mbpp-plus", reference, gt_time_limit_factor=5)))  # other data, other files
    for text in ("{", "[]", '{"base": {"h": 1}}', ""):
        for file in cache.iterdir():
            file.write_text(text)
        assert all(passed(score("mbpp-plus", reference)))


def test_a_failure_in_the_base_tests_leaves_nothing_half_kept(cache: Path) -> None:
    assert not any(passed(score("humaneval-plus", lambda r: "    return None\n")))
    assert not cache.exists() or not list(cache.iterdir())

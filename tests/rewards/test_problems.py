"""Problems from files and benchmarks; those that a model is tested with are kept out."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.rewards import tested_problems
from opendllm.core.rewards.problem_sources import benchmark_problems, read_problem_file
from opendllm.core.rewards.tested_problems import (
    PUBLISHED,
    prompt_digest,
    published_digests,
    refuse_test_problems,
    telling_lines,
    telling_sentences,
)
from opendllm.core.toolkit.synthetic_functions import synthetic_functions
from opendllm.registries.benchmarks import (
    Benchmark,
    BenchmarkContext,
    CodeExecution,
    GeneratedText,
    GenerationRequest,
    LikelihoodRequest,
    Request,
)
from opendllm.registries.corpora import Message
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.rewards import RewardContext

from . import published_problems

FOLDER = os.environ.get("OPENDLLM_BENCHMARKS")


def context(limit: int | None = None) -> BenchmarkContext:
    return BenchmarkContext(limit, 0, 128, lambda: iter(()), CodeExecution())


def built(name: str, **options: Any) -> Benchmark:
    return installed_plugins().benchmarks.get(name).build(options)


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: object) -> Path:
        path = tmp_path / "problems.jsonl"
        path.write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in lines))
        return path

    return write


def test_a_file_holds_prompts_and_chats(file: Callable[..., Path]) -> None:
    chat = [{"role": "user", "content": "Write f."}]
    path = file(
        {"task_id": "a", "prompt": "def f(x):\n", "suffix": "\n", "max_new_tokens": 8, "answer": "    pass"},
        {"task_id": 2, "messages": chat, "tests": ["assert f(1)"], "setup": "import math"},
    )
    wanted = [
        Problem("a", Gap("def f(x):\n", "\n", 8), answer="    pass"),
        Problem("2", Gap(""), (Message("user", "Write f."),), tests=("assert f(1)",), setup="import math"),
    ]
    assert read_problem_file(path) == wanted
    packed = path.with_suffix(".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_problem_file(packed) == wanted


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([{"task_id": "a"}], r":1 give a `prompt` or `messages`, one of them"),
        (
            [{"task_id": "a", "prompt": "x", "messages": [{"role": "user", "content": ""}]}],
            r":1 give a `prompt`",
        ),
        ([{"task_id": "a", "messages": [{"role": "user"}]}], r":1 messages\.0\.content: is missing"),
        ([{"task_id": "a", "messages": "x"}], r":1 messages: should be a list"),
        ([{"prompt": "x"}], r":1 task_id: is missing"),
        ([{"task_id": "a", "prompt": "x", "test": []}], r":1 test: unknown key; did you mean 'tests'"),
        ([{"task_id": "a", "prompt": "x", "tests": "assert f"}], r":1 tests: should be a list"),
        ([{"task_id": "a", "prompt": "x", "answer": 7}], r":1 answer: .* valid string \(given: 7\)"),
        ([{"task_id": "a", "prompt": "x"}, {"task_id": "a", "prompt": "y"}], r":2 has task_id 'a', which an"),
        ([{"task_id": "a", "prompt": "x"}, "{"], r":2 is not JSON"),
        ([{"task_id": "a", "prompt": "x", "max_new_tokens": 10**20}], r":1 max_new_tokens: .*1048576"),
        ([], r" holds no problems"),
    ],
)
def test_a_line_that_is_no_problem_is_named(
    file: Callable[..., Path], lines: list[object], says: str
) -> None:
    with pytest.raises(UserError, match=f"problems.jsonl{says}") as caught:
        read_problem_file(file(*lines))
    assert "\n" not in str(caught.value)


def test_a_benchmarks_references_are_answers() -> None:
    """By default: each task once, whatever the lengths it is asked at."""
    benchmark = built("stdlib-infilling", problems=3)
    found = benchmark_problems(benchmark, context())
    asked: dict[str, GenerationRequest] = {}
    for each in benchmark.requests(context()):
        assert isinstance(each, GenerationRequest)
        asked.setdefault(each.task_id, each)
    assert len(found) == 3
    assert all(problem.gap == asked[problem.task_id].gap for problem in found)
    assert all(problem.answer == asked[problem.task_id].reference for problem in found)


def test_published_test_problems_are_no_training_problems(repository: Path) -> None:
    file = repository / "tests" / "benchmarks" / "problems" / "humaneval.jsonl"
    with pytest.raises(UserError, match=r"benchmarks/humaneval .* has no problems to train on"):
        benchmark_problems(built("humaneval", problems=str(file)), context())


def test_mbpp_has_tasks_to_train_on(tmp_path: Path) -> None:
    """Outside its test split, each assert a test with what it needs."""
    rows = [
        {
            "task_id": number,
            "text": "Add.",
            "code": "def add(a, b):\n    return a + b",
            "test_setup_code": "three = add(1, 2)",
            "test_list": ["assert add(three, 1) == 4", "assert add(1, 1) == 2"],
        }
        for number in (10, 11, 510, 511)
    ]
    file = tmp_path / "mbpp.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    found = benchmark_problems(built("mbpp", problems=str(file)), context())
    assert [each.task_id for each in found] == ["Mbpp/10", "Mbpp/511"]
    reward = installed_plugins().rewards.get("code").build({"program": "text"})
    texts = [str(found[0].answer), "def add(a, b):\n    return 4"]
    completions = [Completion(found[0], sample, text) for sample, text in enumerate(texts)]
    assert list(reward.values(completions, RewardContext(CodeExecution()))) == [1, 0.5]


def test_a_benchmark_that_repeats_an_id_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Problems are told apart by them."""
    benchmark = built("synthetic-functions", problems=4)
    twice = [Problem("t", Gap("a")), Problem("t", Gap("b"))]
    monkeypatch.setattr(type(benchmark), "training_problems", lambda *_: twice)
    with pytest.raises(UserError, match="has several problems with task_id 't'"):
        benchmark_problems(benchmark, context())


def test_made_up_functions_are_right_and_no_two_splits_share_one() -> None:
    train, held_out = (list(synthetic_functions(split)) for split in ("train", "held-out"))
    assert len(train) > 2 * len(held_out) > 2000
    assert not {each.prompt for each in train} & {each.prompt for each in held_out}
    assert len({each.name for each in train + held_out}) == len(train + held_out)
    few = list(synthetic_functions("train", 1))
    assert few == train[: len(few)]
    assert {each.steps for each in few} == {1}
    for each in [*train[:: len(train) // 60], *held_out[:: len(held_out) // 20]]:
        names: dict[str, Any] = {}
        exec(each.prompt + each.solution + "\n".join(each.tests), names)
        assert names[each.name].__doc__ == each.words


def test_made_up_functions_are_asked_and_learnt_from() -> None:
    benchmark = built("synthetic-functions", problems=4)
    asked = [each for each in benchmark.requests(context()) if isinstance(each, GenerationRequest)]
    problems = benchmark_problems(benchmark, context(50))
    held_out = benchmark_problems(built("synthetic-functions", training_split="held-out"), context(4))
    assert [each.task_id for each in held_out] == [each.task_id for each in asked]
    assert not {each.gap for each in problems} & {each.gap for each in asked}
    refuse_test_problems(problems, {"synthetic-functions": asked})
    with pytest.raises(
        UserError, match=r"\('.*' of functions, '.*' of functions, .* and 1 more\): leave them"
    ):
        refuse_test_problems(held_out, {"functions": asked})
    reward = installed_plugins().rewards.get("code").build({"program": "continuation"})
    some = problems[:3]
    completions = [Completion(each, 0, str(each.answer)) for each in some]
    completions += [Completion(each, 1, "    return None\n") for each in some]
    assert list(reward.values(completions, RewardContext(CodeExecution(workers=2)))) == [1, 1, 1, 0, 0, 0]
    documents = installed_plugins().corpora.get("synthetic-functions").build({}).documents("train")
    assert [each.prompt for each, _ in zip(documents, problems, strict=False)] == [
        each.gap.prefix for each in problems
    ]
    answer = GeneratedText(asked[0].task_id, "default", 0, str(asked[0].reference))
    assert benchmark.score([answer]).metrics["pass@1"].value == 1


def test_what_is_evaluated_is_not_trained_on() -> None:
    asked: list[Request] = [
        GenerationRequest("1", Gap("Add  one\n to x", "return")),
        GenerationRequest("2", Gap("How many?")),
        LikelihoodRequest("3", "is blue", context="The sky "),
        GenerationRequest("4", Gap("Answer with one word, and no more than that:")),
    ]
    evaluated = {"sums": asked}
    fine = [Problem("a", Gap("Add one to x")), Problem("b", Gap("How  much?")), Problem("c", Gap(""))]
    fine.append(Problem("d", Gap("Answer with one word, and no more than that:\nWhy?")))  # a part of it
    refuse_test_problems(fine, evaluated)
    for bad in (
        Problem("x", Gap("Add one to x", " return ")),
        Problem("x", Gap(""), (Message("system", "Be brief."), Message("user", " How many?\n"))),
        Problem("x", Gap("The sky is blue")),
    ):
        with pytest.raises(
            UserError, match=r"tested with can't be trained on \('x' of sums\): leave them out$"
        ):
            refuse_test_problems([*fine, bad], evaluated)


def test_published_problems_are_known_by_their_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, in a fence, and by a line that only they have; what is shipped has none of their text."""
    counts = {name: len(digests) for name, digests in published_digests().items()}
    assert counts.keys() == {"humaneval", "humaneval-plus", "mbpp", "mbpp-sanitized", "mbpp-plus"}
    assert min(counts.values()) > 500
    assert PUBLISHED.stat().st_size < 120_000
    prompt = 'def close(a, b):\n    """Whether two given numbers lie within one of each other.\n    """\n'
    line = "assert close([1.0, 2.0, 3.9, 4.0, 5.0], 0.3) is True"
    known = frozenset(map(prompt_digest, (prompt, line)))
    monkeypatch.setattr(tested_problems, "published_digests", lambda: {"paper": known})
    fenced = (Message("user", f"Complete this:\n```python\n{prompt}```\nThink first."),)
    shown = (Message("user", f"Write close(a, b). It should pass\n{line}\n"),)
    for problem in (
        Problem("x", Gap(prompt)),
        Problem("x", Gap(""), fenced),
        Problem("x", Gap(""), shown),
        Problem("x", Gap("y"), tests=(f"import math\n    {line}",)),
    ):
        with pytest.raises(UserError, match=r"\('x' of paper\)"):
            refuse_test_problems([problem], {})
    refuse_test_problems([Problem("x", Gap(f"{prompt}    return"))], {})


def test_white_space_and_short_lines_tell_nothing() -> None:
    assert prompt_digest("a  b\n") == prompt_digest("\ta b") != prompt_digest("ab")
    long = "    assert f([1, 2, 3, 4, 5, 6, 7, 8, 9]) == 45"
    text = f"import numpy as np, scipy as sp, pandas as pd\nreturn x\n{long}\n"
    assert list(telling_lines(text)) == [long]


@pytest.mark.skipif(FOLDER is None, reason="OPENDLLM_BENCHMARKS names no folder with the published files")
def test_the_digests_are_those_of_the_published_files() -> None:
    """No training task of MBPP is refused, and hardly a test problem passes, alone or dressed up."""
    folder = Path(str(FOLDER))
    assert published_problems.packed(folder) == PUBLISHED.read_text()
    caught: dict[str, list[bool]] = {}
    for name, problem in _published(folder):
        try:
            refuse_test_problems([problem], {})
        except UserError:
            caught.setdefault(name, []).append(True)
        else:
            caught.setdefault(name, []).append(False)
    assert not any(caught["may be trained on"])
    shares = {name: sum(each) / len(each) for name, each in caught.items()}
    assert shares["humaneval"] == shares["humaneval dressed"] == 1
    assert shares["mbpp"] > 0.98
    assert shares["mbpp asked"] > 0.98
    assert shares["humaneval commented"] > 0.8


@pytest.mark.parametrize(
    "text",
    [
        "You are an expert Python programmer, and here is your task: {0} Your code should pass these tests:",
        '"""{0}"""\n',
        "# Count the apples that fall on each\n# day of a week of wind. Then return them.",
        "def f(x):\n    '''Hello.\n\n    {0}\n\n    >>> f(1)\n    '''",
    ],
    ids=["opening", "one-line docstring", "comments", "docstring"],
)
def test_a_sentence_is_told_whatever_stands_around_it(text: str) -> None:
    sentence = "Count the apples that fall on each day of a week of wind."
    told = set(telling_sentences(text.format(sentence)))
    assert set(telling_sentences(sentence)) & told
    assert not set(telling_sentences("Write a function. Return it. x = 1\n")) & told
    assert not list(telling_sentences("Write a function. Return it. x = 1\n"))


def _published(folder: Path) -> Iterator[tuple[str, Problem]]:
    for row in published_problems.rows(folder / "HumanEval.jsonl.gz"):
        yield "humaneval", Problem(row["task_id"], Gap(row["prompt"]))
        dressed = Message("user", f"Go on:\n```python\n{row['prompt']}```\n")
        lines = "\n".join(f"# {line.strip()}" for line in row["prompt"].splitlines())
        yield "humaneval commented", Problem(row["task_id"], Gap(lines.replace(row["entry_point"], "g")))
        yield "humaneval dressed", Problem(row["task_id"], Gap(""), (dressed,))
    for row in published_problems.rows(folder / "mbpp.jsonl.gz"):
        name = "mbpp" if row["task_id"] in published_problems.MBPP_TEST else "may be trained on"
        tests = "\n".join(row["test_list"])
        if name == "mbpp":
            yield "mbpp asked", Problem("asked", Gap(f"You are an expert. Here is your task: {row['text']}"))
        yield name, Problem(str(row["task_id"]), Gap(f'"""\n{row["text"]}\n{tests}\n"""\n'))

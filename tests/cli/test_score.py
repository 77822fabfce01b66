"""`platform score`: samples made anywhere, with everything that may be wrong with them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.evaluation.samples_file import read_samples
from opendllm.registries.benchmarks import Answer, Benchmark, BenchmarkContext, GenerationRequest, Scores
from opendllm.registries.gaps import Gap

Here = Callable[..., tuple[Any, str, str]]
TASKS = 6


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "name": f"n{number}",
            "language": "py",
            "prompt": "def f(a):",
            "suffix": "    return b\n",
            "canonical_solution": f"    b = a + {number}",
        }
        for number in range(TASKS)
    ]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def gold(number: int, **fields: Any) -> str:
    return json.dumps({"task_id": f"py/n{number}", "completion": f"    b = a + {number}", **fields})


def write(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "samples.jsonl"
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


def run(here: Here, *more: str | Path, samples: str | Path = "samples.jsonl") -> tuple[Any, str, list[str]]:
    code, output, errors = here(
        *("score", "--benchmark", "santacoder-fim", "--samples", samples, "--problems", "problems.jsonl"),
        *("--progress", "none", *more),
    )
    return code, output, errors.splitlines()


def result(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_table_and_a_json_file(here: Here, folder: Path) -> None:
    write(folder, *[gold(number) for number in range(TASKS)])
    code, output, errors = run(here, "--output", "out/scores.json")
    assert (code, errors) == (0, [])
    assert "exact_match_first_line" in output
    assert "1.0000" in output
    assert f"all {TASKS} alike" in output
    assert "[1.0000, 1.0000]" not in output
    written = result(folder / "out" / "scores.json")
    assert written["benchmark"] == "santacoder-fim"
    assert written["metrics"]["exact_match"] == {"value": 1.0, "low": 1.0, "high": 1.0, "kind": "estimate"}
    assert written["per_task"]["py/n0"]["exact_match"] == 1.0
    assert written["settings"]["benchmark"]["options"] == {"problems": "problems.jsonl"}


def test_one_task_has_no_interval(here: Here, folder: Path) -> None:
    write(folder, gold(0), gold(0, completion="    b = 7"))
    _, output, _ = run(here)
    row = next(line for line in output.splitlines() if " exact_match " in line)
    assert "1 task" in row
    assert "[" not in row


def test_it_says_how_far_it_is(here: Here, folder: Path) -> None:
    write(folder, *[gold(number) for number in range(TASKS)])
    code, output, errors = run(here, "--progress", "plain")
    assert code == 0
    assert "[0:00] reading santacoder-fim" in errors
    assert "1.0000" in output
    assert all(line.startswith("[0:") for line in errors)
    code, output, errors = run(here, "--progress", "json")
    assert code == 0
    assert json.loads(errors[0])["activity"] == "reading santacoder-fim"


def test_the_scores_lie_beside_the_samples_by_default(here: Here, folder: Path) -> None:
    content = "".join(gold(number) + "\n" for number in range(TASKS))
    (folder / "mine.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    assert run(here, samples="mine.jsonl.gz")[0] == 0
    assert result(folder / "mine.scores.json")["metrics"]["exact_match"]["value"] == 1
    assert run(here, samples="mine.jsonl.gz")[0] == 0  # an earlier result gives way


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (json.dumps({"task_id": "py/n99", "completion": "x"}), "is of an unknown task, 'py/n99'"),
        ('{"task_id": "py/n5", "compl', "is not JSON ("),
        ('{"task_id": "py/n5", "completion": "a\0b"}', "is not JSON ("),
        (b'{"task_id": "py/n5", "completion": "\xff"}', "is not UTF-8"),
        ("[]", "is no JSON object"),
        (json.dumps({"completion": "x"}), "has no `task_id`"),
        ('{"task_id": "py/n5", "completion": "x", "setting": "\\ud800"}', "has a `setting` with a lone surr"),
        (gold(0, sample=0), "is a sample of py/n0 that line 1 has already"),
    ],
    ids=["unknown", "broken", "raw-null", "bytes", "list", "nameless", "setting", "double"],
)  # fmt: skip
def test_a_line_of_nobody_knows_what_is_named_and_the_rest_is_scored(
    here: Here, folder: Path, bad: str | bytes, expected: str
) -> None:
    lines: list[str | bytes] = [gold(number, sample=0) for number in range(TASKS - 1)]
    write(folder, *lines, bad)
    code, output, errors = run(here)
    assert code == 1
    assert "exact_match" in output
    assert errors[0].startswith(f"error: samples.jsonl:{TASKS} ")
    assert expected in errors[0]
    assert len(errors[0]) < 300
    assert errors[1:] == ["error: samples.jsonl has no sample that can be scored of 1 of 6 tasks: py/n5"]
    written = result(folder / "samples.scores.json")
    assert written["samples"]["scored"] == TASKS - 1
    assert written["samples"]["missing"] == ["py/n5"]
    assert [f"error: {issue}" for issue in written["samples"]["complaints"]] == errors
    assert written["metrics"]["exact_match"]["value"] == 1


BAD_SAMPLES = {
    "null": (json.dumps({"task_id": "py/n5", "completion": "a\0b"}), "with a null byte (character 1)"),
    "surrogate": ('{"task_id": "py/n5", "completion": "ab\\ud800"}', "with a lone surrogate (character 2)"),
    "long": (
        json.dumps({"task_id": "py/n5", "completion": "x" * 10_000_000}),
        "of 10,000,000 characters, more",
    ),
    "nothing": (json.dumps({"task_id": "py/n5"}), "has neither a `completion` nor a `solution`"),
    "null-text": (json.dumps({"task_id": "py/n5", "completion": None}), "has a `completion` that isn't text"),
    "number": (json.dumps({"task_id": "py/n5", "solution": 3}), "has a `solution` that isn't text"),
    "likelihood": (
        json.dumps({"task_id": "py/n5", "log_likelihood": -1.0}),
        "has neither a `completion` nor",
    ),
}


@pytest.mark.parametrize(("bad", "expected"), BAD_SAMPLES.values(), ids=list(BAD_SAMPLES))
def test_a_sample_that_cannot_be_scored_is_named_and_counts_as_failed(
    here: Here, folder: Path, bad: str, expected: str
) -> None:
    write(folder, *[gold(number) for number in range(TASKS - 1)], bad)
    code, _, errors = run(here)
    assert code == 1
    (error,) = errors
    assert error.startswith(f"error: samples.jsonl:{TASKS} ")
    assert expected in error
    assert error.endswith("; it counts as failed")
    assert len(error) < 300
    written = result(folder / "samples.scores.json")
    assert written["metrics"]["exact_match"]["value"] == pytest.approx((TASKS - 1) / TASKS)
    assert written["per_task"]["py/n5"]["exact_match"] == 0
    assert expected in written["per_task"]["py/n5"]["failure"]
    assert written["samples"]["missing"] == []
    assert written["unasked"] == {}


def test_an_empty_sample_is_scored_as_the_benchmark_scores_it(here: Here, folder: Path) -> None:
    write(
        folder,
        *[gold(number) for number in range(TASKS - 1)],
        json.dumps({"task_id": "py/n5", "completion": ""}),
    )
    assert run(here)[0::2] == (0, [])
    written = result(folder / "samples.scores.json")
    assert written["metrics"]["exact_match"]["value"] == pytest.approx((TASKS - 1) / TASKS)
    assert written["metrics"]["empty"]["value"] == pytest.approx(1 / TASKS)


def test_the_field_that_is_not_null_counts(here: Here, folder: Path) -> None:
    write(folder, *[gold(number, solution=None) for number in range(TASKS)])
    assert run(here)[0::2] == (0, [])
    assert result(folder / "samples.scores.json")["metrics"]["exact_match"]["value"] == 1


def test_fields_of_others_may_hold_anything_and_the_file_may_begin_with_a_byte_order_mark(
    here: Here, folder: Path
) -> None:
    odd = {"seconds": "much", "kept_tokens": None, "forward_passes": [1], "failure": "none", "digest": 3}
    write(folder, "\ufeff" + gold(0, **odd), *[gold(number, **odd) for number in range(1, TASKS)])
    assert run(here)[0::2] == (0, [])
    written = result(folder / "samples.scores.json")
    assert written["metrics"]["exact_match"]["value"] == 1
    assert written["unasked"] == {}


def test_a_line_that_is_there_twice_is_named(here: Here, folder: Path) -> None:
    write(folder, gold(0), *[gold(number) for number in range(TASKS)])
    code, _, errors = run(here)
    assert code == 1
    (error,) = errors
    assert error.startswith("error: samples.jsonl:2 is a sample of py/n0 that line 1 has already")
    assert error.endswith("both count")
    assert result(folder / "samples.scores.json")["samples"]["scored"] == TASKS + 1


def test_a_samples_number_counts_once(here: Here, folder: Path) -> None:
    wrong = json.dumps({"task_id": "py/n0", "completion": "no", "sample": 0})
    write(folder, *[gold(number, sample=0) for number in range(TASKS)], wrong)
    code, _, errors = run(here)
    assert (code, errors) == (1, ["error: samples.jsonl:7 is a sample of py/n0 that line 1 has already"])
    assert result(folder / "samples.scores.json")["metrics"]["exact_match"]["value"] == 1


def test_equal_samples_stay_beside_others(here: Here, folder: Path) -> None:
    """Two equal right ones and a wrong one are 2/3 of a task; without one of them it would be half."""
    wrong = [json.dumps({"task_id": f"py/n{number}", "completion": "no"}) for number in range(TASKS)]
    write(folder, *[gold(number) for number in range(TASKS)] * 2, *wrong)
    assert run(here)[0::2] == (0, [])
    assert result(folder / "samples.scores.json")["metrics"]["exact_match"]["value"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("missing", "code", "value"),
    [("named", 1, 1.0), ("failed", 1, (TASKS - 2) / TASKS), ("refused", 2, None)],
)
def test_tasks_without_a_sample_are_named_and_count_as_asked(
    here: Here, folder: Path, missing: str, code: int, value: float | None
) -> None:
    write(folder, *[gold(number) for number in range(TASKS - 2)])
    found, _, errors = run(here, "--missing", missing)
    assert found == code
    (error,) = errors
    assert "samples.jsonl has no sample" in error
    assert "2 of 6 tasks: py/n4, py/n5" in error
    if value is None:
        assert not (folder / "samples.scores.json").exists()
        assert "--missing failed" in error
        return
    written = result(folder / "samples.scores.json")
    assert written["metrics"]["exact_match"]["value"] == pytest.approx(value)
    assert written["samples"]["missing"] == ["py/n4", "py/n5"]
    if missing == "failed":
        assert written["per_task"]["py/n5"] == {
            "exact_match": 0, "exact_match_first_line": 0, "failure": "has no sample"
        }  # fmt: skip


def whole(number: int) -> str:
    return f"def f(a):    b = a + {number}    return b\n"


def test_a_folder_of_programs_is_read_as_evalplus_writes_it(here: Here, folder: Path) -> None:
    for number in range(TASKS):
        (folder / "mine" / f"py_n{number}").mkdir(parents=True)
        for sample in range(12):
            text = whole(number) if sample in (2, 10) else "no"
            (folder / "mine" / f"py_n{number}" / f"{sample}.py").write_text(text)
    (folder / "mine" / "py_n3" / "2.py").write_bytes(b"\xff")
    (folder / "mine" / "py_n9").mkdir()
    (folder / "mine" / "py_n9" / "0.py").write_text("x")
    code, _, errors = run(here, samples="mine")
    assert code == 1
    assert errors == [
        "error: mine/py_n3/2.py has a `solution` with a lone surrogate (character 0); it counts as failed",
        "error: mine/py_n9/0.py is of an unknown task, 'py/n9'",
    ]
    written = result(folder / "mine.scores.json")
    assert written["per_task"]["py/n0"]["exact_match"] == pytest.approx(2 / 12)
    assert written["per_task"]["py/n3"]["exact_match"] == pytest.approx(1 / 12)
    assert written["samples"]["scored"] == 12 * TASKS


def test_a_list_of_lists_is_read_as_bigcode_writes_it(here: Here, folder: Path) -> None:
    programs = [[whole(number), "no", "no", whole(number)] for number in range(TASKS)]
    (folder / "generations.json").write_text(json.dumps(programs, indent=1))
    assert run(here, samples="generations.json")[0::2] == (0, [])
    written = result(folder / "generations.scores.json")
    assert written["metrics"]["exact_match"]["value"] == 0.5
    (folder / "generations.json").write_text(json.dumps([*programs[:2], [None], *programs[3:], ["x"]]))
    code, _, errors = run(here, samples="generations.json")
    assert code == 1
    assert errors == [
        "error: generations.json: list 2, sample 0 has a `solution` that isn't text; it counts as failed",
        "error: generations.json: list 6, sample 0 is one too many: there are 6 problems",
    ]
    assert result(folder / "generations.scores.json")["per_task"]["py/n2"]["exact_match"] == 0


def test_a_folder_of_something_else_is_one_line(here: Here, folder: Path) -> None:
    (folder / "mine").mkdir()
    code, _, errors = run(here, samples="mine")
    assert (code, len(errors)) == (2, 1)
    assert "mine has no .py files in folders named after tasks" in errors[0]


def test_equal_samples_are_nothing_odd_where_every_task_has_several(here: Here, folder: Path) -> None:
    write(folder, *[gold(number) for number in range(TASKS)] * 3)
    assert run(here)[0] == 0
    assert result(folder / "samples.scores.json")["samples"]["scored"] == 3 * TASKS


def test_nothing_to_score_is_exit_code_2_with_every_reason(here: Here, folder: Path) -> None:
    write(folder, "x", json.dumps({"task_id": "nobody", "completion": ""}))
    code, output, errors = run(here)
    assert (code, output) == (2, "")
    assert errors[0].startswith("error: samples.jsonl:1 is not JSON")
    assert errors[1] == "error: samples.jsonl:2 is of an unknown task, 'nobody'"
    assert "6 of 6 tasks: py/n0, py/n1" in errors[2]
    write(folder)
    assert run(here)[0] == 2
    assert not (folder / "samples.scores.json").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--benchmark", "santacoder-fem"], "did you mean 'santacoder-fim'?"),
        (["--samples", "none.jsonl"], "none.jsonl: no such samples file"),
        (["--problems", "none.jsonl"], "none.jsonl cannot be read: No such file"),
        (["--output", "samples.jsonl"], "samples.jsonl is there already and holds no scores"),
        (["--output", "problems.jsonl/x.json"], "cannot be written"),
        (["-o", "lenghts=[4]"], "no option 'lenghts': did you mean 'lengths'?"),
        (["-o", "lengths=[0]"], "option lengths"),
        (["--workers", "2"], "have no effect without --allow-code-execution"),
        (["--benchmark", "perplexity"], "--problems has no effect with benchmark 'perplexity'"),
    ],
)
def test_a_mistake_is_one_line(here: Here, folder: Path, arguments: list[str], expected: str) -> None:
    before = write(folder, *[gold(number) for number in range(TASKS)]).read_bytes()
    given = ["--benchmark", "santacoder-fim", "--samples", "samples.jsonl", "--problems", "problems.jsonl"]
    code, _, errors = here("score", *given, "--progress", "none", *arguments)
    assert code == 2
    assert expected in errors
    assert len(errors.splitlines()) == 1
    assert (folder / "samples.jsonl").read_bytes() == before


class Executes(Benchmark):
    executes_code = True

    def requests(self, context: BenchmarkContext) -> list[GenerationRequest]:
        return [GenerationRequest("t", Gap("x = "))]

    def score(self, answers: Any) -> Scores:
        raise NotImplementedError


def test_forms_that_a_benchmark_cannot_score_are_named(folder: Path) -> None:
    path = write(
        folder, json.dumps({"task_id": "t", "solution": "x"}), json.dumps({"task_id": "t", "text": "y"})
    )
    found = read_samples(
        path, Executes(), Executes().requests(BenchmarkContext(None, 0, 8, lambda: iter(())))
    )
    answers: list[Answer] = found.answers
    assert [answer.task_id for answer in answers] == ["t"]
    assert found.issues == [
        f"{path}:1 has a `solution`, which this benchmark cannot score; it takes what a run of it wrote"
    ]

"""EvalPlus's own package: its data sets, its ground truth and its verdicts are this platform's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opendllm.plugins.benchmarks import evalplus_package
from opendllm.registries.benchmarks import BenchmarkContext, CodeExecution, GeneratedText, Scores
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

PROBLEMS = Path(__file__).parent / "problems"
OVERRIDES = {"humaneval-plus": "HUMANEVAL_OVERRIDE_PATH", "mbpp-plus": "MBPP_OVERRIDE_PATH"}
CONTEXT = BenchmarkContext(None, 0, 4096, lambda: iter(()), CodeExecution())
SECONDS = 0.5

# Its `evaluate` refuses subsets. In a process of its own, since its programs inherit the address space, which
# it bounds.
THEIRS = """
import json, sys
from evalplus.data import get_human_eval_plus, get_mbpp_plus
from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
from evalplus.evaluate import check_correctness, get_groundtruth

dataset, programs, seconds = json.loads(sys.argv[1])
problems = (get_mbpp_plus if dataset == "mbpp" else get_human_eval_plus)(err_incomplete=False)
truth = get_groundtruth(problems, "tiny", MBPP_OUTPUT_NOT_NONE_TASKS if dataset == "mbpp" else [])
verdicts = []
for task, program in programs:
    result = check_correctness(
        dataset, 0, problems[task], program, truth[task], False, False, None, seconds, 4.0
    )
    base, plus = (result[part][0] == "pass" for part in ("base", "plus"))
    verdicts.append([base, base and plus])
print(json.dumps(verdicts))
"""

SLOWLY = "import time\ndef last_word(text):\n"
# Task, program, and whether it passes the base tests, and all tests.
HUMANEVAL = [
    ("HumanEval/0", "def double_all(numbers): return [2 * n for n in numbers]", True, True),
    ("HumanEval/0", "def double_all(numbers): return [n * 2 for n in numbers if n != 0.5]", True, False),
    ("HumanEval/0", "def double_all(numbers): return (2 * n for n in numbers)", False, False),
    ("HumanEval/0", "def double_all(numbers): return tuple(2 * n for n in numbers)", False, False),
    ("HumanEval/0", "def double_all(numbers):\n    while True: pass", False, False),
    ("HumanEval/0", "def double_all(numbers): raise ValueError('no')", False, False),
    ("HumanEval/0", "def double_all(numbers): return numbers[0] * 0 + 1 / 0", False, False),
    ("HumanEval/0", "import sys\ndef double_all(numbers): sys.exit(0)", False, False),
    ("HumanEval/0", "raise SystemExit", False, False),
    ("HumanEval/0", "def double_all(numbers: return 1", False, False),
    ("HumanEval/0", "def doubled(numbers): return [2 * n for n in numbers]", False, False),
    ("HumanEval/0", "def double_all(n):\n    print(n)\n    return [2 * x for x in n]", True, True),
    ("HumanEval/1", "def mean(numbers): return sum(numbers) / len(numbers) + 1e-9", True, True),
    ("HumanEval/1", "def mean(numbers): return sum(numbers) / len(numbers) + 1e-3", False, False),
    ("HumanEval/1", "def mean(numbers): return round(sum(numbers) / len(numbers))", False, False),
    ("HumanEval/3", "def last_word(text): return text.split()[-1]", True, False),
    ("HumanEval/3", "def last_word(text): return ([''] + text.split())[-1]", True, True),
    ("HumanEval/3", f"{SLOWLY}    time.sleep(0.1)\n    return (text.split() or [''])[-1]", True, True),
    ("HumanEval/3", f"{SLOWLY}    time.sleep(9)\n    return (text.split() or [''])[-1]", False, False),
]
MBPP = [
    ("Mbpp/2", "def similar_elements(a, b): return [x for x in b if x in a]", True, True),
    ("Mbpp/2", "def similar_elements(a, b): return [2]", True, False),
    ("Mbpp/2", "def similar_elements(a, b): return a", False, False),
    ("Mbpp/737", "def check_str(text): return text[:1] in ['a', 'u']", True, True),
    ("Mbpp/737", "def check_str(text): return text or None", False, False),
    ("Mbpp/124", "import cmath\ndef angle_complex(a, b): return cmath.phase(b + a)", True, True),
    ("Mbpp/124", "def angle_complex(a, b): return 1.5707963267948966", False, False),
    ("Mbpp/21", "def count_words(words): return {w: words.count(w) for w in words}", True, True),
    ("Mbpp/21", "def count_words(words): return {'a': 2} if words else None", True, False),
    ("Mbpp/21", "def count_words(words): return sorted(words)", False, False),
]
PROGRAMS = {"humaneval-plus": HUMANEVAL, "mbpp-plus": MBPP}


def score(name: str, programs: list[tuple[str, str]], **options: Any) -> Scores:
    benchmark = installed_plugins().benchmarks.get(name).build(options)
    benchmark.requests(CONTEXT)
    answers = [GeneratedText(task, "default", 0, text, form="solution") for task, text in programs]
    return benchmark.score(answers)


def solutions(name: str) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in (PROBLEMS / f"{name}.jsonl").read_text().splitlines()]
    return [(row["task_id"], row["prompt"] + row["canonical_solution"]) for row in rows]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of both, here; EvalPlus finds the tests' problems."""
    for name, variable in OVERRIDES.items():
        monkeypatch.setenv(variable, str(PROBLEMS / f"{name}.jsonl"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def evalplus_verdicts() -> Callable[[str, list[tuple[str, str]]], list[list[bool]]]:
    """Its own, of (task, program): base tests passed, all tests passed."""

    def ask(name: str, programs: list[tuple[str, str]]) -> list[list[bool]]:
        request = json.dumps([name.removesuffix("-plus"), programs, SECONDS])
        command = [sys.executable, "-c", THEIRS, request]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        verdicts: list[list[bool]] = json.loads(output.splitlines()[-1])
        return verdicts

    return ask


@pytest.mark.slow
@pytest.mark.parametrize("name", OVERRIDES)
def test_verdicts_are_evalplus_own(
    name: str, evalplus_verdicts: Callable[[str, list[tuple[str, str]]], list[list[bool]]]
) -> None:
    cases = PROGRAMS[name]
    programs = [case[:2] for case in cases]
    options = {"problems": str(PROBLEMS / f"{name}.jsonl"), "min_time_limit": SECONDS}
    ours = [next(iter(score(name, [program], **options).per_task.values())) for program in programs]
    found = [[bool(values["base_passed"]), bool(values["passed"])] for values in ours]
    assert found == [list(case[2:]) for case in cases]
    assert found == evalplus_verdicts(name, programs)


@pytest.mark.slow
@pytest.mark.parametrize("name", OVERRIDES)
def test_problems_and_ground_truth_are_read_through_the_package(name: str, cache: Path) -> None:
    kept = cache / "open-dllm" / "judges"
    from_file = score(name, solutions(name), problems=str(PROBLEMS / f"{name}.jsonl"))
    ours = sorted(file.read_text() for file in kept.iterdir())
    for file in kept.iterdir():
        file.unlink()
    # One program that fails at once: the judge itself would then have nothing to keep.
    task = solutions(name)[0][0]
    failed = score(name, [(task, "raise ValueError")])
    assert failed.per_task[task]["passed"] is False
    assert len(list(kept.iterdir())) == 1
    through = score(name, solutions(name))
    assert sorted(file.read_text() for file in kept.iterdir()) == ours
    assert through.per_task == from_file.per_task
    assert through.notes[0] == "problems and expected outputs come from the package evalplus"
    assert through.notes[0] not in from_file.notes
    assert not list(cache.rglob("*.pkl"))


@pytest.mark.slow
def test_where_evalplus_has_no_data_set_the_hub_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH", str(tmp_path / "missing.jsonl"))
    with pytest.raises(UserError, match="evalplus/humanevalplus cannot be had from the hub"):
        score("humaneval-plus", [])


def test_without_the_package_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evalplus_package, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="evalplus/mbppplus cannot be had from the hub"):
        score("mbpp-plus", [])


@pytest.mark.slow
def test_ground_truth_that_cannot_be_computed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [json.loads(line) for line in (PROBLEMS / "humaneval-plus.jsonl").read_text().splitlines()]
    rows[0]["canonical_solution"] = "    return 1 / 0\n"
    (tmp_path / "broken.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH", str(tmp_path / "broken.jsonl"))
    with pytest.raises(UserError, match="evalplus cannot compute its ground truth"):
        score("humaneval-plus", solutions("humaneval-plus"))

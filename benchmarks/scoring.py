"""Scoring programs: speed and verdicts beside EvalPlus 0.3.1's own evaluator, on the real files.

    python benchmarks/scoring.py speed --problems FOLDER [--evalplus-python PYTHON] [--repeats 3]
    python benchmarks/scoring.py agreement --problems FOLDER [--benchmark mbpp-plus] [--seed 0]

FOLDER holds the published files (HumanEvalPlus*.jsonl.gz, MbppPlus*.jsonl.gz and
HumanEval-SingleLineInfilling.jsonl.gz). PYTHON is one that has `pip install evalplus==0.3.1`; by default
this one. EvalPlus runs its ground truth and its `check_correctness` in as many processes as the sandbox has
workers, without the 20 seconds that its `evaluate` sleeps; both take turns, so that load hits both, and run
twice: both keep expected outputs on disk, which the first run computes.
`agreement` compares verdicts, problem by problem, on mutated published solutions.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opendllm.registries.benchmarks import BenchmarkContext, CodeExecution, GeneratedText
from opendllm.registries.discovery import installed_plugins

FILES = {
    "humaneval-plus": "HumanEvalPlus*.jsonl.gz",
    "mbpp-plus": "MbppPlus*.jsonl.gz",
    "humaneval-infilling": "HumanEval-SingleLineInfilling.jsonl.gz",
}
NEVER_PASSED = {"HumanEval/32"}
"""EvalPlus 0.3.1 doesn't count the calls of `find_zero`, and so fails its published solution, too."""
THEIRS = """
import json, sys, time
from concurrent.futures import ProcessPoolExecutor
from evalplus.data import get_human_eval_plus, get_mbpp_plus
from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
from evalplus.evaluate import check_correctness, get_groundtruth

request = json.load(open(sys.argv[1]))
get, dataset = (get_mbpp_plus, "mbpp") if request["mbpp"] else (get_human_eval_plus, "humaneval")
problems = get(err_incomplete=False)
samples = request["samples"]
problems = {task: problems[task] for task in samples}
started = time.monotonic()
expected = get_groundtruth(problems, request["digest"], MBPP_OUTPUT_NOT_NONE_TASKS if request["mbpp"] else [])
truth = time.monotonic() - started
with ProcessPoolExecutor(request["workers"]) as pool:
    futures = {
        task: pool.submit(check_correctness, dataset, 0, problems[task], text, expected[task], False, True,
                          None, 4.0, 4.0)
        for task, text in samples.items()
    }
    results = {task: future.result() for task, future in futures.items()}
verdicts = {
    task: [result["base"][0] == "pass", result["base"][0] == result["plus"][0] == "pass"]
    for task, result in results.items()
}
seconds = time.monotonic() - started
json.dump({"verdicts": verdicts, "seconds": seconds, "ground_truth": truth}, open(sys.argv[2], "w"))
"""


def rows(folder: Path, benchmark: str) -> tuple[Path, list[dict[str, Any]]]:
    """A benchmark's file, and what it holds."""
    path = sorted(folder.glob(FILES[benchmark]))[-1]
    with gzip.open(path, "rt") as file:
        return path, [json.loads(line) for line in file]


def score_ours(
    folder: Path, benchmark: str, texts: dict[str, str], form: Any, workers: int
) -> dict[str, Any]:
    """Verdicts and seconds of this platform."""
    path, _ = rows(folder, benchmark)
    built = installed_plugins().benchmarks.get(benchmark).build({"problems": str(path)})
    built.requests(BenchmarkContext(None, 0, 4096, lambda: iter(()), CodeExecution(None, workers)))
    answers = [GeneratedText(task, "default", 0, text, form=form) for task, text in texts.items()]
    started = time.monotonic()
    scores = built.score(answers)
    seconds = time.monotonic() - started
    verdicts = {
        task: [bool(values.get("base_passed", values["passed"])), bool(values["passed"])]
        for task, values in scores.per_task.items()
    }
    return {"verdicts": verdicts, "seconds": seconds, "notes": scores.notes}


def score_theirs(
    python: str, folder: Path, benchmark: str, texts: dict[str, str], workers: int, cache: Path
) -> dict[str, Any]:
    """Verdicts and seconds of EvalPlus; ground truth is kept in `cache`, as it keeps it."""
    path, _ = rows(folder, benchmark)
    with tempfile.TemporaryDirectory() as name:
        there = Path(name)
        (there / "problems.jsonl").write_bytes(gzip.decompress(path.read_bytes()))
        (there / "theirs.py").write_text(THEIRS)
        request = {
            "mbpp": benchmark == "mbpp-plus",
            "samples": texts,
            "workers": workers,
            "digest": benchmark,
        }
        (there / "request.json").write_text(json.dumps(request))
        override = "MBPP_OVERRIDE_PATH" if benchmark == "mbpp-plus" else "HUMANEVAL_OVERRIDE_PATH"
        subprocess.run(
            [python, there / "theirs.py", there / "request.json", there / "answer.json"],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, override: str(there / "problems.jsonl"), "XDG_CACHE_HOME": str(cache)},
        )
        answer: dict[str, Any] = json.loads((there / "answer.json").read_text())
        return answer


class Mutation(ast.NodeTransformer):
    """Changes one randomly chosen place of a program."""

    def __init__(self, draw: random.Random, place: int) -> None:
        self._draw = draw
        self._place = place
        self.places = 0

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        changed = self._changed(node)
        if changed is None:
            return node
        self.places += 1
        return changed if self.places - 1 == self._place else node

    def _changed(self, node: ast.AST) -> ast.AST | None:
        match node:
            case ast.Constant(value=bool() as value):
                return ast.Constant(not value)
            case ast.Constant(value=int() as value):
                return ast.Constant(value + self._draw.choice((-1, 1)))
            case ast.Constant(value=float() as value):
                return ast.Constant(value * self._draw.choice((1 + 1e-9, 1.01)))
            case ast.Compare(ops=[ast.Lt()]):
                return ast.Compare(node.left, [ast.LtE()], node.comparators)
            case ast.Compare(ops=[ast.Gt()]):
                return ast.Compare(node.left, [ast.GtE()], node.comparators)
            case ast.Compare(ops=[ast.Eq()]):
                return ast.Compare(node.left, [ast.NotEq()], node.comparators)
            case ast.BinOp(op=ast.Add()):
                return ast.BinOp(node.left, ast.Sub(), node.right)
            case ast.BinOp(op=ast.Mod()):
                return ast.BinOp(node.left, ast.FloorDiv(), node.right)
            case ast.Return(value=ast.expr() as value):
                wrapped = self._draw.choice(
                    ("{}", "{}", "{}", "{}", "list({})", "tuple({})", "float({})", "[{}]")
                )
                return ast.Return(ast.parse(wrapped.format(ast.unparse(value)), mode="eval").body)
            case ast.If():
                return ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
        return None


def mutants(problems: list[dict[str, Any]], count: int, seed: int) -> Iterator[tuple[str, str]]:
    """(task id, mutated published solution), of `count` tasks, each once."""
    draw = random.Random(seed)  # noqa: S311
    for row in draw.sample(problems, min(count, len(problems))):
        tree = ast.parse(row["prompt"] + row["canonical_solution"])
        counter = Mutation(draw, -1)
        counter.visit(tree)
        tree = ast.parse(row["prompt"] + row["canonical_solution"])
        mutated = Mutation(draw, draw.randrange(max(1, counter.places))).visit(tree)
        yield row["task_id"], ast.unparse(ast.fix_missing_locations(mutated))


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """HumanEval+ beside EvalPlus, taking turns; and the infilling programs."""
    _, problems = rows(arguments.problems, "humaneval-plus")
    gold = {row["task_id"]: row["prompt"] + row["canonical_solution"] for row in problems}
    rounds: list[dict[str, Any]] = []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as cache:
            os.environ["XDG_CACHE_HOME"] = cache
            python, folder, workers = arguments.evalplus_python, arguments.problems, arguments.workers
            theirs = [
                score_theirs(python, folder, "humaneval-plus", gold, workers, Path(cache)) for _ in range(2)
            ]
            ours = [score_ours(folder, "humaneval-plus", gold, "solution", workers) for _ in range(2)]
        rounds.append(
            {
                "load": os.getloadavg()[0],
                "ours": [found["seconds"] for found in ours],
                "evalplus": [found["seconds"] for found in theirs],
                "passed": [sum(v[1] for v in found["verdicts"].values()) for found in (*ours, *theirs)],
            }
        )
        print(json.dumps(rounds[-1]))
    _, problems = rows(arguments.problems, "humaneval-infilling")
    gold = {row["task_id"]: row["canonical_solution"] for row in problems}
    infilling = score_ours(arguments.problems, "humaneval-infilling", gold, "completion", arguments.workers)
    ratios = [median([r["evalplus"][n] / r["ours"][n] for r in rounds]) for n in range(2)]
    result = {
        "rounds": rounds,
        "evalplus_over_ours": ratios[0],
        "evalplus_over_ours_with_expected_outputs_on_disk": ratios[1],
        "infilling_programs": len(gold),
        "infilling_seconds": infilling["seconds"],
        "infilling_passed": sum(v[1] for v in infilling["verdicts"].values()),
        "sandbox": list(infilling["notes"]),
    }
    print(
        f"EvalPlus takes {ratios[0]:.2f} times as long, {ratios[1]:.2f} with expected outputs on disk; "
        f"{len(gold)} infilling programs take {infilling['seconds']:.1f} s"
    )
    return result


def median(values: list[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]


def agreement(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same verdicts on mutated solutions?"""
    _, problems = rows(arguments.problems, arguments.benchmark)
    texts = dict(mutants(problems, arguments.mutants, arguments.seed))
    ours = score_ours(arguments.problems, arguments.benchmark, texts, "solution", arguments.workers)
    with tempfile.TemporaryDirectory() as cache:
        theirs = score_theirs(
            arguments.evalplus_python,
            arguments.problems,
            arguments.benchmark,
            texts,
            arguments.workers,
            Path(cache),
        )
    different = {
        task: {"ours": ours["verdicts"][task], "evalplus": theirs["verdicts"][task], "program": texts[task]}
        for task in texts
        if ours["verdicts"][task] != theirs["verdicts"][task] and task not in NEVER_PASSED
    }
    passed = sum(verdict[1] for verdict in ours["verdicts"].values())
    print(f"{len(texts)} mutants, {passed} pass; {len(different)} verdicts differ: {sorted(different)}")
    return {"mutants": len(texts), "passed": passed, "different": different}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("speed", "agreement"))
    parser.add_argument("--problems", type=Path, required=True)
    parser.add_argument("--evalplus-python", default=sys.executable)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--benchmark", choices=("humaneval-plus", "mbpp-plus"), default="humaneval-plus")
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    result = (speed if arguments.what == "speed" else agreement)(arguments)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

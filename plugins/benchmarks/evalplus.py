"""HumanEval+ and MBPP+ (Liu et al. 2023, arXiv:2305.01210), scored as EvalPlus 0.3.1 scores them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opendllm.core.sandbox.limits import limits_of
from opendllm.core.scoring.problem_files import ProblemSource, read_problems
from opendllm.core.scoring.program_scores import ProgramTests, score_programs
from opendllm.core.scoring.scores_by_setting import lower_is_better
from opendllm.plugins.benchmarks import DifferentialOptions, evalplus_judge
from opendllm.plugins.benchmarks.sanitizing import sanitize
from opendllm.registries.benchmarks import (
    Answer,
    Benchmark,
    BenchmarkContext,
    CodeExecution,
    GeneratedText,
    GenerationRequest,
    Scores,
)

FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "base_input", "plus_input", "atol")
STOP = ("<|endoftext|>", "<|endofmask|>", "</s>", "\nif __name__", "\ndef main(", "\nprint(")
"""evalplus/provider/utility.py@v0.3.1, of every benchmark."""
NOTES = {
    "evalplus": "prompts, stop strings and sanitizer are EvalPlus's, for base models",
    "open-dllm": "prompts and stop strings are Open-dLLM's, the sanitizer is EvalPlus's",
}


class HumanEvalPlus(Benchmark):
    """pass@k of base and plus tests together, and of the base tests alone."""

    name = "humaneval-plus"
    is_mbpp = False
    source = ProblemSource(
        "evalplus/humanevalplus",
        "test",
        "HumanEvalPlus.jsonl.gz of https://github.com/evalplus/humanevalplus_release/releases/tag/v0.1.10",
    )
    stop: tuple[str, ...] = (*STOP, "\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert ")
    open_dllm_stop: tuple[str, ...] = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    lower_is_better = lower_is_better(())
    executes_code = True
    accepts = frozenset({"written", "completion", "solution"})

    def __init__(self, options: DifferentialOptions) -> None:
        self._options = options
        self.headline = tuple(f"{part}pass@{k}" for part in ("", "base_") for k in options.pass_at)
        self._problems: dict[str, dict[str, Any]] = {}
        self._execution: CodeExecution | None = None

    def requests(self, context: BenchmarkContext) -> Sequence[GenerationRequest]:
        """The prompt of every problem."""
        rows = read_problems(self.name, self._options.problems, self.source, FIELDS)
        self._problems = {row["task_id"]: row for row in rows[: context.limit]}
        self._execution = context.code_execution
        evalplus = self._options.protocol == "evalplus"
        return [
            GenerationRequest(
                task,
                row["prompt"].strip() + "\n" if evalplus else self.open_dllm_prompt(row),
                reference=row["canonical_solution"],
                stop=self.stop if evalplus else self.open_dllm_stop,
            )
            for task, row in self._problems.items()
        ]

    def score(self, answers: Sequence[Answer]) -> Scores:
        """pass@k of both, and of the base tests."""
        texts = [answer for answer in answers if isinstance(answer, GeneratedText)]
        written = any(answer.form == "written" for answer in texts)
        tests = ProgramTests(
            evalplus_judge,
            self._tests,
            self._options.pass_at,
            parts=("base", "plus"),
            remembers=True,
            metrics={"": frozenset({"base", "plus"}), "base_": frozenset({"base"})},
        )
        notes = [NOTES[self._options.protocol]] if written else []
        limits = limits_of(self._options.memory_gib)
        return score_programs(texts, self._program, tests, self._execution, limits, notes)

    def task_of(self, given: str) -> str:
        """A number alone is the benchmark's."""
        return f"{'Mbpp' if self.is_mbpp else 'HumanEval'}/{given}" if given.isdecimal() else given

    def open_dllm_prompt(self, row: dict[str, Any]) -> str:
        """The prompt as published."""
        return str(row["prompt"])

    def open_dllm_program(self, row: dict[str, Any], text: str) -> str:
        """Prompt, newline and answer, before the sanitizer."""
        return f"{row['prompt']}\n{text}"

    def _program(self, answer: GeneratedText) -> str:
        row = self._problems[answer.task_id]
        if answer.form == "solution":
            return answer.text
        if answer.form == "completion":
            return f"{row['prompt']}{answer.text}"
        if self._options.protocol == "open-dllm":
            return sanitize(self.open_dllm_program(row, answer.text), row["entry_point"])
        text = answer.text.replace("\t", "    ")  # as all of EvalPlus's own providers do
        return sanitize(f"{row['prompt'].strip()}\n{text}", row["entry_point"])

    def _tests(self, task: str) -> dict[str, Any]:
        row = self._problems[task]
        return {
            "gold": row["prompt"] + row["canonical_solution"],
            "entry_point": row["entry_point"],
            "is_mbpp": self.is_mbpp,
            "number": int(task.rsplit("/", 1)[-1]),
            "base": row["base_input"],
            "plus": row["plus_input"],
            "atol": row["atol"],
            "min_seconds": self._options.min_time_limit,
            "factor": self._options.gt_time_limit_factor,
        }


class MbppPlus(HumanEvalPlus):
    """The same of MBPP."""

    name = "mbpp-plus"
    is_mbpp = True
    source = ProblemSource(
        "evalplus/mbppplus",
        "test",
        "MbppPlus.jsonl.gz of https://github.com/evalplus/mbppplus_release/releases/tag/v0.2.0",
    )
    stop = (*STOP, '\n"""', "\nassert")
    open_dllm_stop = ("\nclass", "\n#", "\nif", "\nprint")

    def open_dllm_prompt(self, row: dict[str, Any]) -> str:
        """The task in words, its three base asserts and a code fence."""
        docstring = row["prompt"].strip().strip('"').strip().split("\n")
        words = [line for line in docstring if not line.startswith("assert")]
        tests = [line for line in row.get("assertion", "").split("\n") if line.startswith("assert")]
        joined = "\n".join(tests[:3])
        return f"{' '.join(words).strip()} Your code should pass these tests:\n\n{joined}\n```python\n"

    def open_dllm_program(self, row: dict[str, Any], text: str) -> str:
        """The answer without its fences."""
        return "\n".join(line for line in text.split("\n") if not line.startswith("```"))

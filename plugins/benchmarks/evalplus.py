"""HumanEval+ and MBPP+ (Liu et al. 2023, arXiv:2305.01210), scored as EvalPlus 0.3.1 scores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from opendllm.core.scoring.problem_files import ProblemSource
from opendllm.core.scoring.program_scores import ProgramTests
from opendllm.plugins.benchmarks import DifferentialOptions, evalplus_judge, evalplus_package
from opendllm.plugins.benchmarks.instructions import Instruction, instructed, unbegun
from opendllm.plugins.benchmarks.program_benchmark import ProgramBenchmark, Row, without_fences
from opendllm.plugins.benchmarks.sanitizing import sanitize
from opendllm.registries.benchmarks import Answer, GeneratedText, GenerationRequest, Scores
from opendllm.registries.gaps import Gap

STOP = ("<|endoftext|>", "<|endofmask|>", "</s>", "\nif __name__", "\ndef main(", "\nprint(")
"""evalplus/provider/utility.py@v0.3.1, of every benchmark."""
NOTES = {
    "evalplus": "prompts, stop strings and sanitizer are EvalPlus's, for base models",
    "open-dllm": "prompts and stop strings are Open-dLLM's, the sanitizer is EvalPlus's",
    "instruct": "prompts, stop strings and sanitizer are EvalPlus's, for instruct models",
}
TURN = (
    "Please provide a self-contained Python script that solves the following problem in a markdown code "
    "block:"
)
BEGUN = (
    "Below is a Python script with a self-contained function that solves the problem and passes "
    "corresponding tests:"
)
"""evalplus/codegen.py@v0.3.1, and how they are put together: evalplus/provider/utility.py."""
FROM_PACKAGE = "problems and expected outputs come from the package evalplus"


class HumanEvalPlus(ProgramBenchmark[DifferentialOptions]):
    """pass@k of base and plus tests together, and of the base tests alone."""

    name = "humaneval-plus"
    fields = (
        "task_id", "prompt", "entry_point", "canonical_solution", "base_input", "plus_input", "atol"
    )  # fmt: skip
    task_prefix = "HumanEval"
    is_mbpp = False
    stop: tuple[str, ...] = (*STOP, "\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert ")
    open_dllm_stop: tuple[str, ...] = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")

    def __init__(self, options: DifferentialOptions) -> None:
        super().__init__(options)
        self.headline = tuple(f"{part}pass@{k}" for part in ("", "base_") for k in options.pass_at)
        self._from_package = False

    def rows(self) -> Sequence[Row]:
        """From the file, else through the package evalplus, else from the hub."""
        self._from_package = False
        if self.options.problems is None and evalplus_package.is_installed():
            found = evalplus_package.published_problems(is_mbpp=self.is_mbpp)
            self._from_package = bool(found)
            if found:
                return found
        return super().rows()

    def score(self, answers: Sequence[Answer]) -> Scores:
        """pass@k of both, and of the base tests; where problems came from evalplus, that is said."""
        scores = super().score(answers)
        return replace(scores, notes=(FROM_PACKAGE, *scores.notes)) if self._from_package else scores

    def source(self) -> ProblemSource:
        """HumanEval+'s release."""
        return ProblemSource(
            "evalplus/humanevalplus",
            "test",
            "HumanEvalPlus.jsonl.gz of https://github.com/evalplus/humanevalplus_release/releases/tag/v0.1.10",
        )

    def ask(self, task: str, row: Row) -> list[GenerationRequest]:
        """The problem's prompt, as the protocol puts it."""
        if self.options.protocol == "instruct":
            whole = row["prompt"] + row["canonical_solution"]
            asked = GenerationRequest(task, Gap(""), whole, stop=STOP)
            turn = f"{TURN}\n```\n{row['prompt'].strip()}\n```\n"
            return [instructed(asked, Instruction(turn, f"{BEGUN}\n```python\n", "\n```\n"), self.chat)]
        gap, stop = Gap(row["prompt"].strip() + "\n"), self.stop
        if self.options.protocol == "open-dllm":
            gap, stop = Gap(self.open_dllm_prompt(row)), self.open_dllm_stop
        return [GenerationRequest(task, gap, row["canonical_solution"], stop=stop)]

    def note(self) -> str:
        """The protocol's."""
        told = unbegun(self.chat) if self.options.protocol == "instruct" else ""
        return NOTES[self.options.protocol] + told

    def program(self, answer: GeneratedText, row: Row) -> str:
        """A completion after its prompt; what a run wrote, through the sanitizer."""
        if answer.form == "completion":
            return f"{row['prompt']}{answer.text}"
        if self.options.protocol == "open-dllm":
            return sanitize(self.open_dllm_program(row, answer.text), row["entry_point"])
        text = answer.text.replace("\t", "    ")  # as all of EvalPlus's own providers do
        if self.options.protocol == "instruct":
            return sanitize(text, row["entry_point"])
        return sanitize(f"{row['prompt'].strip()}\n{text}", row["entry_point"])

    def tests(self) -> ProgramTests:
        """Base tests, then plus tests, against what the published program gives."""
        return ProgramTests(
            evalplus_judge,
            self.judge_data,
            self.options.pass_at,
            parts=("base", "plus"),
            remembers=True,
            metrics={"": frozenset({"base", "plus"}), "base_": frozenset({"base"})},
            recall=self._ground_truth if self._from_package else None,
        )

    def judge_data(self, task: str) -> dict[str, Any]:
        """The published program and both lists of inputs."""
        row = self.problems[task]
        return {
            "gold": row["prompt"] + row["canonical_solution"],
            "entry_point": row["entry_point"],
            "is_mbpp": self.is_mbpp,
            "number": int(task.rsplit("/", 1)[-1]),
            "base": row["base_input"],
            "plus": row["plus_input"],
            "atol": row["atol"],
            "min_seconds": self.options.min_time_limit,
            "factor": self.options.gt_time_limit_factor,
        }

    def _ground_truth(self, tasks: Sequence[str]) -> Mapping[str, str | None]:
        return evalplus_package.ground_truth(
            tasks,
            is_mbpp=self.is_mbpp,
            min_seconds=self.options.min_time_limit,
            factor=self.options.gt_time_limit_factor,
        )

    def open_dllm_prompt(self, row: Row) -> str:
        """The prompt as published."""
        return str(row["prompt"])

    def open_dllm_program(self, row: Row, text: str) -> str:
        """Prompt, newline and answer, before the sanitizer."""
        return f"{row['prompt']}\n{text}"


class MbppPlus(HumanEvalPlus):
    """The same of MBPP."""

    name = "mbpp-plus"
    task_prefix = "Mbpp"
    is_mbpp = True
    stop = (*STOP, '\n"""', "\nassert")
    open_dllm_stop = ("\nclass", "\n#", "\nif", "\nprint")

    def source(self) -> ProblemSource:
        """MBPP+'s release."""
        return ProblemSource(
            "evalplus/mbppplus",
            "test",
            "MbppPlus.jsonl.gz of https://github.com/evalplus/mbppplus_release/releases/tag/v0.2.0",
        )

    def open_dllm_prompt(self, row: Row) -> str:
        """The task in words, its three base asserts and a code fence."""
        docstring = row["prompt"].strip().strip('"').strip().split("\n")
        words = [line for line in docstring if not line.startswith("assert")]
        tests = [line for line in row.get("assertion", "").split("\n") if line.startswith("assert")]
        joined = "\n".join(tests[:3])
        return f"{' '.join(words).strip()} Your code should pass these tests:\n\n{joined}\n```python\n"

    def open_dllm_program(self, row: Row, text: str) -> str:
        """The answer without its fences."""
        return without_fences(text)

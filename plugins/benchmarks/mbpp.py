"""MBPP (Austin et al. 2021, arXiv:2108.07732): a task in words, and three asserts."""

from __future__ import annotations

from typing import Any

from opendllm.core.scoring.problem_files import ProblemSource
from opendllm.plugins.benchmarks import MbppOptions
from opendllm.plugins.benchmarks.instructions import Instruction, code_of, instructed, unbegun
from opendllm.plugins.benchmarks.program_benchmark import ProgramBenchmark, Row, without_fences
from opendllm.registries.benchmarks import BenchmarkContext, GeneratedText, GenerationRequest
from opendllm.registries.gaps import Gap
from opendllm.registries.problems import Problem

DATASET = "google-research-datasets/mbpp"
REPOSITORY = "https://github.com/google-research/google-research/tree/master/mbpp"
TEST_SPLIT = range(11, 511)
STOP: dict[str, tuple[str, ...]] = {
    # bigcode-evaluation-harness, tasks/mbpp.py
    "docstring": ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
    "open-dllm": ("\nclass", "\n#", "\nif", "\nprint"),
}
NOTES = {
    "docstring": "zero-shot: the task and its tests as a docstring, as bigcode-evaluation-harness puts them",
    "open-dllm": "zero-shot: the task, its tests and a code fence, as Open-dLLM put them; fences are removed",
    "instruct": "zero-shot: the task and its tests as lm-eval's mbpp_instruct puts them; programs are the "
    "code of the answer",
}


class Mbpp(ProgramBenchmark[MbppOptions]):
    """pass@k of the three asserts of each task."""

    name = "mbpp"
    fields = ("task_id", "text", "code", "test_list", "test_setup_code")
    task_prefix = "Mbpp"

    def source(self) -> ProblemSource:
        """The whole file."""
        return ProblemSource(DATASET, "test", f"mbpp.jsonl of {REPOSITORY}", configuration="full")

    def is_asked(self, row: Row) -> bool:
        """Every task, or those of the test split."""
        return self.options.tasks == "all" or int(row["task_id"]) in TEST_SPLIT

    def task_id(self, row: Row) -> str:
        """Mbpp/NUMBER."""
        return f"Mbpp/{row['task_id']}"

    def ask(self, task: str, row: Row) -> list[GenerationRequest]:
        """The task with its tests, as the protocol puts them."""
        tests = "\n".join(row["test_list"])
        if self.options.protocol == "instruct":
            asked = GenerationRequest(task, Gap(""), row["code"])
            return [instructed(asked, self._instruction(row), self.chat)]
        prompt = f'"""\n{self.task_text(row)}\n{tests}\n"""\n'
        if self.options.protocol == "open-dllm":
            prompt = f"{self.task_text(row)} Your code should pass these tests:\n\n{tests}\n```python\n"
        return [GenerationRequest(task, Gap(prompt), row["code"], stop=STOP[self.options.protocol])]

    def training_problems(self, context: BenchmarkContext) -> list[Problem]:
        """The tasks outside the test split, each with its asserts; they are in the published files."""
        return [
            Problem(
                self.task_id(row),
                self._trained_gap(row),
                answer=row["code"],
                tests=tuple(f"{self.setup(row)}\n{test}" for test in row["test_list"]),
            )
            for row in self.rows()
            if int(row["task_id"]) not in TEST_SPLIT
        ]

    def note(self) -> str:
        """The protocol's."""
        told = unbegun(self.chat) if self.options.protocol == "instruct" else ""
        return NOTES[self.options.protocol] + told

    def program(self, answer: GeneratedText, row: Row) -> str:
        """An answer is a program of its own: the prompt has no code."""
        if answer.form != "written" or self.options.protocol == "docstring":
            return f"{answer.text}\n"
        if self.options.protocol == "instruct":
            return f"{code_of(answer.text)}\n"
        return without_fences(answer.text)

    def judge_data(self, task: str) -> dict[str, Any]:
        """The published program and its asserts."""
        row = self.problems[task]
        return {
            "gold": row["code"],
            "tests": "\n".join([self.setup(row), *row["test_list"]]),
            "seconds": self.options.timeout,
        }

    def _instruction(self, row: Row) -> Instruction:
        """Of lm-eval's tasks/mbpp/mbpp_instruct.yaml @0.4.13."""
        tests = "\n".join(row["test_list"])
        task = f"You are an expert Python programmer, and here is your task:\n{self.task_text(row)}"
        return Instruction(f"{task}\nYour code should pass these tests:\n{tests}", "\n```python\n")

    def _trained_gap(self, row: Row) -> Gap:
        """A training problem's prompt: whoever asks puts it into a template, or not."""
        if self.options.protocol == "instruct":
            return Gap(self._instruction(row).turn)
        return self.ask(self.task_id(row), row)[0].gap

    def task_text(self, row: Row) -> str:
        """The task in words."""
        return str(row["text"])

    def setup(self, row: Row) -> str:
        """What runs before the asserts."""
        return str(row["test_setup_code"])


class MbppSanitized(Mbpp):
    """The same, of the tasks and in the words that were checked by hand."""

    name = "mbpp-sanitized"
    fields = ("task_id", "prompt", "code", "test_list", "test_imports")

    def source(self) -> ProblemSource:
        """The file of checked tasks."""
        return ProblemSource(
            DATASET, "test", f"sanitized-mbpp.json of {REPOSITORY}", configuration="sanitized"
        )

    def task_text(self, row: Row) -> str:
        """The task in words."""
        return str(row["prompt"])

    def setup(self, row: Row) -> str:
        """What the asserts import."""
        return "\n".join(row["test_imports"])

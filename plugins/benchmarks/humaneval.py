"""HumanEval (Chen et al. 2021, arXiv:2107.03374), scored as openai/human-eval scores it."""

from __future__ import annotations

from typing import Any

from opendllm.core.scoring.problem_files import ProblemSource
from opendllm.plugins.benchmarks import HumanEvalOptions
from opendllm.plugins.benchmarks.instructions import Instruction, code_of, instructed, unbegun
from opendllm.plugins.benchmarks.program_benchmark import ProgramBenchmark, Row
from opendllm.plugins.benchmarks.sanitizing import sanitize
from opendllm.registries.benchmarks import GeneratedText, GenerationRequest
from opendllm.registries.gaps import Gap

SOURCE = ProblemSource(
    "openai/openai_humaneval",
    "test",
    "data/HumanEval.jsonl.gz of https://github.com/openai/human-eval",
)
STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Of section 2.2 of the paper, and of Open-dLLM's runs."""
NOTES = {
    "openai": "programs are the prompt and the answer, as openai/human-eval joins them",
    "open-dllm": "programs are prompt, newline and answer, through EvalPlus's sanitizer, as Open-dLLM had it",
    "instruct": "asked as lm-eval's humaneval_instruct asks, without its stop strings; programs are the "
    "prompt and the code of the answer",
}


class HumanEval(ProgramBenchmark[HumanEvalOptions]):
    """pass@k of `check(entry_point)`; helpers that the tests use are those of the published program."""

    name = "humaneval"
    fields = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
    task_prefix = "HumanEval"

    def source(self) -> ProblemSource:
        """OpenAI's 164 functions."""
        return SOURCE

    def ask(self, task: str, row: Row) -> list[GenerationRequest]:
        """The prompt of the function, or what asks for the rest of it."""
        if self.options.protocol == "instruct":
            asked = GenerationRequest(task, Gap(""), row["canonical_solution"])
            return [instructed(asked, _instruction(row["prompt"]), self.chat)]
        return [GenerationRequest(task, Gap(row["prompt"]), row["canonical_solution"], stop=STOP)]

    def note(self) -> str:
        """The protocol's."""
        told = unbegun(self.chat) if self.options.protocol == "instruct" else ""
        return NOTES[self.options.protocol] + told

    def program(self, answer: GeneratedText, row: Row) -> str:
        """The function, joined or sanitized."""
        if answer.form == "written" and self.options.protocol == "open-dllm":
            return sanitize(f"{row['prompt']}\n{answer.text}", row["entry_point"])
        if answer.form == "written" and self.options.protocol == "instruct":
            return f"{row['prompt']}\n{code_of(answer.text)}\n"  # the prompt is a whole function already
        return f"{row['prompt']}{answer.text}\n"

    def judge_data(self, task: str) -> dict[str, Any]:
        """The published program and its tests."""
        row = self.problems[task]
        return {
            "gold": row["prompt"] + row["canonical_solution"],
            "tests": row["test"],
            "entry_point": row["entry_point"],
            "seconds": self.options.timeout,
        }


def _instruction(prompt: str) -> Instruction:
    """Of lm-eval's tasks/humaneval/humaneval_instruct.yaml @0.4.13."""
    wanted = "Write a solution to the following problem and make sure that it passes the tests:"
    return Instruction(
        f"{wanted}\n```python\n{prompt}\n```\n", f"Here is the completed function:\n```python\n{prompt}\n"
    )

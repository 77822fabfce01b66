"""HumanEval infilling (Bavarian et al. 2022, arXiv:2207.14255), as openai/human-eval-infilling scores it."""

from __future__ import annotations

from typing import Any

from opendllm.core.scoring.infilling_lengths import at_each_length, setting_of, shown_settings
from opendllm.core.scoring.problem_files import ProblemSource
from opendllm.core.scoring.scores_by_setting import lower_is_better, metric_name
from opendllm.plugins.benchmarks import HumanEvalInfillingOptions
from opendllm.plugins.benchmarks.program_benchmark import ProgramBenchmark, Row
from opendllm.registries.benchmarks import DEFAULT_SETTING, GeneratedText, GenerationRequest
from opendllm.registries.gaps import Gap

FILES = {
    "single-line": "HumanEval-SingleLineInfilling",
    "multi-line": "HumanEval-MultiLineInfilling",
    "random-span": "HumanEval-RandomSpanInfilling",
    "random-span-light": "HumanEval-RandomSpanInfillingLight",
}


class HumanEvalInfilling(ProgramBenchmark[HumanEvalInfillingOptions]):
    """pass@k of prompt, answer and suffix, at each length."""

    name = "humaneval-infilling"
    fields = ("task_id", "entry_point", "prompt", "suffix", "canonical_solution", "test")

    def __init__(self, options: HumanEvalInfillingOptions) -> None:
        super().__init__(options)
        self.settings = [setting_of(length) for length in options.lengths]
        self.headline = tuple(
            metric_name(f"pass@{min(options.pass_at)}", setting)
            for setting in (DEFAULT_SETTING, *shown_settings(self.settings))
        )
        self.lower_is_better = lower_is_better(self.settings)

    def source(self) -> ProblemSource:
        """The subset's."""
        name = FILES[self.options.subset]
        return ProblemSource(
            "loubnabnl/humaneval_infilling",
            "test",
            f"data/{name}.jsonl.gz of https://github.com/openai/human-eval-infilling",
            configuration=name,
        )

    def ask(self, task: str, row: Row) -> list[GenerationRequest]:
        """The hidden text at each length."""
        request = GenerationRequest(task, Gap(row["prompt"], row["suffix"]), row["canonical_solution"])
        return at_each_length(request, self.options.lengths)

    def program(self, answer: GeneratedText, row: Row) -> str:
        """The function around the answer."""
        return f"{row['prompt']}{answer.text}{row['suffix']}\n"

    def judge_data(self, task: str) -> dict[str, Any]:
        """The published program and its tests."""
        row = self.problems[task]
        return {
            "gold": row["prompt"] + row["canonical_solution"] + row["suffix"],
            "tests": row["test"],
            "entry_point": row["entry_point"],
            "seconds": self.options.timeout,
        }

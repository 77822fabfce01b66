"""SantaCoder's fill-in-the-middle benchmark (arXiv:2301.03988): one line of a program is hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from opendllm.core.scoring.infilling_lengths import at_each_length, setting_of, shown_settings
from opendllm.core.scoring.problem_files import ProblemSource, asked_or_failed, read_problems
from opendllm.core.scoring.scores_by_setting import (
    lower_is_better,
    mean_by_task,
    metric_name,
    output_shares,
    parses_as_python,
    scores_by_setting,
)
from opendllm.plugins.benchmarks import SantacoderFimOptions
from opendllm.registries.benchmarks import (
    DEFAULT_SETTING,
    Answer,
    Benchmark,
    BenchmarkContext,
    GeneratedText,
    GenerationRequest,
    Scores,
)
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap

SOURCE = ProblemSource(
    "bigcode/santacoder-fim-task",
    "train",
    "benchmark.jsonl of https://github.com/arjunguha/santacoder_fim_benchmark",
)
FIELDS = ("name", "language", "prompt", "suffix", "canonical_solution")
STOP = ("<|endoftext|>", "<|filename|>")
"""Of bigcode-evaluation-harness, tasks/santacoder_fim.py."""
NOTES = {
    "open-dllm": "prompts end with a newline, as Open-dLLM, Qwen2.5-Coder and DreamOn give them",
    "santacoder": "prompts as published, cut at the stop tokens of bigcode-evaluation-harness",
}


@dataclass(frozen=True)
class Problem:
    """A program with one of its lines taken out."""

    task_id: str
    language: str
    prompt: str
    suffix: str
    line: str


class SantacoderFim(Benchmark):
    """Exact match with the hidden line: of the whole answer, and of its first line.

    `exact_match` is the original's and bigcode-evaluation-harness's, `exact_match_first_line` that of
    Open-dLLM, Qwen2.5-Coder and DreamOn (which only look at Python).
    """

    accepts = frozenset({"written", "completion", "solution"})

    def __init__(self, options: SantacoderFimOptions) -> None:
        self._options = options
        self._problems: dict[str, Problem] = {}
        settings = [setting_of(length) for length in options.lengths]
        self.headline = tuple(
            metric_name(metric, setting)
            for metric in ("exact_match", "exact_match_first_line")
            for setting in (DEFAULT_SETTING, *shown_settings(settings))
        )
        self.lower_is_better = lower_is_better(settings)

    def requests(self, context: BenchmarkContext) -> Sequence[GenerationRequest]:
        """Every hidden line of the languages, asked at each length."""
        rows = read_problems(self._options.problems, SOURCE, FIELDS)
        problems = [_problem(row) for row in rows if row["language"] in self._options.languages]
        if not problems:
            known = ", ".join(sorted({str(row["language"]) for row in rows}))
            wanted = ", ".join(self._options.languages)
            raise UserError(f"benchmark santacoder-fim: no problems in {wanted}, only in {known}")
        self._problems = {problem.task_id: problem for problem in problems[: context.limit]}
        settings = [setting_of(length) for length in self._options.lengths]
        return [
            request
            for problem in self._problems.values()
            for request in asked_or_failed(problem.task_id, settings, partial(self._requests, problem))
        ]

    def score(self, answers: Sequence[Answer]) -> Scores:
        """Both matches of every setting, over all languages and, of several, of each."""
        texts = [answer for answer in answers if isinstance(answer, GeneratedText)]
        values = {
            "exact_match": mean_by_task(texts, self._matches),
            "exact_match_first_line": mean_by_task(texts, self._first_line_matches),
            **output_shares(texts, self._parses if self._options.languages == ("py",) else None),
        }
        asked_here = any(answer.form == "written" for answer in texts)
        scores = scores_by_setting(values, [NOTES[self._options.protocol]] if asked_here else [])
        if len(self._options.languages) == 1:
            return scores
        metrics = dict(scores.metrics)
        for language in self._options.languages:
            of_language = {
                f"{name}_{language}": {
                    setting: self._only(language, by_task) for setting, by_task in by_setting.items()
                }
                for name, by_setting in values.items()
                if name.startswith("exact_match")
            }
            metrics |= scores_by_setting(of_language).metrics
        return Scores(metrics, scores.per_task, scores.notes)

    def quick_score(self, answer: Answer) -> float | None:
        """Whether the whole answer matches."""
        return float(self._matches(answer)) if isinstance(answer, GeneratedText) else None

    def task_of(self, given: str) -> str:
        """LANGUAGE/NAME; of one language its name alone will do, or its number, as Open-dLLM has it."""
        if len(self._options.languages) > 1 or given in self._problems:
            return given
        if given.isdecimal() and int(given) < len(self._problems):
            return list(self._problems)[int(given)]
        return f"{self._options.languages[0]}/{given}"

    def _requests(self, problem: Problem) -> list[GenerationRequest]:
        return at_each_length(self._request(problem), self._options.lengths)

    def _request(self, problem: Problem) -> GenerationRequest:
        if self._options.protocol == "santacoder":
            return GenerationRequest(
                problem.task_id, Gap(problem.prompt, problem.suffix), problem.line, stop=STOP
            )
        return GenerationRequest(problem.task_id, Gap(problem.prompt + "\n", problem.suffix), problem.line)

    def _only(self, language: str, by_task: Mapping[str, float]) -> dict[str, float]:
        return {task: value for task, value in by_task.items() if self._problems[task].language == language}

    def _matches(self, answer: GeneratedText) -> bool:
        problem = self._problems[answer.task_id]
        return _middle(answer, problem).strip() == problem.line.strip()

    def _first_line_matches(self, answer: GeneratedText) -> bool:
        problem = self._problems[answer.task_id]
        return _first_line(_middle(answer, problem)).strip() == problem.line.strip()

    def _parses(self, answer: GeneratedText) -> bool:
        problem = self._problems[answer.task_id]
        middle = _middle(answer, problem).strip("\n")
        return parses_as_python(f"{problem.prompt}\n{middle}\n{problem.suffix}")


def _problem(row: Mapping[str, str]) -> Problem:
    return Problem(
        task_id=f"{row['language']}/{row['name']}",
        language=row["language"],
        prompt=row["prompt"],
        suffix=row["suffix"],
        line=row["canonical_solution"],
    )


def _middle(answer: GeneratedText, problem: Problem) -> str:
    """What stands between prompt and suffix; all of a solution that has kept neither."""
    text = answer.text
    if answer.form != "solution":
        return text
    kept = text.startswith(problem.prompt) and text[len(problem.prompt) :].endswith(problem.suffix)
    return text[len(problem.prompt) : len(text) - len(problem.suffix)] if kept else text


def _first_line(text: str) -> str:
    """The first line, or the second where nothing but one space stands on the first."""
    lines = text.split("\n")
    return lines[1] if text.startswith(("\n", " \n")) else lines[0]

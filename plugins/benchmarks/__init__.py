"""Benchmarks: names, options and where each is implemented."""

from collections.abc import Sequence
from typing import Literal

from pydantic import ConfigDict, Field, PositiveInt

from opendllm.core.scoring.infilling_lengths import STANDARD_LENGTHS, Length
from opendllm.plugins.benchmarks import planned_sizes
from opendllm.registries import (
    BenchmarkOptions,
    ManifestPath,
    PlannedLikelihoods,
    PlannedRequests,
    ProblemFileOptions,
    Register,
)

HERE = "opendllm.plugins.benchmarks"


class PerplexityOptions(BenchmarkOptions):
    """Options of held-out perplexity."""

    @property
    def only_likelihoods(self) -> bool:
        """It is one."""
        return True

    documents: int = Field(48, ge=1, description="How many held-out documents are scored.")

    def planned_requests(self) -> Sequence[PlannedRequests] | None:
        """See `BenchmarkOptions.planned_requests`."""
        return [PlannedLikelihoods(self.documents, at_most=True)]


class StdlibInfillingOptions(BenchmarkOptions):
    """Options of the standard-library infilling benchmark."""

    problems: int = Field(48, ge=1, description="How many functions are asked for.")
    fixed_lengths: tuple[int, ...] = Field(
        (8, 16),
        description="Besides the oracle length, hidden lines are asked for at these lengths, in tokens.",
    )
    context_lines: int = Field(
        4, ge=1, description="At most so many lines of the function on either side of the hidden one."
    )

    def planned_requests(self) -> Sequence[PlannedRequests] | None:
        """See `BenchmarkOptions.planned_requests`."""
        return planned_sizes.at_lengths(
            planned_sizes.stdlib_infilling(self.problems, self.context_lines),
            ("oracle", *self.fixed_lengths),
        )


class RunOptions(BenchmarkOptions):
    """Options of a benchmark that runs what the model wrote."""

    memory_gib: float = Field(
        4.0, gt=0, description="Address space of a program, in GiB; one that needs more fails."
    )
    pass_at: tuple[PositiveInt, ...] = Field(
        (1, 10, 100),
        min_length=1,
        description="The k of pass@k; those with more than every task's samples are left out.",
    )


class ProgramOptions(RunOptions, ProblemFileOptions):
    """Options of such a benchmark whose problems are published as a file."""


def _chat_issue(protocol: str) -> str | None:
    if protocol == "instruct":
        return None
    return (
        f"protocol {protocol} lets a program be gone on with, and a chat answers in words and fences, which "
        f"are no program: set `protocol: instruct`"
    )


class SyntheticFunctionsOptions(RunOptions):
    """Options of the benchmark of made-up functions."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"problems": 8}]})

    problems: int = Field(64, ge=1, description="How many functions are asked for, those of one step first.")
    most_steps: Literal[1, 2] = Field(2, description="How many steps a function may have.")
    training_split: Literal["train", "held-out"] = Field(
        "train", description="The functions that it gives as problems to `train.rl`; those to its `held_out`."
    )
    timeout: float = Field(3.0, gt=0, description="Seconds that a program and its tests may take.")

    @property
    def chat_issue(self) -> str | None:
        """See `BenchmarkOptions.chat_issue`."""
        return "a chat answers its functions instead of going on with them"

    def planned_requests(self) -> Sequence[PlannedRequests] | None:
        """See `BenchmarkOptions.planned_requests`."""
        return [planned_sizes.synthetic_functions(self.problems, self.most_steps)]


class AssertionOptions(ProgramOptions):
    """Options of a benchmark whose tests assert."""

    timeout: float = Field(
        3.0,
        gt=0,
        description="Seconds that a program and its tests may take; 4 times what the published solution "
        "takes, where that is longer.",
    )


class HumanEvalOptions(AssertionOptions):
    """Options of HumanEval."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"problems": "humaneval.jsonl"},
                {"problems": "humaneval.jsonl", "protocol": "open-dllm"},
                {"problems": "humaneval.jsonl", "protocol": "instruct"},
            ]
        }
    )

    protocol: Literal["openai", "open-dllm", "instruct"] = Field(
        "openai",
        description="How answers become programs: after the prompt, or through EvalPlus's sanitizer, too; or "
        "problems are put as instructions, and programs taken out of the code that answers them, for `chat`.",
    )

    @property
    def chat_issue(self) -> str | None:
        """See `BenchmarkOptions.chat_issue`."""
        return _chat_issue(self.protocol)

    def planned_requests(self) -> Sequence[PlannedRequests] | None:
        """See `BenchmarkOptions.planned_requests`."""
        return None if self.problems else [planned_sizes.HUMANEVAL]


class MbppOptions(AssertionOptions):
    """Options of MBPP."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"problems": "mbpp.jsonl"},
                {"problems": "mbpp.jsonl", "protocol": "open-dllm"},
                {"problems": "mbpp.jsonl", "protocol": "instruct"},
            ]
        }
    )

    protocol: Literal["docstring", "open-dllm", "instruct"] = Field(
        "docstring",
        description="How tasks are put: as a docstring with its tests, as Open-dLLM did, before a fence, or, "
        "for `chat`, as instructions.",
    )
    tasks: Literal["test", "all"] = Field(
        "test", description="The test split (tasks 11 to 510), or every task of the file."
    )

    @property
    def chat_issue(self) -> str | None:
        """See `BenchmarkOptions.chat_issue`."""
        return _chat_issue(self.protocol)

    def planned_requests(self) -> Sequence[PlannedRequests] | None:
        """See `BenchmarkOptions.planned_requests`."""
        if self.problems:
            return None
        return [planned_sizes.MBPP_TEST if self.tasks == "test" else planned_sizes.MBPP_ALL]


class MbppSanitizedOptions(MbppOptions):
    """Options of sanitized MBPP."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"problems": "mbpp-sanitized.jsonl"}]})

    def planned_requests(self) -> Sequence[PlannedRequests] | None:
        """See `BenchmarkOptions.planned_requests`."""
        if self.problems:
            return None
        return [
            planned_sizes.MBPP_SANITIZED_TEST if self.tasks == "test" else planned_sizes.MBPP_SANITIZED_ALL
        ]


class DifferentialOptions(ProgramOptions):
    """Options of EvalPlus's benchmarks."""

    problems: ManifestPath | None = Field(
        None,
        description="File of its problems: JSON lines, as they are or packed by gzip, bzip2, xz or zstd; "
        "by default through the package evalplus where it is installed, else from the Hugging Face hub.",
    )
    min_time_limit: float = Field(
        4.0, gt=0, description="Seconds that a call may take at least (1 in EvalPlus 0.3.1, 4 in later ones)."
    )
    gt_time_limit_factor: float = Field(
        4.0, gt=0, description="A call may take so many times what the published solution takes."
    )
    protocol: Literal["evalplus", "open-dllm", "instruct"] = Field(
        "evalplus",
        description="Whose prompts and stop strings: EvalPlus's for base models, Open-dLLM's, or, for "
        "`chat`, EvalPlus's for instruct models.",
    )

    @property
    def chat_issue(self) -> str | None:
        """See `BenchmarkOptions.chat_issue`."""
        return _chat_issue(self.protocol)


class HumanEvalPlusOptions(DifferentialOptions):
    """Options of HumanEval+."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"problems": "humaneval-plus.jsonl"},
                {"problems": "humaneval-plus.jsonl", "protocol": "open-dllm"},
                {"problems": "humaneval-plus.jsonl", "protocol": "instruct"},
            ]
        }
    )

    def planned_requests(self) -> Sequence[PlannedRequests] | None:
        """See `BenchmarkOptions.planned_requests`."""
        return None if self.problems else [planned_sizes.HUMANEVAL]


class MbppPlusOptions(DifferentialOptions):
    """Options of MBPP+."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"problems": "mbpp-plus.jsonl"}]})

    @property
    def chat_issue(self) -> str | None:
        """Open-dLLM's prompt ends where code begins, and its programs are taken out of fences."""
        return None if self.protocol == "open-dllm" else super().chat_issue

    def planned_requests(self) -> Sequence[PlannedRequests] | None:
        """See `BenchmarkOptions.planned_requests`."""
        return None if self.problems else [planned_sizes.MBPP_PLUS[self.protocol]]


class HumanEvalInfillingOptions(AssertionOptions):
    """Options of HumanEval infilling."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"problems": "humaneval-infilling.jsonl"}]})

    subset: Literal["single-line", "multi-line", "random-span", "random-span-light"] = Field(
        "single-line", description="What is hidden: one line, several, or any span of characters."
    )
    lengths: tuple[Length, ...] = Field(
        STANDARD_LENGTHS,
        min_length=1,
        description="The lengths to ask at, in tokens; `oracle` is the hidden text's own.",
    )

    def planned_requests(self) -> Sequence[PlannedRequests] | None:
        """See `BenchmarkOptions.planned_requests`."""
        if self.problems:
            return None
        return planned_sizes.at_lengths(planned_sizes.humaneval_infilling(self.subset), self.lengths)


class SantacoderFimOptions(ProblemFileOptions):
    """Options of SantaCoder's fill-in-the-middle benchmark."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"problems": "santacoder-fim.jsonl"},
                {"problems": "santacoder-fim.jsonl", "protocol": "santacoder"},
            ]
        }
    )

    languages: tuple[Literal["py", "js", "java"], ...] = Field(
        ("py",), min_length=1, description="Which of its languages are asked."
    )
    lengths: tuple[Length, ...] = Field(
        STANDARD_LENGTHS,
        min_length=1,
        description="The lengths to ask at, in tokens; `oracle` is the hidden line's own.",
    )
    protocol: Literal["open-dllm", "santacoder"] = Field(
        "open-dllm", description="How prompts are put: with a newline at their end, or as published."
    )

    def planned_requests(self) -> Sequence[PlannedRequests] | None:
        """See `BenchmarkOptions.planned_requests`."""
        if self.problems:
            return None
        problems = [planned_sizes.SANTACODER[language] for language in self.languages]
        return [texts for each in problems for texts in planned_sizes.at_lengths(each, self.lengths)]


class LmEvalOptions(BenchmarkOptions):
    """Options of the tasks of lm-evaluation-harness."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"task": "addition", "folder": "tasks"}]})

    task: str = Field(description="Name of a task or group, as `lm_eval ls tasks` lists them.")
    folder: ManifestPath | None = Field(
        None,
        description="Folder of task files in YAML, to look for the task there only; the functions that they "
        "name are run.",
    )
    num_fewshot: int | None = Field(
        None, ge=0, description="Examples in each prompt; by default the task's own number."
    )
    system_instruction: str | None = Field(
        None, min_length=1, description="What stands before each prompt; with `chat`, as the system's turn."
    )
    fewshot_as_multiturn: bool = Field(
        True,
        description="With `chat`, whether the examples are turns of their own, or part of the user's one.",
    )


def register_all(register: Register) -> None:
    """Register every built-in benchmark."""
    register(
        "humaneval",
        options=HumanEvalOptions,
        target=f"{HERE}.humaneval:HumanEval",
        summary="164 Python functions from their docstrings; pass@k of OpenAI's own tests",
    )
    register(
        "humaneval-plus",
        options=HumanEvalPlusOptions,
        target=f"{HERE}.evalplus:HumanEvalPlus",
        summary="HumanEval with EvalPlus's many more tests and its way of comparing",
    )
    register(
        "humaneval-infilling",
        options=HumanEvalInfillingOptions,
        target=f"{HERE}.humaneval_infilling:HumanEvalInfilling",
        summary="fill in a hidden part of HumanEval's solutions; pass@k of the function's tests",
    )
    register(
        "mbpp",
        options=MbppOptions,
        target=f"{HERE}.mbpp:Mbpp",
        summary="500 basic Python tasks, each with three asserts; pass@k",
    )
    register(
        "mbpp-sanitized",
        options=MbppSanitizedOptions,
        target=f"{HERE}.mbpp:MbppSanitized",
        summary="the tasks of MBPP that its authors checked by hand; pass@k",
    )
    register(
        "mbpp-plus",
        options=MbppPlusOptions,
        target=f"{HERE}.evalplus:MbppPlus",
        summary="MBPP with EvalPlus's many more tests and its way of comparing",
    )
    register(
        "lm-eval",
        options=LmEvalOptions,
        target=f"{HERE}.lm_eval_task:LmEvalTask",
        summary="any task of lm-evaluation-harness, by name or from a folder of YAML files",
    )
    register(
        "perplexity",
        options=PerplexityOptions,
        target=f"{HERE}.perplexity:Perplexity",
        summary="ELBO of held-out documents, in nats a token and bits a byte",
    )
    register(
        "santacoder-fim",
        options=SantacoderFimOptions,
        target=f"{HERE}.santacoder_fim:SantacoderFim",
        summary="fill in a hidden line of a Python, JavaScript or Java program; exact match",
    )
    register(
        "synthetic-functions",
        options=SyntheticFunctionsOptions,
        target=f"{HERE}.synthetic_functions:SyntheticFunctions",
        summary="small made-up Python functions from their docstrings; pass@k, and others to train on",
    )
    register(
        "stdlib-infilling",
        options=StdlibInfillingOptions,
        target=f"{HERE}.stdlib_infilling:StdlibInfilling",
        summary="fill in a hidden line of a held-out standard-library function",
    )

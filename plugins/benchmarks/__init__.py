"""Benchmarks: names, options and where each is implemented."""

from typing import Literal

from pydantic import ConfigDict, Field

from opendllm.core.toolkit.infilling_lengths import STANDARD_LENGTHS, Length
from opendllm.registries import PluginOptions, ProblemFileOptions, Register

HERE = "opendllm.plugins.benchmarks"


class PerplexityOptions(PluginOptions):
    """Options of held-out perplexity."""

    documents: int = Field(48, ge=1, description="How many held-out documents are scored.")


class StdlibInfillingOptions(PluginOptions):
    """Options of the standard-library infilling benchmark."""

    problems: int = Field(48, ge=1, description="How many functions are asked for.")
    fixed_lengths: tuple[int, ...] = Field(
        (8, 16),
        description="Besides the oracle length, hidden lines are asked for at these lengths, in tokens.",
    )
    context_lines: int = Field(
        4, ge=1, description="At most so many lines of the function on either side of the hidden one."
    )


class SantacoderFimOptions(ProblemFileOptions):
    """Options of SantaCoder's fill-in-the-middle benchmark."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"problems": "santacoder-fim.jsonl"}]})

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


def register_all(register: Register) -> None:
    """Register every built-in benchmark."""
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
        "stdlib-infilling",
        options=StdlibInfillingOptions,
        target=f"{HERE}.stdlib_infilling:StdlibInfilling",
        summary="fill in a hidden line of a held-out standard-library function",
    )

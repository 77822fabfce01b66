"""Benchmarks: names, options and where each is implemented."""

from pydantic import Field

from opendllm.registries import PluginOptions, Register

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


def register_all(register: Register) -> None:
    """Register every built-in benchmark."""
    register(
        "perplexity",
        options=PerplexityOptions,
        target=f"{HERE}.perplexity:Perplexity",
        summary="ELBO of held-out documents, in nats a token and bits a byte",
    )
    register(
        "stdlib-infilling",
        options=StdlibInfillingOptions,
        target=f"{HERE}.stdlib_infilling:StdlibInfilling",
        summary="fill in a hidden line of a held-out standard-library function",
    )

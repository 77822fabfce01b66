"""What a benchmark asks and what it wants, as texts: for looking whether a model was trained on them."""

from __future__ import annotations

from opendllm.registries.benchmarks import Benchmark, BenchmarkContext, GenerationRequest


def problem_texts(benchmark: Benchmark, context: BenchmarkContext) -> dict[str, str]:
    """Task -> prompt, reference and suffix, or the text whose likelihood is asked for.

    Raises:
        UserError: the benchmark's problems can't be had.
    """
    texts: dict[str, str] = {}
    for request in benchmark.requests(context):
        if isinstance(request, GenerationRequest):
            gap = request.gap
            text = "".join(filter(None, (gap.prefix, request.reference, gap.suffix)))
        else:
            text = (request.context or "") + request.text
        if len(text) > len(texts.get(request.task_id, "")):
            texts[request.task_id] = text
    return texts

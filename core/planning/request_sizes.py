"""What the benchmarks of a manifest ask, in tokens."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.registries.benchmarks import (
    Benchmark,
    BenchmarkContext,
    GenerationRequest,
    LikelihoodRequest,
    Request,
)
from opendllm.registries.errors import PluginError
from opendllm.registries.options import BenchmarkOptions, PluginOptions, ProblemFileOptions
from opendllm.registries.planned_requests import PlannedLikelihoods, PlannedRequests, PlannedTexts
from opendllm.registries.plugin_calls import Blame
from opendllm.registries.registry import ChosenPlugin

MOST_CHARACTERS_A_TOKEN = 3.5
"""Of a published vocabulary, on code."""


def requests_of(variant: Variant, index: int, ask: bool) -> Sequence[PlannedRequests] | None:
    """What an entry of `evaluate` asks; None where only its problems can tell.

    Args:
        variant: whose entry.
        index: which one.
        ask: whether the benchmark may be loaded and asked, which may download its problems; one whose
            problems lie in a file of this machine is in any case.

    Raises:
        UserError: the benchmark can't ask.
    """
    chosen = variant.plugins.evaluations[index].benchmark
    options = chosen.options
    if not ask:
        found = _told(chosen, options) if isinstance(options, BenchmarkOptions) else None
        if found is not None:
            return found
        if not (isinstance(options, ProblemFileOptions) and options.problems):
            return None
    return _alike(chosen.build().requests(_context(variant, index)))


def tokens_of(characters: float, vocab_size: int) -> int:
    """About how many tokens so many characters of code are.

    Byte-level BPE of so many entries, trained on Python's standard library and counted on held-out files of
    it: 1.6 characters a token with 320, 2.1 with 512, 2.5 with 1,024, 3.3 with 4,096.
    """
    merged = math.log2(max(vocab_size, 257) / 256)
    a_token: float = min(MOST_CHARACTERS_A_TOKEN, 1 + 1.05 * merged**0.55)
    return math.ceil(characters / a_token)


def _told(
    chosen: ChosenPlugin[Benchmark, PluginOptions], options: BenchmarkOptions
) -> Sequence[PlannedRequests] | None:
    """What a benchmark's options say.

    Raises:
        PluginError: they fail, or give something else.
    """
    owner = chosen.registration.owner
    with Blame(owner, "planned_requests"):
        found = options.planned_requests()
    for each in found or ():
        if not isinstance(each, PlannedTexts | PlannedLikelihoods) or each.count < 0:
            raise PluginError(
                f"{owner}: planned_requests gave {each!r}: give PlannedTexts, PlannedLikelihoods"
            )
    return found


def _context(variant: Variant, index: int) -> BenchmarkContext:
    from opendllm.core.data.sources import held_out_documents

    manifest = variant.manifest
    return BenchmarkContext(
        None,
        manifest.evaluate[index].problem_seed,
        manifest.data.sequence_length if manifest.data else 1 << 20,
        lambda: held_out_documents(variant.plugins.built_corpora()),
    )


def _alike(requests: Sequence[Request]) -> list[PlannedRequests]:
    """Those of one setting and length, together."""
    texts: dict[tuple[str, int | None], list[GenerationRequest]] = defaultdict(list)
    likelihoods: dict[str, list[LikelihoodRequest]] = defaultdict(list)
    for request in requests:
        if isinstance(request, GenerationRequest):
            texts[request.setting, request.gap.length].append(request)
        else:
            likelihoods[request.setting].append(request)
    found: list[PlannedRequests] = []
    for (_, length), alike in texts.items():
        references = [len(each.reference or "") for each in alike if each.oracle_length]
        found.append(
            PlannedTexts(
                len(alike),
                fmean(len(each.gap.prefix) for each in alike),
                fmean(len(each.gap.suffix or "") for each in alike),
                length,
                fmean(references) if references else None,
            )
        )
    for asked in likelihoods.values():
        found.append(
            PlannedLikelihoods(
                len(asked),
                fmean(len(each.context or "") + len(each.text) for each in asked),
                fmean(len(each.text) if each.greedy else 0 for each in asked),
            )
        )
    return found

"""What a benchmark's answers as a whole say of how they were asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from opendllm.core.foundation.sample_records import SampleKey, SampleRecord
from opendllm.registries.benchmarks import GeneratedText, GenerationRequest, Request


def same_answers(records: Sequence[SampleRecord]) -> Iterator[str]:
    """Whether no request has two different answers, so that several told no more than one."""
    texts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in records:
        if isinstance(record.answer, GeneratedText) and record.failure is None:
            texts[record.key[:2]].append(record.answer.text)
    several = [found for found in texts.values() if len(found) > 1]
    if several and all(len(set(found)) == 1 for found in several):
        yield (
            f"the {max(map(len, several))} answers to each request are all the same, so pass@k is the same "
            f"for every k: is the temperature 0?"
        )


def cut_short(
    wanted: Mapping[SampleKey, Request], records: Mapping[SampleKey, SampleRecord], max_new_tokens: int
) -> Iterator[str]:
    """Whether most answers hadn't ended after `max_new_tokens`: what is scored is then their beginnings.

    Args:
        wanted: what was asked; a gap, or what has a length of its own, doesn't count.
        records: the answers on file.
        max_new_tokens: how much was written of the others.
    """
    whole = [
        records[key]
        for key, request in wanted.items()
        if isinstance(request, GenerationRequest)
        and request.gap.suffix is None
        and request.gap.length is None
        and not request.oracle_length
    ]
    cut = sum(isinstance(each.answer, GeneratedText) and each.answer.ended is False for each in whole)
    if cut and 2 * cut >= len(whole):
        yield (
            f"{cut} of {len(whole)} answers hadn't ended after {max_new_tokens} tokens, and are scored as "
            f"they are: if the model ends its texts at all, raise max_new_tokens"
        )

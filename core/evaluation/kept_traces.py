"""traces/BENCHMARK.json: how one of a benchmark's answers came to be, for the report to play."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opendllm.core.decoding.text import SeededGap, write
from opendllm.core.decoding.tracing import spellings
from opendllm.core.evaluation.answering import Asked, answer_seed, gap_of
from opendllm.core.foundation.atomic_files import write_text
from opendllm.core.foundation.decoding_traces import DecodingTrace, trace_text
from opendllm.core.foundation.json_objects import read_json_object
from opendllm.core.foundation.sample_records import SampleKey
from opendllm.registries.benchmarks import GenerationRequest
from opendllm.registries.errors import UserError

TRACES_A_VARIANT = 2
"""Of its first benchmarks that ask for texts: a trace decodes one answer once more, alone."""


@dataclass(frozen=True)
class TraceWanted:
    """An answer that is to be decoded once more.

    Attributes:
        path: of the trace's file.
        key: of the answer.
        request: that it answers.
        digest: of the settings and the checkpoint it was made with.
        settings: what the trace says of them.
    """

    path: Path
    key: SampleKey
    request: GenerationRequest
    digest: str
    settings: Mapping[str, Any]


def keep_trace(asked: Asked, wanted: TraceWanted) -> None:
    """Decode the answer again and write what each step did, unless that is on file."""
    if _is_on_file(wanted):
        return
    replica = asked.replicas[0]
    replica.lm.module.eval()
    gap = gap_of(asked, replica, wanted.request)
    seeded = [SeededGap(gap, answer_seed(asked.seed, wanted.key))]
    options = asked.options.model_copy(update={"compile": False})
    written = next(
        each for _, each in write(replica.lm, replica.codec, seeded, replica.sampler, options, 1, True)
    )
    assert written.row_trace is not None
    task_id, setting, _ = wanted.key
    used = {token for canvas in written.trace for token in canvas}
    trace = DecodingTrace(
        prompt=wanted.request.gap.prefix,
        suffix=gap.suffix,
        text=written.text,
        sampler=str(wanted.settings["sampler"]["name"]),
        mask_token_id=replica.lm.mask_token_id,
        vocabulary=spellings(replica.tokenizer.decode, used),
        forward_passes=written.forward_passes,
        row=written.row_trace,
        options={**wanted.settings["decoder"], **wanted.settings["sampler"].get("options", {})},
        task_id=task_id,
        setting=setting,
    )
    wanted.path.parent.mkdir(parents=True, exist_ok=True)
    write_text(wanted.path, trace_text(replace(trace, digest=wanted.digest)))


def _is_on_file(wanted: TraceWanted) -> bool:
    try:
        return read_json_object(wanted.path).get("digest") == wanted.digest
    except UserError:
        return False

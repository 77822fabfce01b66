"""`batch_size: auto`: as many rows as the memory of the model's device holds, said before the first pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from opendllm.core.decoding.batch_memory import LOGIT_BYTES, ROWS_ON_A_CPU, rows_by_memory
from opendllm.core.decoding.compiled_shapes import ROW_LENGTH_MULTIPLE, round_up
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.proposer import LOGITS_AT_ONCE
from opendllm.core.foundation.notices import tell_once
from opendllm.core.planning.forward_costs import Loaded
from opendllm.registries.architecture import Sizes
from opendllm.registries.backbones import DiffusionLM


def automatic_rows(
    lm: DiffusionLM, sizes: Sizes | None, options: DecoderOptions, lengths: Sequence[int]
) -> int:
    """How many rows to write side by side; changes no result.

    On a GPU by its free memory, and by what the longest row takes at most: its keys and values, the states of
    a pass that reads all of it, and the logits of a chunk of positions in float32 with what a draw needs. On
    a CPU, and of a model whose sizes nobody knows, a fixed number.

    Args:
        lm: the model, loaded.
        sizes: of its architecture; None where the backbone doesn't tell.
        options: the decoder's.
        lengths: of the rows, gaps and all; there is one at least.
    """
    devices = {parameter.device for parameter in lm.module.parameters()}
    gpus = [device for device in devices if device.type == "cuda"]
    if not gpus:
        return min(len(lengths), ROWS_ON_A_CPU)
    free = min(free_bytes(device) for device in gpus)
    number = max(parameter.element_size() for parameter in lm.module.parameters())
    # Canvases of compiled passes are padded.
    longest = round_up(max(lengths), ROW_LENGTH_MULTIPLE) if options.compile else max(lengths)
    fixed, keys, states = row_bytes(lm, sizes, number, options, longest)
    if states is None:
        rows = min(len(lengths), ROWS_ON_A_CPU)
        tell_once(f"decoding: batch_size {rows}, since the model doesn't tell its sizes")
        return rows
    a_row = keys // len(gpus) + states
    rows = rows_by_memory(len(lengths), free, fixed, a_row)
    tell_once(
        f"decoding: batch_size {rows}, of {len(lengths)} texts: {free / 2**30:.1f} GiB are free, and a row "
        f"of {longest} tokens takes up to {a_row / 2**20:,.0f} MiB"
    )
    return rows


def row_bytes(
    lm: DiffusionLM, sizes: Sizes | None, number: int, options: DecoderOptions, length: int
) -> tuple[int, int, int | None]:
    """Bytes: (of logits, however many rows there are; of a row's keys and values; of its states, None where
    nobody knows).

    Args:
        lm: the model.
        sizes: see `automatic_rows`.
        number: bytes of an activation.
        options: the decoder's.
        length: positions of a row.
    """
    logits = LOGITS_AT_ONCE["cuda"] * (LOGIT_BYTES + (number if number < 4 else 0))
    loaded = None if sizes is None else Loaded(sizes, number)
    activations = None if loaded is None else loaded.activations(length)
    if loaded is None or activations is None:
        return logits, 0, None
    exact = lm.attention.kind != "bidirectional" and lm.supports_kv_cache
    keeps_keys = exact or options.cache != "none"
    canvases = 2 if options.guidance_scale > 0 else 1
    keys = canvases * loaded.keys_values(length + 1) if keeps_keys else 0
    return logits, keys, activations


def free_bytes(device: torch.device) -> int:
    """Of a GPU, what nobody has and what this process's allocator has for itself."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)

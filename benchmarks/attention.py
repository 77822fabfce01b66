"""Flex attention against a dense mask, for packed rows and for block diffusion, on a GPU.

    python benchmarks/attention.py [--length 4096] [--rows 4]

The same model and rows both ways, alternating in one process: the largest difference of the
log-likelihoods, milliseconds of forward and backward pass (median), and peak memory.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

import torch

from opendllm.core.toolkit import attention
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.segments import document_positions
from opendllm.plugins.backbones.presets import LLADA
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.objectives import Corruption
from opendllm.registries.sequences import TokenRows

SIZES = {"d_model": 1024, "mlp_hidden_size": 2816, "n_layers": 8, "n_heads": 16, "n_kv_heads": 16}
VOCABULARY = Vocabulary(size=32000, mask_token_id=31999, eos_token_id=0)
REPEATS = 5


def make_lm(**options: object) -> DiffusionLM:
    """A LLaDA of about 150 million parameters, in bfloat16 on the GPU."""
    LLADA["nano"].update(SIZES, max_sequence_length=1 << 20)
    torch.manual_seed(0)
    lm = installed_plugins().backbones.get("llada").build(options).build(VOCABULARY)
    frequencies = {name: buffer.clone() for name, buffer in lm.module.named_buffers()}
    lm.module.to("cuda", torch.bfloat16)
    for name, buffer in lm.module.named_buffers():
        buffer.data = frequencies[name].to("cuda")
    return lm


def corrupted(lm: DiffusionLM, objective: str, rows: int, length: int) -> Corruption:
    """Packed documents of about 500 tokens, corrupted as the objective does."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.rand(rows, length, generator=generator) < 1 / 500
    segments = starts.long().cumsum(-1).cuda()
    tokens = torch.randint(1, 31999, (rows, length), generator=generator).cuda()
    index = torch.arange(rows).cuda()
    batch = TokenRows(tokens, segments, document_positions(segments), torch.ones_like(tokens).bool(), index)
    batch = replace(batch, blocks=lm.attention.blocks(batch.positions))
    plugins = installed_plugins()
    schedule = plugins.noise_schedules.get("linear").build()
    chosen = plugins.objectives.get(objective).build()
    masking = chosen.mask(batch, AddressedNoise(0, batch, rows), schedule)
    return chosen.corrupt(masking, schedule, lm.mask_token_id)


def run(lm: DiffusionLM, corruption: Corruption, flex: bool) -> tuple[torch.Tensor, float, float]:
    """(log-likelihoods, milliseconds, peak GiB) of one forward and backward pass."""
    attention.FLEX_FROM_LENGTH = 256 if flex else 1 << 30
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    nll = lm.negative_log_likelihood(corruption.inputs, corruption.targets, corruption.scored)
    nll.mean().backward()
    end.record()
    torch.cuda.synchronize()
    lm.module.zero_grad()
    return nll.detach(), begin.elapsed_time(end), torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=4)
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {arguments}")
    for objective, options in (
        ("llada", {}),
        ("bd3lm", {"attention": "block-causal", "block_length": 32}),
    ):
        lm = make_lm(**options)
        corruption = corrupted(lm, objective, arguments.rows, arguments.length)
        for flex in (True, False):
            run(lm, corruption, flex)
        found = [[run(lm, corruption, flex) for flex in (True, False)] for _ in range(REPEATS)]
        difference = (found[0][0][0] - found[0][1][0]).abs().max()
        (flex_ms, dense_ms) = (statistics.median(pair[side][1] for pair in found) for side in (0, 1))
        (flex_memory, dense_memory) = (found[0][side][2] for side in (0, 1))
        print(
            f"{objective:6} flex {flex_ms:7.1f} ms {flex_memory:5.2f} GiB   dense {dense_ms:7.1f} ms "
            f"{dense_memory:5.2f} GiB   {dense_ms / flex_ms:.2f}x faster, "
            f"{dense_memory / flex_memory:.2f}x less memory, largest difference {difference:.3g} nats"
        )


if __name__ == "__main__":
    main()

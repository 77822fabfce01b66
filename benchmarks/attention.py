"""Variable-length kernels, flex attention and a dense mask, for packed rows and block diffusion, on a GPU.

    python benchmarks/attention.py [--length 4096] [--rows 4] [--document 500]

The same model and rows each way, alternating in one process: the largest difference of the
log-likelihoods from the dense mask's, milliseconds of forward and backward pass (median), peak memory.
`--document` is the documents' mean length in tokens. Each variable-length kernel that is installed takes its
turn, but one that computes a small case wrong; they cannot say what block diffusion needs.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

import torch

from opendllm.core.networks import attention, segment_kernels, varlen_kernels
from opendllm.core.networks.varlen_kernels import VarlenKernel
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


def corrupted(lm: DiffusionLM, objective: str, rows: int, length: int, document: int) -> Corruption:
    """Packed documents of about so many tokens, corrupted as the objective does."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.rand(rows, length, generator=generator) < 1 / document
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


def installed() -> dict[str, VarlenKernel]:
    """The variable-length kernels that are here and compute right, by name."""
    found = {}
    shape = SIZES["n_heads"], SIZES["n_kv_heads"], SIZES["d_model"] // SIZES["n_heads"]
    for kernel in varlen_kernels.KERNELS:
        try:
            why = varlen_kernels.mistake(kernel.load(), shape, torch.bfloat16, causal=False)
        except ImportError:
            continue
        if why:
            print(f"{kernel.name} {why}")
        else:
            found[kernel.name] = kernel
    return found


VARLEN = installed()


def run(lm: DiffusionLM, corruption: Corruption, kernel: str) -> tuple[torch.Tensor, float, float]:
    """(log-likelihoods, milliseconds, peak GiB) of one forward and backward pass."""
    attention.takes_varlen = lambda query: kernel in VARLEN  # type: ignore[attr-defined]
    if kernel in VARLEN:
        segment_kernels.kernel_for = lambda *_: VARLEN[kernel]  # type: ignore[assignment,attr-defined]
    attention.FLEX_FROM_LENGTH = 256 if kernel == "flex" else 1 << 30
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
    parser.add_argument("--document", type=int, default=500, help="tokens at the mean")
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {arguments}")
    for objective, kernels, options in (
        ("llada", (*VARLEN, "flex", "dense"), {}),
        ("bd3lm", ("flex", "dense"), {"attention": "block-causal", "block_length": 32}),
    ):
        lm = make_lm(**options)
        corruption = corrupted(lm, objective, arguments.rows, arguments.length, arguments.document)
        for kernel in kernels:
            run(lm, corruption, kernel)
        found = [{kernel: run(lm, corruption, kernel) for kernel in kernels} for _ in range(REPEATS)]
        dense = statistics.median(each["dense"][1] for each in found)
        for kernel in kernels:
            milliseconds = statistics.median(each[kernel][1] for each in found)
            difference = (found[0][kernel][0] - found[0]["dense"][0]).abs().max()
            print(
                f"{objective:6} {kernel:26}{milliseconds:7.1f} ms {found[0][kernel][2]:5.2f} GiB  "
                f"{dense / milliseconds:.2f}x as fast as dense, largest difference {difference:.3g} nats"
            )


if __name__ == "__main__":
    main()

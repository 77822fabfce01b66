"""A denoising step of an SDAR-shaped model with its cache, beside a decoding step of transformers' generate.

    python benchmarks/block_decoding.py [--rows 4] [--prompt 256] [--new 64]

Both read the same Qwen3 network with random weights and the same rows, `--block-length` positions a step here
and one there. Also: what a mixture layer takes for one token, by how many experts it has.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.registries.backbones import Vocabulary
from opendllm.registries.discovery import installed_plugins

REPEATS = 3
SIZES: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}


def seconds(work: Callable[[], object]) -> float:
    """The median of some runs, after one that isn't counted."""
    found = []
    for repeat in range(REPEATS + 1):
        start = time.perf_counter()
        work()
        if repeat:
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def main() -> None:
    """Print both, and the mixtures."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rows", 4), ("prompt", 256), ("new", 64), ("block-length", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.manual_seed(0)
    prompts = torch.randint(31000, (given.rows, given.prompt))

    stock = Qwen3ForCausalLM(Qwen3Config(**SIZES)).eval()

    def generate(new: int) -> None:
        stock.generate(
            prompts, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0,
            attention_mask=torch.ones_like(prompts),
        )  # fmt: skip

    one, many = (seconds(lambda new=new: generate(new)) for new in (1, given.new + 1))
    theirs = (many - one) / given.new

    plugins = installed_plugins()
    family = plugins.backbones.get("sdar").build({"block_length": given.block_length})
    family._preset = {**SIZES, "model_type": "sdar"}
    lm = family.build(Vocabulary(SIZES["vocab_size"], 31999, 0))
    lm.module.eval()
    sampler = plugins.samplers.get("block-steps").build({"rule": "static"})

    def denoise(new: int) -> int:
        canvas = torch.cat([prompts, torch.full((given.rows, new), 31999)], dim=1)
        seeds = torch.zeros(given.rows, dtype=torch.int64)
        return int(decode(lm, canvas, None, sampler, DecoderOptions(), seeds).forward_passes.max())

    short = given.block_length
    passes = denoise(given.new + short) - denoise(short)
    ours = (seconds(lambda: denoise(given.new + short)) - seconds(lambda: denoise(short))) / passes
    print(f"transformers' generate, one token a step   {theirs * 1e3:8.2f} ms")
    print(f"SDAR's step, {given.block_length} positions with their cache  {ours * 1e3:8.2f} ms")

    for experts in (8, 64, 256):
        options = plugins.backbones.get("sdar-moe").build({})
        sizes = {"num_experts": experts, "moe_intermediate_size": 256, "num_experts_per_tok": 8}
        options._preset = {**options._preset, **SIZES, **sizes, "num_hidden_layers": 1}
        mixture = options.build(Vocabulary(64, 63, 0)).network.model.layers[0].mlp.eval()
        token = torch.randn(1, 1, SIZES["hidden_size"])
        with torch.no_grad():
            taken = seconds(lambda mixture=mixture, token=token: [mixture(token) for _ in range(50)]) / 50
        print(f"a token through 8 of {experts:3} experts             {taken * 1e3:8.3f} ms")


if __name__ == "__main__":
    main()

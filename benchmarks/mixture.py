"""A mixture layer's ways to compute its experts: equal to each other, and how long each takes.

    python benchmarks/mixture.py [--device cuda] [--experts 256] [--width 512]

The layer is LLaDA2.0-mini's (hidden size 2048, 8 of 256 experts of width 512), in bfloat16 with random
weights. `grouped_mm` is what the platform computes with, on a GPU and on a CPU; `eager` is a loop over the
experts that were chosen. Both are compared with the loop in float64 after the same router's choices. At one
token, time should follow the MiB that are read and not `--experts`.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from opendllm.plugins.backbones.presets import LLADA2
from opendllm.registries.backbones import Vocabulary
from opendllm.registries.discovery import installed_plugins

TOKENS = {"cuda": (1, 4, 32, 512, 4096), "cpu": (1, 4, 32)}
REPEATS = 5


def seconds(work: Callable[[], object], device: str) -> float:
    """The median of some runs, after two that aren't counted."""
    found = []
    for repeat in range(REPEATS + 2):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if repeat > 1:
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def one_layer(experts: int, width: int, device: str) -> tuple[Any, Any]:
    """(a network, its only mixture layer), in bfloat16."""
    family: Any = installed_plugins().backbones.get("llada2").build({"preset": "mini", "block_length": 32})
    family._preset = {
        **LLADA2["mini"],
        "num_hidden_layers": 1,
        "first_k_dense_replace": 0,
        "num_experts": experts,
        "moe_intermediate_size": width,
    }
    torch.manual_seed(0)
    network = family.build(Vocabulary(64, 63, 0)).network.to(device, torch.bfloat16)
    layer = network.model.layers[0].mlp
    with torch.no_grad():
        layer.gate.weight.normal_(std=0.05)
    return network, layer


def forward(layer: Any, hidden: Tensor) -> None:
    """Without gradients."""
    with torch.no_grad():
        layer(hidden)


def forward_and_backward(layer: Any, hidden: Tensor) -> None:
    """With the weights' gradients, which are thrown away."""
    layer(hidden).sum().backward()
    for parameter in layer.parameters():
        parameter.grad = None


@torch.no_grad()
def farthest(layer: Any, network: Any, hidden: Tensor) -> float:
    """The largest difference to float64, as a share of the largest number."""
    _, weights, chosen = layer.gate(hidden)
    found = layer.experts(hidden.flatten(0, 1), chosen, weights).double()
    way = network.config._experts_implementation
    network.set_experts_implementation("eager")
    exact = copy.deepcopy(layer.experts).double()(hidden.flatten(0, 1).double(), chosen, weights.double())
    network.set_experts_implementation(way)
    return float((found - exact).abs().max() / exact.abs().max())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--width", type=int, default=512)
    given = parser.parse_args()
    network, layer = one_layer(given.experts, given.width, given.device)
    default = network.config._experts_implementation
    name = torch.cuda.get_device_name() if given.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{given.device} ({name}), torch {torch.__version__}, default {default}")
    for tokens in TOKENS[given.device]:
        hidden = torch.randn(1, tokens, layer.gate.hidden_dim, device=given.device, dtype=torch.bfloat16)
        chosen = len(layer.gate(hidden)[2].unique())
        megabytes = chosen * sum(weight[0].nbytes for weight in layer.experts.parameters()) / 2**20
        print(f"{tokens} tokens: {chosen} of {given.experts} experts, {megabytes:,.0f} MiB read")
        for way in ("grouped_mm", "eager"):
            network.set_experts_implementation(way)
            far = farthest(layer, network, hidden) if given.experts <= 256 and tokens <= 512 else float("nan")
            read = seconds(partial(forward, layer, hidden), given.device)
            trained = seconds(partial(forward_and_backward, layer, hidden), given.device)
            times = f"forward {read * 1e3:9.3f} ms, with backward {trained * 1e3:9.3f} ms"
            print(f"    {way:10}  {times}, off {far:.1e}")


if __name__ == "__main__":
    main()

"""Peak memory of loading a checkpoint, beside transformers' own loader, on a generated one.

    python benchmarks/loading.py [--gigabytes 1] [--shards 4] [--mixture]

With `--mixture` it is a Qwen3-MoE-shaped one, whose experts are published one by one and computed stacked.

Each loader runs in a process of its own; what the process held before loading (Python, torch) is
taken off. Anonymous memory is what counts: pages of the mapped files can be dropped at any time
(transformers leaves a CPU model's weights in them, and reads them from disk when they are first used).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "tie_word_embeddings": True,
    "rope_theta": 1e6,
}
MIXTURE: dict[str, Any] = {
    "moe_intermediate_size": 512,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "head_dim": 64,
}


def generate(folder: Path, gigabytes: float, shards: int, mixture: bool) -> int:
    """Write a checkpoint in bfloat16; returns its bytes."""
    feed_forward = 64 * 512 if mixture else 4096
    layer_bytes = 2 * (4 * 1024 * 1024 + 3 * 1024 * feed_forward)
    layers = max(1, round(gigabytes * 2**30 / layer_bytes))
    if mixture:
        made = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **MIXTURE, num_hidden_layers=layers))
    else:
        made = Qwen2ForCausalLM(Qwen2Config(**SIZES, num_hidden_layers=layers))
    network = made.to(torch.bfloat16)
    size = sum(parameter.numel() * 2 for parameter in network.parameters())
    network.save_pretrained(folder, max_shard_size=f"{size // shards // 2**20 + 1}MB")
    stated = json.loads((folder / "config.json").read_text()) | {"mask_token_id": 8191, "rope_theta": 1e6}
    if mixture:
        stated |= MIXTURE | {"model_type": "sdar_moe", "block_size": 4}
    (folder / "config.json").write_text(json.dumps(stated))
    return int(size)


def anonymous_bytes() -> int:
    """This process's memory that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon: this benchmark needs Linux")


def measure(load: Callable[[str], object], folder: str, results: multiprocessing.Queue[Any]) -> None:
    """Load in this process, sampling its memory every 2 ms."""
    before, peak, done = anonymous_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    model = load(folder)
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    del model
    results.put((peak - before, seconds))


def load_ours(folder: str) -> object:
    """opendllm."""
    from opendllm.core.checkpoints.families import backbone_of
    from opendllm.core.checkpoints.loading import load_model
    from opendllm.registries.discovery import installed_plugins

    path = Path(folder)
    return load_model(path, backbone_of(installed_plugins(), path), torch.device("cpu"))


def load_theirs(folder: str) -> object:
    """transformers."""
    sizes = json.loads((Path(folder) / "config.json").read_text())
    if "num_experts" not in sizes:
        return Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    del sizes["model_type"]  # by which transformers would know how experts are stored
    config = Qwen3MoeConfig(**sizes)
    return Qwen3MoeForCausalLM.from_pretrained(folder, config=config, dtype=torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--mixture", action="store_true")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        size = generate(Path(folder), arguments.gigabytes, arguments.shards, arguments.mixture)
        shard = max(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
        print(f"checkpoint {size / 2**20:,.0f} MiB, largest shard {shard / 2**20:,.0f} MiB")
        for name, load in (("open-dllm", load_ours), ("transformers", load_theirs)):
            results = context.Queue()
            process = context.Process(target=measure, args=(load, folder, results))
            process.start()
            peak, seconds = results.get()
            process.join()
            print(f"{name:13} peak {peak / 2**20:7,.0f} MiB = {peak / size:.2f} copies  {seconds:.1f} s")


if __name__ == "__main__":
    main()

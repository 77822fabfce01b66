"""A denoising step of an SDAR-shaped model with its cache, beside a decoding step of transformers' generate.

    python benchmarks/block_decoding.py [--rows 1] [--prompt 256] [--new 32] [--layers 28] [--device cuda]

Both read the same network of Qwen3-0.6B's shape with the same random weights, the same rows and the same
keys, by turns in one process; a step there feeds one position a row, here a block. Medians, on a CPU of one
thread's own time, whatever else the machine does. Beside them, the floor: what transformers' plain forward
takes for as many positions with the same keys. A block's first step reads the block before it once more, so
that its keys are those of its tokens; the published code takes a pass of its own for that. Also: what a
mixture layer takes for one token, by how many experts it has and how many it chooses.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM, StoppingCriteria, StoppingCriteriaList

from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.samplers import Sampler, Selection, Step

MASK_TOKEN_ID = 151669
SHAPE: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
FORWARDS = 8
"""Plain forward passes a round."""


def now(device: str) -> float:
    """This process's own time in seconds, which other processes don't add to; on a GPU, when it is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@dataclass
class Stamps:
    """When each step came to the same place.

    Attributes:
        device: where the model is.
        steps: (the step's number in its block, seconds).
    """

    device: str
    steps: list[tuple[int, float]] = field(default_factory=list)

    def stamp(self, index: int = 0) -> None:
        """Here is the next step."""
        self.steps.append((index, now(self.device)))

    def taken(self, first: bool) -> list[float]:
        """Seconds from step to step: into those that are first in their block, or into the others."""
        pairs = zip(self.steps, self.steps[1:], strict=False)
        return [after[1] - before[1] for before, after in pairs if (after[0] == 0) is first]


class StampedSteps(StoppingCriteria):
    """Stops nothing."""

    def __init__(self, stamps: Stamps) -> None:
        self._stamps = stamps

    def __call__(self, input_ids: Any, scores: Any, **_others: Any) -> Any:
        """Once a step."""
        self._stamps.stamp()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class StampedSampler(Sampler):
    """Another sampler, that decides as it would."""

    def __init__(self, sampler: Sampler, stamps: Stamps) -> None:
        self.confidence = sampler.confidence
        self._sampler = sampler
        self._stamps = stamps

    def select(self, step: Step) -> Selection:
        """Once a step."""
        self._stamps.stamp(int(step.index[0]))
        return self._sampler.select(step)


def generate(stock: Any, prompts: Tensor, new: int) -> list[float]:
    """Seconds of each decoding step of transformers' generate."""
    stamps = Stamps(prompts.device.type)
    stamped = StoppingCriteriaList([StampedSteps(stamps)])
    stock.generate(
        prompts, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0,
        attention_mask=torch.ones_like(prompts), stopping_criteria=stamped,
    )  # fmt: skip
    return stamps.taken(first=True)


def denoise(lm: DiffusionLM, prompts: Tensor, new: int) -> tuple[list[float], list[float]]:
    """Seconds of the steps that are a block's first, and of the others."""
    stamps = Stamps(prompts.device.type)
    sampler: Any = installed_plugins().samplers.get("block-steps").build({"rule": "static"})
    canvas = torch.cat([prompts, prompts.new_full((len(prompts), new), MASK_TOKEN_ID)], dim=1)
    seeds = torch.zeros(len(prompts), dtype=torch.int64, device=prompts.device)
    decode(lm, canvas, None, StampedSampler(sampler, stamps), DecoderOptions(), seeds)
    return stamps.taken(first=True), stamps.taken(first=False)


@torch.no_grad()
def forward(stock: Any, prompts: Tensor, positions: int) -> list[float]:
    """Seconds of plain forward passes over so many positions a row behind the prompts' keys, with modes."""
    cache = DynamicCache(config=stock.config)
    stock.model(prompts, past_key_values=cache)
    tokens, found = prompts[:, :positions].contiguous(), []
    for _ in range(FORWARDS + 1):
        start = now(prompts.device.type)
        stock(tokens, past_key_values=cache).logits.float().argmax(-1)
        found.append(now(prompts.device.type) - start)
        cache.crop(-positions)
    return found[1:]


def models(layers: int, block_length: int, dtype: torch.dtype, device: str) -> tuple[Any, DiffusionLM]:
    """The stock model, and the same weights as SDAR."""
    shape = {**SHAPE, "num_hidden_layers": layers}
    family: Any = installed_plugins().backbones.get("sdar").build({"block_length": block_length})
    family._preset = {**shape, "model_type": "sdar"}
    lm = family.build(Vocabulary(SHAPE["vocab_size"], MASK_TOKEN_ID, 0))
    stock = Qwen3ForCausalLM(Qwen3Config(**shape)).eval()
    for module in (stock, lm.network):
        rotary = {name: buffer.clone() for name, buffer in module.named_buffers()}
        module.eval().to(device=device, dtype=dtype)
        for name, buffer in module.named_buffers():
            buffer.data = rotary[name].to(device)  # stays float32, as transformers loads it
    lm.network.load_state_dict(stock.state_dict(), assign=True)
    lm.network.tie_weights()
    return stock, lm


def mixture(experts: int, chosen: int) -> float:
    """Seconds of a mixture layer for one token."""
    options: Any = installed_plugins().backbones.get("sdar-moe").build({})
    sizes = {"num_experts": experts, "moe_intermediate_size": 512, "num_experts_per_tok": chosen}
    options._preset = {**options._preset, **SHAPE, **sizes, "num_hidden_layers": 1}
    layer = options.build(Vocabulary(64, 63, 0)).network.model.layers[0].mlp.eval()
    token, found = torch.randn(1, 1, SHAPE["hidden_size"]), []
    with torch.no_grad():
        for _ in range(21):
            start = now("cpu")
            layer(token)
            found.append(now("cpu") - start)
    return statistics.median(found[1:])


def main() -> None:
    """Print both, and the mixtures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("rows", 1), ("prompt", 256), ("new", 32), ("block-length", 4), ("layers", 28), ("repeats", 3),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    stock, lm = models(given.layers, given.block_length, getattr(torch, given.dtype), given.device)
    prompts = torch.randint(MASK_TOKEN_ID, (given.rows, given.prompt)).to(given.device)
    whole = given.block_length
    names: dict[str | int, str] = {
        "generate": "transformers' generate, a step",
        "later": f"SDAR, a step that reads its block of {whole}",
        "first": f"SDAR, a block's first step, which reads {2 * whole}",
        **{n: f"transformers' forward of {n} position{'s' * (n > 1)}" for n in (1, whole, 2 * whole)},
    }
    found: dict[str | int, list[float]] = {name: [] for name in names}
    for _ in range(given.repeats):
        found["generate"] += generate(stock, prompts, given.new)
        first, later = denoise(lm, prompts, given.new)
        found["first"] += first
        found["later"] += later
        for positions in (1, whole, 2 * whole):
            found[positions] += forward(stock, prompts, positions)
    took = {name: statistics.median(seconds) for name, seconds in found.items()}
    print(f"{given.rows} row(s), {given.prompt} + {given.new} tokens, {given.dtype}, {given.device}")
    for key, shown in names.items():
        print(f"{shown:48}{took[key] * 1e3:9.2f} ms{took[key] / took['generate']:8.2f}")
    mean = (took["first"] + (whole - 1) * took["later"]) / whole
    print(f"{f'SDAR, the mean of {whole} steps':48}{mean * 1e3:9.2f} ms{mean / took['generate']:8.2f}")
    published = mean * whole / (whole + 1)
    title = f"SDAR, by the published code's {whole + 1} passes a block"
    print(f"{title:48}{published * 1e3:9.2f} ms{published / took['generate']:8.2f}")
    if given.device == "cpu":
        for experts, chosen in ((8, 8), (64, 8), (256, 8), (256, 256)):
            title = f"a token through {chosen} of {experts} experts"
            print(f"{title:48}{mixture(experts, chosen) * 1e3:9.2f} ms")


if __name__ == "__main__":
    main()

"""The models that `decoding.py` builds, what it writes into, and how much memory that takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from decoding_settings import PRESETS
from torch import Tensor

from opendllm.core.checkpoints.loading import Checkpoint
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.evaluation.automatic_batch import row_bytes
from opendllm.core.language_model import LanguageModel
from opendllm.core.planning.forward_costs import Loaded
from opendllm.registries.architecture import Architecture
from opendllm.registries.backbones import Vocabulary
from opendllm.registries.discovery import installed_plugins


def random_model(
    device: str, preset: str, dtype: torch.dtype, mask_token_id: int | None = None
) -> LanguageModel:
    """Random weights of a preset's sizes, made on the device in their dtype; the mask is the last id."""
    plugins = installed_plugins()
    name, sizes, entries = PRESETS[preset]
    family: Any = plugins.backbones.get(name)
    size = entries or family.options(preset=sizes).architecture(None).vocab_size
    mask = size - 1 if mask_token_id is None else mask_token_id
    torch.manual_seed(0)
    with torch.device(device):
        lm = family.build({"preset": sizes}).build(Vocabulary(size, mask, 0))
    lm.module.eval().to(device)
    for parameter in lm.module.parameters():  # a backbone draws them in float32; rotary frequencies stay so
        parameter.data = parameter.to(dtype)
    return LanguageModel(Checkpoint(lm, None, None), "p2", plugins)


def in_float32(model: LanguageModel, device: str, preset: str) -> LanguageModel:
    """The same random weights once more, in float32."""
    twin = random_model(device, preset, torch.float32, model.lm.mask_token_id)
    for wide, narrow in zip(twin.lm.module.parameters(), model.lm.module.parameters(), strict=True):
        wide.data.copy_(narrow.data)
    return twin


def loaded(model: LanguageModel) -> Loaded:
    """The sizes of a stock network, for the floor."""
    network: Any = model.lm.network
    config = network.config
    return Loaded(
        Architecture(
            vocab_size=model.lm.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            key_value_heads=config.num_key_value_heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            tied=config.tie_word_embeddings,
            attention_bias=any(key.endswith("q_proj.bias") for key in network.state_dict()),
        ),
        next(network.parameters()).element_size(),
    )


def canvas_of(
    model: LanguageModel, rows: int, prompt: int, new: int, texts: list[str], device: str
) -> Tensor:
    """[rows, prompt + new]: stretches from the middle of texts, or random tokens, and masks."""
    lm = model.lm
    if texts and model.tokenizer is not None:
        tokenizer = model.tokenizer
        encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        middles = [ids[len(ids) // 2 :][:prompt] for ids in encoded]
        long_enough = [ids for ids in middles if len(ids) == prompt][:rows]
        if len(long_enough) < rows:
            raise SystemExit(f"only {len(long_enough)} prompts have {prompt} tokens; {rows} are needed")
        prompts = torch.tensor(long_enough)
    else:
        generator = torch.Generator().manual_seed(0)
        prompts = torch.randint(1, lm.vocab_size - 1, (rows, prompt), generator=generator)
    return torch.cat([prompts, torch.full((rows, new), lm.mask_token_id)], dim=1).to(device)


def last_block(canvas: Tensor, mask_token_id: int, block: int = 32) -> Tensor:
    """The same canvas with no more masks than its last `block` positions: a short run of the same shape."""
    short = canvas.clone()
    early = short[:, :-block] if block < short.shape[1] else short[:, :0]
    early.masked_fill_(early == mask_token_id, 5)
    return short


def planned_mebibytes(model: LanguageModel, options: DecoderOptions, rows: int, length: int) -> float:
    """What `batch_size: auto` counts on for so many rows, beside the weights."""
    sizes = loaded(model)
    fixed, keys, states = row_bytes(model.lm, sizes.sizes, sizes.number, options, length)
    return (fixed + rows * (keys + (states or 0))) / 2**20


class PeakMemory:
    """Peak memory of a stretch of code in MiB, above what was there before."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device != "cpu"

    def start(self) -> None:
        """Forget earlier peaks."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")
            self._before = self._kernel_says("VmRSS")

    def mebibytes(self) -> float:
        """Since `start`."""
        peak = torch.cuda.max_memory_allocated() if self._on_gpu else self._kernel_says("VmHWM")
        return (peak - self._before) / 2**20

    @staticmethod
    def _kernel_says(what: str) -> int:
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(what))

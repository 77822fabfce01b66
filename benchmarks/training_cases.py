"""The models, documents and plain loops of `training.py`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from opendllm.core.data.packing import pack
from opendllm.core.data.rows import PackedRows
from opendllm.core.manifest.train_schema import Train
from opendllm.core.planning.training_plan import training_flops
from opendllm.core.toolkit.segments import visibility
from opendllm.plugins.backbones.presets import LLADA
from opendllm.registries.architecture import Architecture
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.sequences import PADDING_SEGMENT, ModelInputs, TokenRows

DOCUMENTS = 4000
MIN_PROBABILITY = 1e-3
PRESETS: dict[str, dict[str, int | bool]] = {
    "small": {
        "width": 256, "layers": 6, "intermediate": 704, "heads": 4, "key_value_heads": 2,
        "vocabulary": 32000, "length": 512, "shortest": 32, "rows": 16, "tied": False,
    },
    "nano": {
        "width": 128, "layers": 3, "intermediate": 352, "heads": 4, "key_value_heads": 2,
        "vocabulary": 512, "length": 128, "shortest": 16, "rows": 8, "tied": True,
    },
    "0.5b": {  # Qwen2.5-Coder-0.5B's, which Open-dCoder continues from
        "width": 896, "layers": 24, "intermediate": 4864, "heads": 14, "key_value_heads": 2,
        "vocabulary": 151936, "length": 4096, "shortest": 128, "rows": 8, "tied": True,
    },
    "8b": {  # LLaDA 8B's
        "width": 4096, "layers": 32, "intermediate": 12288, "heads": 32, "key_value_heads": 32,
        "vocabulary": 126464, "length": 4096, "shortest": 128, "rows": 1, "tied": False,
    },
    "1b": {  # Llama-3.2-1B's
        "width": 2048, "layers": 16, "intermediate": 8192, "heads": 32, "key_value_heads": 8,
        "vocabulary": 128256, "length": 4096, "shortest": 128, "rows": 8, "tied": True,
    },
}  # fmt: skip
"""Sizes of a LLaDA-shaped model and of its rows, of one process."""


@dataclass(frozen=True)
class Case:
    """What is trained, and on what.

    Attributes:
        width: and those up to `rows`, see `PRESETS`.
        device: of every process.
        compile: whether our own is.
        tied: whether the LM head is the embedding.
        ranks: processes of our own.
        zero: its ZeRO stage.
        lora: rank of its adapters; 0 trains all weights.
        activation_checkpointing: whether it computes activations again.
    """

    width: int
    layers: int
    intermediate: int
    heads: int
    key_value_heads: int
    vocabulary: int
    length: int
    shortest: int
    rows: int
    device: str
    compile: bool
    tied: bool = False
    ranks: int = 1
    zero: int = 1
    lora: int = 0
    activation_checkpointing: bool = False

    @property
    def mistake(self) -> str:
        """Why there is no such case; empty where there is."""
        if self.width % self.heads or self.width // self.heads % 2:
            return f"--width {self.width} is not {self.heads} heads of an even size"
        if self.heads % self.key_value_heads:
            return f"--heads {self.heads} can't share {self.key_value_heads} --key-value-heads"
        if self.shortest >= self.length:
            return f"--shortest {self.shortest} documents leave nothing to draw below --length {self.length}"
        if self.vocabulary < 4:
            return f"--vocabulary {self.vocabulary} has no room for tokens beside the padding and the mask"
        return ""

    @property
    def precision(self) -> str:
        return "fp32" if self.device == "cpu" else "bf16"

    def documents(self) -> tuple[np.ndarray, np.ndarray]:
        """(all tokens, ends of the documents): lengths log-uniform, seed 0."""
        generator = np.random.default_rng(0)
        bounds = np.log(self.shortest), np.log(self.length)
        lengths = np.exp(generator.uniform(*bounds, DOCUMENTS)).astype(np.int64)
        tokens = generator.integers(1, self.vocabulary - 1, lengths.sum(), dtype=np.uint32)
        return tokens, np.cumsum(lengths)

    def packed_rows(self) -> PackedRows:
        tokens, ends = self.documents()
        return PackedRows(tokens, pack(ends, self.length), self.length, 0, seed=0)

    def lm(self) -> DiffusionLM:
        sizes = {
            "d_model": self.width, "n_layers": self.layers, "mlp_hidden_size": self.intermediate,
            "n_heads": self.heads, "n_kv_heads": self.key_value_heads, "max_sequence_length": self.length,
            "weight_tying": self.tied,
        }  # fmt: skip
        LLADA["nano"].update(sizes)
        torch.manual_seed(0)
        vocabulary = Vocabulary(self.vocabulary, self.vocabulary - 1, 0)
        with torch.device(self.device):  # drawn where it is: eight billion numbers take minutes on a CPU
            lm = installed_plugins().backbones.get("llada").build({}).build(vocabulary)
        lm.module.to(self.device)
        return lm

    def useful_flops_per_token(self) -> float:
        """Of a real token within its document, half of them scored."""
        _, ends = self.documents()
        lengths = np.diff(ends, prepend=0)
        seen = float((lengths.astype(float) ** 2).sum() / lengths.sum())
        return training_flops(self.architecture, (1, seen, 0.5), adapters=self.lora > 0)  # type: ignore[arg-type]

    @property
    def architecture(self) -> Architecture:
        return Architecture(
            self.vocabulary, self.width, self.intermediate, self.layers, self.heads, self.key_value_heads,
            self.width // self.heads, tied=self.tied,
        )  # fmt: skip

    def settings(self, steps: int) -> Train:
        """What the platform's trainer is told."""
        return Train.model_validate(
            {
                "objective": {"name": "llada", "options": {"random_length_probability": 0}},
                "steps": steps,
                "global_batch_size": self.rows * self.ranks,
                "learning_rate": 1e-4,
                "precision": self.precision,
                "compile": self.compile,
                "activation_checkpointing": self.activation_checkpointing,
                "deepspeed": {"zero_optimization": {"stage": self.zero}},
                "lora": {"rank": self.lora} if self.lora else None,
                "held_out": {"rows": 1, "draws": 1},
            }
        )


def padded_batches(case: Case) -> Iterator[TokenRows]:
    """Documents in random order, as many as `rows` at once, padded to the longest."""
    tokens, ends = case.documents()
    starts = np.concatenate([[0], ends[:-1]])
    order = np.random.default_rng(0).permutation(len(ends))
    for first in itertools.count(0, case.rows):
        chosen = [order[n % len(order)] for n in range(first, first + case.rows)]
        longest = max(ends[n] - starts[n] for n in chosen)
        batch = np.zeros((case.rows, longest), dtype=np.int64)
        segments = np.full_like(batch, PADDING_SEGMENT)
        for row, n in enumerate(chosen):
            batch[row, : ends[n] - starts[n]] = tokens[starts[n] : ends[n]]
            segments[row, : ends[n] - starts[n]] = 0
        positions = np.broadcast_to(np.arange(longest), batch.shape).copy()
        real = torch.from_numpy(segments) != PADDING_SEGMENT
        parts = [torch.from_numpy(part) for part in (batch, segments, positions)]
        yield TokenRows(*[*parts, real, torch.arange(case.rows)])


def packed_batches(case: Case) -> Iterator[TokenRows]:
    rows = case.packed_rows()
    for first in itertools.count(0, case.rows):
        yield rows.batch(range(first, first + case.rows))


def plain_loop(case: Case, batches: Iterator[TokenRows], mask_rows: bool) -> Iterator[int]:
    """LLaDA's loss in a loop of its own; yields the real tokens of each step."""
    from transformers import LlamaForCausalLM

    lm = case.lm()
    trained: Any = lm.module.network
    config = trained.config
    config._attn_implementation = "sdpa"
    network = LlamaForCausalLM(config).to(case.device)
    network.load_state_dict(trained.state_dict())
    mask_token_id = lm.mask_token_id
    del lm, trained
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.01)
    for rows in batches:
        rows = rows.to(case.device)
        real = rows.maskable
        probability = (1 - MIN_PROBABILITY) * torch.rand(len(real), 1, device=case.device) + MIN_PROBABILITY
        masked = real & (torch.rand(real.shape, device=case.device) < probability)
        attention_mask: torch.Tensor | None = real.long()
        if mask_rows:
            visible = visibility(ModelInputs(rows.tokens, rows.segments, rows.positions), None)
            attention_mask = None if visible is None else visible[:, None]
        with torch.autocast(case.device, torch.bfloat16, enabled=case.precision == "bf16"):
            logits = network(
                input_ids=torch.where(masked, mask_token_id, rows.tokens),
                attention_mask=attention_mask,
                position_ids=rows.positions,
                use_cache=False,
            ).logits
        losses = cross_entropy(logits[masked].float(), rows.tokens[masked], reduction="none")
        loss = (losses / probability.expand(real.shape)[masked]).sum() / real.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach())
        del logits, losses, loss
        yield int(real.sum())

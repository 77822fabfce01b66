"""Training beside a plain transformers loop: real tokens a second, model FLOPs utilisation, peak memory.

    python benchmarks/training.py [--rounds 4] [--steps 2] [--rows 16] [--device cpu] [--compile]

Three ways to train one and the same LLaDA-shaped model on the same documents with the same loss:
  padded    a plain loop: documents padded to the longest of their batch, all logits, then the loss
  packed    the same loop on our packed rows, under a dense mask: what packing alone brings
  open-dllm the trainer: packed rows, attention by document, scored positions only, chunked loss
Each lives in a process of its own and takes `--steps` steps in turn; a figure is the median over
rounds, a ratio the median of the rounds' ratios. Tokens are real ones, never padding. Useful
operations are those of real tokens within their document, half of which reach the head; the peak is a
large matrix product's, measured here. Memory on a CPU is the process's largest resident set
(VmHWM) less what it held after its imports, on a GPU the allocator's largest.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from opendllm.core.data.packing import pack
from opendllm.core.data.rows import PackedRows
from opendllm.core.data.tokenizers import train_tokenizer
from opendllm.core.foundation.process_group import join_process_group
from opendllm.core.manifest.train_schema import Train
from opendllm.core.toolkit.segments import visibility
from opendllm.core.training.deepspeed_environment import deepspeed_environment
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.plugins.backbones.presets import LLADA
from opendllm.registries.architecture import Architecture
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.corpora import Document
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.sequences import PADDING_SEGMENT, ModelInputs, TokenRows

WARM_UP = {"cpu": 2, "cuda": 12}
"""Steps before the clock runs: a GPU loads kernels and takes memory with the first rows of each length."""
DOCUMENTS = 4000
MIN_PROBABILITY = 1e-3
Step = Callable[[], int]
"""Trains one step and says how many real tokens it read."""


@dataclass(frozen=True)
class Case:
    """What is trained, and on what."""

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
        }  # fmt: skip
        LLADA["nano"].update(sizes)
        torch.manual_seed(0)
        vocabulary = Vocabulary(self.vocabulary, self.vocabulary - 1, 0)
        lm = installed_plugins().backbones.get("llada").build({}).build(vocabulary)
        lm.module.to(self.device)
        return lm

    def useful_flops_per_token(self) -> float:
        """Of a real token: within its document, half of the tokens scored."""
        _, ends = self.documents()
        lengths = np.diff(ends, prepend=0)
        architecture = Architecture(
            self.vocabulary, self.width, self.intermediate, self.layers, self.heads, self.key_value_heads,
            self.width // self.heads, tied=False,
        )  # fmt: skip
        seen = float((lengths.astype(float) ** 2).sum() / lengths.sum())
        return architecture.training_flops(1, seen, scored_share=0.5)  # type: ignore[arg-type]


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


def our_trainer(case: Case, most_steps: int, stepped: Callable[[int], None]) -> None:
    """The platform's own; `stepped` is told the real tokens of each step."""
    plugins, rows = installed_plugins(), case.packed_rows()
    settings = Train.model_validate(
        {
            "objective": {"name": "llada", "options": {"random_length_probability": 0}},
            "steps": most_steps,
            "global_batch_size": case.rows,
            "learning_rate": 1e-4,
            "precision": case.precision,
            "compile": case.compile,
            "held_out": {"rows": 1, "draws": 1},
        }
    )

    firsts = range(0, most_steps * case.rows, case.rows)
    real = [int(rows.batch(range(first, first + case.rows)).maskable.sum()) for first in firsts]

    def on_step(step: int, loss: float, tokens_per_second: float) -> None:
        stepped(real[step - 1])

    objective = settings.objective
    with tempfile.TemporaryDirectory() as folder:
        join_process_group(torch.device(case.device))
        train(
            TrainingRun(
                settings=settings,
                seed=0,
                lm=case.lm(),
                tokenizer=train_tokenizer([Document("", "text")], 258),
                objective=plugins.objectives.get(objective.name).build(objective.options),
                schedule=plugins.noise_schedules.get("linear").build(),
                train_rows=rows,
                held_out_rows=rows,
                folder=Path(folder),
                provenance={},
                on_step=on_step,
            )
        )


class FinishedError(Exception):
    """The parent has seen enough."""


def work(way: str, case: Case, most_steps: int, parent: Connection) -> None:
    """A child: trains when it is told to, and reports tokens, seconds and memory."""
    with deepspeed_environment():
        import deepspeed
    import transformers

    del deepspeed, transformers
    baseline = resident("VmRSS") if case.device == "cpu" else 0
    parent.send("ready")
    left, tokens, started = parent.recv(), 0, time.perf_counter()

    def stepped(step_tokens: int) -> None:
        nonlocal left, tokens, started
        left, tokens = left - 1, tokens + step_tokens
        if left == 0:
            if case.device != "cpu":
                torch.cuda.synchronize()
            peak = resident("VmHWM") - baseline if case.device == "cpu" else torch.cuda.max_memory_allocated()
            parent.send((tokens, time.perf_counter() - started, peak))
            left = parent.recv()
            if left == 0:
                raise FinishedError
            tokens, started = 0, time.perf_counter()

    try:
        if way == "open-dllm":
            our_trainer(case, most_steps, stepped)
        batches = packed_batches(case) if way == "packed" else padded_batches(case)
        for step_tokens in plain_loop(case, batches, mask_rows=way == "packed"):
            stepped(step_tokens)
    except FinishedError:
        pass


def resident(which: str) -> int:
    """Bytes, from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {which}: this benchmark needs Linux")


def measured_peak(device: str) -> float:
    """Operations a second of a large matrix product, the best of ten."""
    size, dtype = (2048, torch.float32) if device == "cpu" else (8192, torch.bfloat16)
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(10):
        started = time.perf_counter()
        left @ right
        if device != "cpu":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


WAYS = ("padded", "packed", "open-dllm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2, help="of each way in a round")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, default in (
        ("width", 256), ("layers", 6), ("intermediate", 704), ("heads", 4), ("key-value-heads", 2),
        ("vocabulary", 32000), ("length", 512), ("shortest", 32), ("rows", 16),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--compile", action="store_true", help="our own, by torch.compile")
    given = vars(parser.parse_args())
    rounds, steps = given.pop("rounds"), given.pop("steps")
    case = Case(**given)
    peak = measured_peak(case.device)
    print(f"{case}\ntorch {torch.__version__}, {torch.get_num_threads()} threads, {case.precision}, "
          f"matrix products at {peak / 1e12:.3g} TFLOP/s")  # fmt: skip
    context = multiprocessing.get_context("spawn")
    warm_up = WARM_UP["cpu" if case.device == "cpu" else "cuda"]
    most_steps = warm_up + rounds * steps + 1  # never reached: what follows a run's last step is not timed
    pipes = {}
    for way in WAYS:
        pipes[way], child = context.Pipe()
        context.Process(target=work, args=(way, case, most_steps, child), daemon=True).start()
        pipes[way].recv()
    found: dict[str, list[tuple[int, float, int]]] = {way: [] for way in WAYS}
    for number in range(-1, rounds):
        for way in WAYS:
            pipes[way].send(warm_up if number < 0 else steps)
            answer = pipes[way].recv()
            if number >= 0:
                found[way].append(answer)
    for way in WAYS:
        pipes[way].send(0)
    report(case, found, peak)


def report(case: Case, found: dict[str, list[tuple[int, float, int]]], peak: float) -> None:
    speeds = {way: [tokens / seconds for tokens, seconds, _ in found[way]] for way in WAYS}
    memory = {way: max(used for _, _, used in found[way]) for way in WAYS}
    flops = case.useful_flops_per_token()
    print(f"{'':10}{'real tokens/s':>14}{'utilisation':>13}{'peak memory':>14}{'speed':>9}{'memory':>9}")
    for way in WAYS:
        speed = statistics.median(speeds[way])
        print(
            f"{way:10}{speed:14,.0f}{speed * flops / peak:13.1%}{memory[way] / 2**20:10,.0f} MiB"
            f"{ratio(speeds[way], speeds['padded']):8.2f}x{memory[way] / memory['padded']:8.2f}x"
        )
    packing = ratio(speeds["packed"], speeds["padded"])
    rest = ratio(speeds["open-dllm"], speeds["packed"])
    print(f"packing alone {packing:.2f}x, everything else {rest:.2f}x")


def ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()

"""The decoder against a plain loop that does what the published code does, alternating in one process.

    python benchmarks/decoding.py [--device cuda] [--only NAME ...] [--all] [--json FILE]
    python benchmarks/decoding.py --checkpoint runs/decoding-model/model [--prompts FILE]

Each run stands beside the plain loop of its own sampler at its own temperature (`plain_loops.py`):
tokens a second (prompts and tokens after EOS don't count), forward passes, peak memory, the share of
tokens that equal the uncached result, and the ratio of the times. Steps of different samplers, caches
and batch sizes: `--all`.

Without --checkpoint the weights are random, which is enough for time. A sampler that commits what the
model is sure of needs a trained one: `--save-untrained runs/decoding-untrained` writes the random one,
and `platform run benchmarks/decoding-model.yaml --only train` trains it. At a
temperature the plain loop takes seconds a step, and is timed at every `--every`th of its steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from plain_loops import PLAIN
from torch import Tensor

from opendllm.core import load
from opendllm.core.checkpoints.loading import Checkpoint
from opendllm.core.decoding.decoder import Decoded
from opendllm.core.language_model import LanguageModel
from opendllm.core.testing.trained_noise import noise_for
from opendllm.registries.backbones import Vocabulary
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.noise_schedules import Destination
from opendllm.registries.options import SamplerOptions

VOCABULARY = Vocabulary(size=32000, mask_token_id=31999, eos_token_id=0)
DRAWN = {"temperature": 1.0}
HOT = {"temperature": 0.8, "top_p": 0.95}


@dataclass(frozen=True)
class Setting:
    """One way of decoding, and the plain loop that it is compared with.

    Attributes:
        name: for the table.
        sampler: the plugin.
        options: the decoder's and the sampler's, flat.
        plain: which of `plain_loops`.
        goal: the ratio to reach, if there is one.
        rows: of the batch.
        noise: what the model counts as trained on.
    """

    name: str
    sampler: str
    options: dict[str, Any]
    plain: str
    goal: float | None = None
    rows: int = 8
    noise: Destination = "mask"


DUAL = {"cache": "dual", "block_length": 32}
GOALS = [
    Setting("low-confidence", "low-confidence", {}, "low-confidence", 1.8),
    Setting("entropy", "entropy", {}, "entropy", 1.8),
    Setting("p2", "p2", {}, "p2", 1.5),
    Setting("low-confidence, dual", "low-confidence", DUAL, "low-confidence", 7),
    Setting("low-confidence, hot", "low-confidence", HOT, "low-confidence", 8),
    Setting("entropy, hot", "entropy", HOT, "entropy", 8),
    Setting("entropy, hot, all filtered", "entropy", HOT, "entropy-everywhere", 8),
    Setting("p2, hot", "p2", HOT, "p2", 8),
    Setting("low-confidence, dual, hot", "low-confidence", {**DUAL, **HOT}, "low-confidence", 40),
    # A pass of these costs no more than one of p2, whose plain loop they stand beside.
    Setting("p2, drawn", "p2", DRAWN, "p2"),
    Setting("uniform-ancestral", "uniform-ancestral", DRAWN, "p2", noise="uniform"),
    Setting("predictor-corrector", "predictor-corrector", DRAWN, "p2", noise="uniform"),
    Setting("gidd", "gidd", DRAWN, "p2", noise="mixture"),
]
TRAINED = [
    Setting("low-confidence", "low-confidence", {}, "low-confidence"),
    Setting("low-confidence, dual", "low-confidence", DUAL, "low-confidence"),
    Setting("threshold 0.9", "confidence-threshold", {"threshold": 0.9}, "low-confidence"),
    Setting("threshold 0.9, dual", "confidence-threshold", {"threshold": 0.9, **DUAL}, "low-confidence", 15),
    Setting("factor 1, dual", "confidence-factor", {"factor": 1.0, **DUAL}, "low-confidence"),
    Setting("entropy-bounded 0.35, dual", "entropy-bounded", {"gamma": 0.35, **DUAL}, "low-confidence"),
]


def everything() -> list[Setting]:
    """Every sampler x cache x batch size."""
    found = []
    for name in installed_plugins().samplers.names():
        plain = "p2" if name in ("p2", "remdm") else "entropy" if "entropy" in name else "low-confidence"
        sampler = installed_plugins().samplers.get(name).options
        assert issubclass(sampler, SamplerOptions)
        unread = sampler.without_effect
        noise: Destination = "mask" if "mask" in sampler.destinations else sorted(sampler.destinations)[0]
        for cache in ("none", "prefix", "dual") if "cache" not in unread else ("none",):
            for rows in (1, 8):
                options: dict[str, Any] = {} if cache == "none" else {"cache": cache, "block_length": 32}
                if name == "dreamon":
                    options |= {"expand_token_id": 1}
                found.append(Setting(f"{name}, {cache}", name, options, plain, rows=rows, noise=noise))
    return found


def random_model(device: str, preset: str) -> LanguageModel:
    """Random weights; `small` is the size that the goals are stated for."""
    plugins = installed_plugins()
    torch.manual_seed(0)
    lm = plugins.backbones.get("open-dcoder").build({"preset": preset}).build(VOCABULARY)
    lm.module.eval().to(device)
    return LanguageModel(Checkpoint(lm, None, None), "p2", plugins)


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


@torch.no_grad()
def plain_run(
    model: LanguageModel, canvas: Tensor, name: str, steps: int, options: dict[str, Any], every: int
) -> tuple[Tensor | None, float]:
    """(the canvas, or None where only a share of the steps was run; seconds for all of them)."""
    step, plan = PLAIN[name]
    lm, masks = model.lm, int((canvas[0] == model.lm.mask_token_id).sum())
    editable = canvas == lm.mask_token_id
    remaining = plan(masks, steps)
    temperature, top_p = options.get("temperature", 0.0), options.get("top_p")
    seconds, timed = 0.0, 0
    for index in range(steps):
        if index % every:
            if every > 1:  # any tokens do: only how many masks are left matters to the time
                canvas = editable_prefix(canvas, editable, masks - remaining[index], lm.mask_token_id)
            continue
        start = now(canvas)
        canvas = step(lm, canvas, editable, remaining[index], temperature, top_p)
        seconds, timed = seconds + now(canvas) - start, timed + 1
    return (canvas if every == 1 else None), seconds * steps / timed


def editable_prefix(canvas: Tensor, editable: Tensor, written: int, mask_token_id: int) -> Tensor:
    """The canvas with its first `written` editable positions filled, and the others masked."""
    order = editable.cumsum(-1) * editable
    filled = torch.where(canvas == mask_token_id, 5, canvas)
    return torch.where(editable & (order > written), mask_token_id, filled)


def now(like: Tensor) -> float:
    """The clock, when the device has done its work."""
    if like.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def text_tokens(model: LanguageModel, tokens: Tensor, prompt: int) -> int:
    """How many new tokens stand before EOS."""
    ended = tokens[:, prompt:].eq(model.lm.eos_token_id or -1).long().cumsum(-1) > 0
    return int((~ended).sum())


def measure(
    model: LanguageModel, setting: Setting, arguments: argparse.Namespace, texts: list[str]
) -> dict[str, Any]:
    """One line of the table."""
    prompt, new, device = arguments.prompt, arguments.new, arguments.device
    canvas = canvas_of(model, setting.rows, prompt, new, texts, device)
    steps = arguments.steps
    hot = setting.options.get("temperature", 0) > 0
    memory = PeakMemory(device)
    ours, plain, decoded, reference = [], [], None, None
    own_steps = {} if setting.sampler in ("dreamon", "token-editing") else {"steps": steps}
    model.lm.noise = noise_for(setting.noise)
    for _ in range(arguments.repeats):
        memory.start()
        start = now(canvas)
        decoded = model.sample(canvas, setting.sampler, **own_steps, **setting.options)
        ours.append(now(canvas) - start)
        our_peak = memory.mebibytes()
        memory.start()
        reference, seconds = plain_run(
            model, canvas, setting.plain, steps, setting.options, arguments.every if hot else 1
        )
        plain.append(seconds)
        plain_peak = memory.mebibytes()
    assert isinstance(decoded, Decoded)
    written = decoded.tokens[:, prompt : prompt + new]
    seconds, tokens = statistics.median(ours), text_tokens(model, decoded.tokens, prompt)
    return {
        "name": setting.name,
        "rows": setting.rows,
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "plain_seconds": statistics.median(plain),
        "ratio": statistics.median(p / o for p, o in zip(plain, ours, strict=True)),
        "goal": setting.goal,
        "forward_passes": float(decoded.forward_passes.double().mean()),
        "ms_per_pass": 1000 * min(ours) / float(decoded.forward_passes.max()),
        "peak_mib": our_peak,
        "plain_peak_mib": plain_peak,
        "agreement": None if reference is None else float((written == reference[:, prompt:]).double().mean()),
        "distinct_tokens": statistics.mean(len(set(row)) / len(row) for row in written.tolist()),
    }


def table_line(line: dict[str, Any]) -> str:
    """A line of the table."""
    goal = "" if line["goal"] is None else f"{line['goal']:g}"
    same = "" if line["agreement"] is None else f"{line['agreement']:.3f}"
    return (
        f"{line['name']:32}{line['rows']:5}{line['tokens_per_second']:9.1f}{line['seconds']:9.2f}"
        f"{line['plain_seconds']:9.2f}{line['ratio']:9.2f}{goal:>9}{line['forward_passes']:9.1f}"
        f"{line['ms_per_pass']:9.1f}"
        f"{line['peak_mib']:9.0f}{line['plain_peak_mib']:9.0f}{same:>9}{line['distinct_tokens']:9.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpoint", help="a trained model; by default random weights")
    parser.add_argument("--save-untrained", type=Path, help="write the random model here, and stop")
    parser.add_argument("--preset", default="small", choices=("small", "0.5b"))
    parser.add_argument("--prompts", nargs="*", default=[], help="text files that prompts are taken from")
    parser.add_argument("--only", nargs="*", default=[], help="names of the table's lines")
    parser.add_argument("--all", action="store_true", help="every sampler x cache x batch size")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--every", type=int, default=16, help="of a hot plain loop's steps is timed")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.save_untrained:
        arguments.save_untrained.mkdir(parents=True)
        lm = random_model("cpu", arguments.preset).lm
        lm.save(arguments.save_untrained, lm.module.state_dict())
        return
    model = (
        load(arguments.checkpoint, device=arguments.device)
        if arguments.checkpoint
        else random_model(arguments.device, arguments.preset)
    )
    if arguments.bf16:
        frequencies = {name: buffer.clone() for name, buffer in model.lm.module.named_buffers()}
        model.lm.module.to(torch.bfloat16)
        for name, buffer in model.lm.module.named_buffers():
            buffer.data = frequencies[name]
    texts = [Path(path).read_text(encoding="utf-8") for path in arguments.prompts]
    settings = everything() if arguments.all else TRAINED if arguments.checkpoint else GOALS
    lines = []
    columns = (
        "tok/s",
        "s",
        "plain s",
        "ratio",
        "goal",
        "passes",
        "ms/pass",
        "MiB",
        "plain",
        "same",
        "distinct",
    )
    print(f"{'':32}{'rows':>5}" + "".join(f"{column:>9}" for column in columns))
    for setting in settings:
        if arguments.only and setting.name not in arguments.only:
            continue
        if arguments.compile:
            setting = Setting(**{**asdict(setting), "options": {**setting.options, "compile": True}})
            measure(
                model, setting, argparse.Namespace(**{**vars(arguments), "repeats": 1, "every": 10**6}), texts
            )
        line = measure(model, setting, arguments, texts)
        lines.append(line)
        print(table_line(line), flush=True)
    if arguments.json:
        about = {"device": arguments.device, "threads": torch.get_num_threads(), "torch": torch.__version__}
        arguments.json.write_text(json.dumps({**about, "lines": lines}, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""The decoder against a plain loop that does what the published code does, alternating in one process.

    python benchmarks/decoding.py [--device cuda] [--only NAME ...] [--all] [--json FILE]
    python benchmarks/decoding.py --preset 8b --device cuda [--graphs] [--compile]
    python benchmarks/decoding.py --checkpoint runs/decoding-model/model [--prompts FILE]

Each run stands beside the plain loop of its own sampler at its own temperature (`plain_loops.py`):
tokens a second (prompts and tokens after EOS don't count), forward passes, peak memory, the share of
tokens that equal the uncached result, and the ratio of the times. Steps of different samplers, caches
and batch sizes: `--all`.

`--preset` builds another size: nano, small (the default, which the goals are stated for), 0.5b, 8b. Of nano,
0.5b and 8b one row is decoded with each cache, without a plain loop; on a GPU in bfloat16.

Beside every run: the share of the floor that a pass reaches, which is what reading its weights and kept keys
takes at the speed of a copy, measured here; and the host's share, in which the device waits between passes.

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from decoding_floor import bytes_a_pass, copy_bandwidth, device_seconds
from decoding_models import PeakMemory, canvas_of, loaded, random_model
from decoding_settings import GOALS, PRESETS, PUBLISHED, TRAINED, Setting, everything
from plain_loops import PLAIN
from torch import Tensor

from opendllm.core import load
from opendllm.core.decoding.decoder import Decoded
from opendllm.core.language_model import LanguageModel
from opendllm.core.planning.canvas_reads import Canvas
from opendllm.core.testing.trained_noise import noise_for


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


@dataclass(frozen=True)
class Measured:
    """The device, before any model is asked.

    Attributes:
        device: as torch calls it.
        bandwidth: bytes a second of a copy.
    """

    device: str
    bandwidth: float


def measure(
    model: LanguageModel, setting: Setting, arguments: argparse.Namespace, on: Measured, texts: list[str]
) -> dict[str, Any]:
    """One line of the table; a line without a plain loop has no figures of it."""
    prompt, new, device = arguments.prompt, arguments.new, on.device
    canvas = canvas_of(model, setting.rows, prompt, new, texts, device)
    hot = setting.options.get("temperature", 0) > 0
    memory = PeakMemory(device)
    ours, plain, decoded, reference, plain_peak = [], [], None, None, None
    own_steps = {} if setting.sampler in ("dreamon", "token-editing") else {"steps": arguments.steps}
    options = {**own_steps, **setting.options}
    model.lm.noise = noise_for(setting.noise)
    begun = now(canvas)
    if setting.options.get("compile"):
        for _ in range(2):  # compiles, and captures
            model.sample(canvas, setting.sampler, **options)
    first = now(canvas) - begun
    for _ in range(arguments.repeats):
        memory.start()
        start = now(canvas)
        decoded = model.sample(canvas, setting.sampler, **options)
        ours.append(now(canvas) - start)
        our_peak = memory.mebibytes()
        if setting.plain:
            memory.start()
            every = arguments.every if hot else 1
            reference, seconds = plain_run(
                model, canvas, setting.plain, arguments.steps, setting.options, every
            )
            plain.append(seconds)
            plain_peak = memory.mebibytes()
    assert isinstance(decoded, Decoded)
    written = decoded.tokens[:, prompt : prompt + new]
    seconds, tokens = statistics.median(ours), text_tokens(model, decoded.tokens, prompt)
    passes = float(decoded.forward_passes.max())
    way = (setting.sampler, options)
    floor = bytes_a_pass(model.lm, loaded(model), Canvas(prompt, new), setting.rows, way) / on.bandwidth
    busy = None  # of compiled passes on a CPU nobody knows
    if device != "cpu" or not setting.options.get("compile"):
        busy = device_seconds(model.lm, lambda: model.sample(canvas, setting.sampler, **options), device)
    return {
        "name": setting.name,
        "rows": setting.rows,
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "plain_seconds": statistics.median(plain) if plain else None,
        "ratio": statistics.median(p / o for p, o in zip(plain, ours, strict=True)) if plain else None,
        "goal": setting.goal,
        "forward_passes": float(decoded.forward_passes.double().mean()),
        "ms_per_pass": 1000 * min(ours) / passes,
        "floor_ms_per_pass": 1000 * floor,
        "share_of_floor": floor * passes / min(ours),
        "host_share": None if busy is None else max(0.0, 1 - busy / min(ours)),
        "first_seconds": first,
        "peak_mib": our_peak,
        "plain_peak_mib": plain_peak,
        "agreement": None if reference is None else float((written == reference[:, prompt:]).double().mean()),
        "distinct_tokens": statistics.mean(len(set(row)) / len(row) for row in written.tolist()),
    }


COLUMNS = (
    ("tok/s", "tokens_per_second", ".1f"),
    ("s", "seconds", ".2f"),
    ("plain s", "plain_seconds", ".2f"),
    ("ratio", "ratio", ".2f"),
    ("goal", "goal", "g"),
    ("passes", "forward_passes", ".1f"),
    ("ms/pass", "ms_per_pass", ".2f"),
    ("floor ms", "floor_ms_per_pass", ".2f"),
    ("of floor", "share_of_floor", ".1%"),
    ("host", "host_share", ".1%"),
    ("first s", "first_seconds", ".1f"),
    ("MiB", "peak_mib", ".0f"),
    ("plain", "plain_peak_mib", ".0f"),
    ("same", "agreement", ".3f"),
    ("distinct", "distinct_tokens", ".3f"),
)
"""Title, key of a line, and how it is written."""


def table_line(line: dict[str, Any]) -> str:
    """A line of the table."""
    values = ("" if line[key] is None else format(line[key], how) for _, key, how in COLUMNS)
    return f"{line['name']:32}{line['rows']:5}" + "".join(f"{value:>9}" for value in values)


def ways(settings: list[Setting], arguments: argparse.Namespace) -> list[Setting]:
    """Each setting compiled or as CUDA graphs, where asked for; of a published size as it is, too."""
    modes: list[bool | str] = [True] if arguments.compile else []
    modes += ["graphs"] if arguments.graphs else []
    if not modes or settings is PUBLISHED:
        modes.insert(0, False)
    names = {False: "", True: ", compiled", "graphs": ", graphs"}
    return [
        replace(
            each,
            name=each.name + names[mode],
            options={**each.options, **({"compile": mode} if mode else {})},
        )
        for each in settings
        for mode in modes
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpoint", help="a trained model; by default random weights")
    parser.add_argument("--save-untrained", type=Path, help="write the random model here, and stop")
    parser.add_argument("--preset", default="small", choices=tuple(PRESETS))
    parser.add_argument("--prompts", nargs="*", default=[], help="text files that prompts are taken from")
    parser.add_argument("--only", nargs="*", default=[], help="names of the table's lines")
    parser.add_argument("--all", action="store_true", help="every sampler x cache x batch size")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--graphs", action="store_true", help="as CUDA graphs, without torch.compile")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--prompt", type=int, default=None, help="tokens; 128, or 256 of a published size")
    parser.add_argument("--new", type=int, default=None, help="tokens; 128, or 256 of a published size")
    parser.add_argument("--steps", type=int, default=None, help="by default one a new token")
    parser.add_argument("--every", type=int, default=16, help="of a hot plain loop's steps is timed")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    settings = GOALS if arguments.preset == "small" else PUBLISHED
    if arguments.all or arguments.checkpoint:
        settings = everything() if arguments.all else TRAINED
    length = 256 if arguments.preset in ("0.5b", "8b") and settings is PUBLISHED else 128
    arguments.prompt, arguments.new = arguments.prompt or length, arguments.new or length
    arguments.steps = arguments.steps or arguments.new
    narrow = arguments.bf16 or (settings is PUBLISHED and arguments.device != "cpu")
    if arguments.save_untrained:
        arguments.save_untrained.mkdir(parents=True)
        lm = random_model("cpu", arguments.preset, torch.float32).lm
        lm.save(arguments.save_untrained, lm.module.state_dict())
        return
    on = Measured(arguments.device, copy_bandwidth(arguments.device))
    model = (
        load(arguments.checkpoint, device=arguments.device, dtype=torch.bfloat16 if arguments.bf16 else None)
        if arguments.checkpoint
        else random_model(arguments.device, arguments.preset, torch.bfloat16 if narrow else torch.float32)
    )
    texts = [Path(path).read_text(encoding="utf-8") for path in arguments.prompts]
    lines = []
    print(f"{loaded(model).weights / 1e9:.3g} GB of weights, copies at {on.bandwidth / 1e9:,.0f} GB/s")
    print(f"{'':32}{'rows':>5}" + "".join(f"{title:>9}" for title, _, _ in COLUMNS))
    for setting in ways(settings, arguments):
        if arguments.only and setting.name.split(", compiled")[0].split(", graphs")[0] not in arguments.only:
            continue
        line = measure(model, setting, arguments, on, texts)
        lines.append(line)
        print(table_line(line), flush=True)
    if arguments.json:
        about = {
            "device": arguments.device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "preset": arguments.preset,
            "copy_bandwidth": on.bandwidth,
        }
        arguments.json.write_text(json.dumps({**about, "lines": lines}, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""The decoder against a plain loop that does what the published code does, alternating in one process.

    python benchmarks/decoding.py [--device cuda] [--only NAME ...] [--all] [--json FILE]
    python benchmarks/decoding.py --preset 8b --device cuda [--graphs] [--compile] [--rows 8 32 128]
    python benchmarks/decoding.py --preset 0.5b --bf16 --float32
    python benchmarks/decoding.py --checkpoint runs/decoding-model/model [--prompts FILE]

Each run stands beside the plain loop of its own sampler at its own temperature (`plain_loops.py`):
tokens a second (prompts and tokens after EOS don't count), forward passes, peak memory, the share of
tokens that equal the uncached result, and the ratio of the times. Steps of different samplers, caches
and batch sizes: `--all`. Times are the median of `--repeats` runs.

`--preset` builds another size: nano, small (the default, which the goals are stated for), 0.5b, 8b. Of nano,
0.5b and 8b one row is decoded with each cache, several rows with the dual one, and one by the samplers that
commit what is certain, without a plain loop; on a GPU in bfloat16.

Beside every run: the share of the floor that a pass reaches, which is what reading its weights and kept keys
takes at the speed of a copy, or what its operations take at that of a large product, whichever is longer,
both measured here; the host's share, in which the device waits between passes, of the last 32 positions
(busy in a profiled run beside the time of another: below 0, that difference is all there is);
tokens a forward pass of a row; peak memory beside the model (of captured and compiled runs with what they
keep), and what `batch_size: auto` counts on. With `--float32` also the share of tokens that equal those of
the same weights in float32.

Without --checkpoint the weights are random, which is enough for time. A sampler that commits what the
model is sure of needs a trained one: `--save-untrained runs/decoding-untrained` writes the random one,
and `platform run benchmarks/decoding-model.yaml --only train` trains it. At a
temperature the plain loop takes seconds a step, and is timed at every `--every`th of its steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from decoding_floor import Speeds, device_seconds, floor_seconds, measured_speeds
from decoding_models import (
    PeakMemory,
    canvas_of,
    in_float32,
    last_block,
    loaded,
    planned_mebibytes,
    random_model,
)
from decoding_settings import GOALS, PRESETS, PUBLISHED, TRAINED, Setting, everything
from plain_loops import now, plain_run
from torch import Tensor

from opendllm.core import load
from opendllm.core.decoding.decoder import Decoded
from opendllm.core.decoding.kept_steps import release_steps
from opendllm.core.language_model import LanguageModel
from opendllm.core.planning.canvas_reads import Canvas
from opendllm.core.testing.trained_noise import noise_for
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.options import SamplerOptions


def text_tokens(model: LanguageModel, tokens: Tensor, prompt: int) -> int:
    """How many new tokens stand before EOS."""
    eos = -1 if model.lm.eos_token_id is None else model.lm.eos_token_id
    ended = tokens[:, prompt:].eq(eos).long().cumsum(-1) > 0
    return int((~ended).sum())


@dataclass(frozen=True)
class Asked:
    """What is measured, however it is set.

    Attributes:
        model: the model.
        twin: the same weights in float32, to compare with; None where nobody asked.
        on: the device.
        texts: that prompts are taken from.
    """

    model: LanguageModel
    twin: LanguageModel | None
    on: Speeds
    texts: list[str]


def host_share(asked: Asked, canvas: Tensor, setting: Setting, options: dict[str, Any]) -> float | None:
    """The share of a short run in which the device waits; None where nobody knows.

    The device's time comes from a run that is profiled, which takes longer itself; the whole from one that
    isn't. Below 0, the two runs differed by more than the device waits.
    """
    device, lm = asked.on.device, asked.model.lm
    if device == "cpu" and setting.options.get("compile"):
        return None
    short = last_block(canvas, lm.mask_token_id)
    masks = [int((each == lm.mask_token_id).sum()) for each in (canvas[0], short[0])]
    if "steps" in options:
        options = {**options, "steps": max(1, options["steps"] * masks[1] // masks[0])}

    def decode() -> object:
        return asked.model.sample(short, setting.sampler, **options)

    decode()
    start = now(canvas)
    decode()
    seconds = now(canvas) - start
    return 1 - device_seconds(lm, decode, device) / seconds


def measure(asked: Asked, setting: Setting, arguments: argparse.Namespace) -> dict[str, Any]:
    """One line of the table; a line without a plain loop has no figures of it."""
    prompt, new, device, model = arguments.prompt, arguments.new, asked.on.device, asked.model
    canvas = canvas_of(model, setting.rows, prompt, new, asked.texts, device)
    hot = setting.options.get("temperature", 0) > 0
    memory = PeakMemory(device)
    ours, plain, decoded, reference, plain_peak = [], [], None, None, None
    registration = installed_plugins().samplers.get(setting.sampler)
    assert issubclass(registration.options, SamplerOptions)
    own_steps = {} if "steps" in registration.options.without_effect else {"steps": arguments.steps}
    options = {**own_steps, **setting.options}
    model.lm.noise = noise_for(setting.noise)
    release_steps(model.lm)  # what the line before has kept
    our_peak = 0.0
    memory.start()
    begun = now(canvas)
    if setting.options.get("compile"):
        for _ in range(2):  # compiles, and captures
            model.sample(canvas, setting.sampler, **options)
    first = now(canvas) - begun
    for _ in range(arguments.repeats):
        start = now(canvas)
        decoded = model.sample(canvas, setting.sampler, **options)
        ours.append(now(canvas) - start)
        our_peak = max(our_peak, memory.mebibytes())
        if setting.plain:
            memory.start()
            every = arguments.every if hot else 1
            reference, seconds = plain_run(
                model, canvas, setting.plain, arguments.steps, setting.options, every
            )
            plain.append(seconds)
            plain_peak = memory.mebibytes()
            memory.start()
    assert isinstance(decoded, Decoded)
    written = decoded.tokens[:, prompt : prompt + new]
    seconds, tokens = statistics.median(ours), text_tokens(model, decoded.tokens, prompt)
    passes = float(decoded.forward_passes.max())
    way = (setting.sampler, options)
    sizes = loaded(model)
    floor = floor_seconds(model.lm, sizes, Canvas(prompt, new), setting.rows, way, asked.on)
    _, decoder = model.build_sampler(setting.sampler, options)
    equal = None
    if asked.twin is not None:
        asked.twin.lm.noise = model.lm.noise
        wide = asked.twin.sample(canvas, setting.sampler, **options)
        release_steps(asked.twin.lm)
        equal = float((wide.tokens == decoded.tokens)[:, prompt : prompt + new].double().mean())
    return {
        "name": setting.name,
        "rows": setting.rows,
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "plain_seconds": statistics.median(plain) if plain else None,
        "ratio": statistics.median(p / o for p, o in zip(plain, ours, strict=True)) if plain else None,
        "goal": setting.goal,
        "forward_passes": float(decoded.forward_passes.double().mean()),
        "tokens_per_forward_pass": tokens / float(decoded.forward_passes.sum()),
        "ms_per_pass": 1000 * seconds / passes,
        "floor_ms_per_pass": 1000 * floor,
        "share_of_floor": floor * passes / seconds,
        "host_share": host_share(asked, canvas, setting, options),
        "first_seconds": first,
        "peak_mib": our_peak,
        "planned_mib": None
        if device == "cpu"
        else planned_mebibytes(model, decoder, setting.rows, prompt + new),
        "plain_peak_mib": plain_peak,
        "equal_to_float32": equal,
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
    ("TPF", "tokens_per_forward_pass", ".2f"),
    ("ms/pass", "ms_per_pass", ".2f"),
    ("floor ms", "floor_ms_per_pass", ".2f"),
    ("of floor", "share_of_floor", ".1%"),
    ("host", "host_share", ".1%"),
    ("first s", "first_seconds", ".1f"),
    ("MiB", "peak_mib", ".0f"),
    ("planned", "planned_mib", ".0f"),
    ("plain", "plain_peak_mib", ".0f"),
    ("=float32", "equal_to_float32", ".1%"),
    ("same", "agreement", ".3f"),
    ("distinct", "distinct_tokens", ".3f"),
)
"""Title, key of a line, and how it is written."""


def table_line(line: dict[str, Any]) -> str:
    """A line of the table."""
    values = ("" if line[key] is None else format(line[key], how) for _, key, how in COLUMNS)
    return f"{line['name']:32}{line['rows']:5}" + "".join(f"{value:>9}" for value in values)


def ways(settings: list[Setting], arguments: argparse.Namespace) -> list[Setting]:
    """Each setting with so many rows; uncompiled, compiled or as CUDA graphs, where asked for."""
    modes: list[bool | str] = [True] if arguments.compile else []
    modes += ["graphs"] if arguments.graphs else []
    uncompiled = settings is PUBLISHED if arguments.uncompiled is None else arguments.uncompiled
    if uncompiled or not modes:
        modes.insert(0, False)
    if arguments.rows:
        of_rows = [replace(each, rows=rows) for each in settings for rows in arguments.rows]
        settings = [each for at, each in enumerate(of_rows) if each not in of_rows[:at]]
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
    parser.add_argument(
        "--uncompiled",
        action=argparse.BooleanOptionalAction,
        help="beside those; by default of a published size",
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[], help="in place of each line's own")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--float32", action="store_true", help="the share of tokens that equal float32's")
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
    dtype = torch.bfloat16 if narrow else torch.float32
    if arguments.checkpoint:
        stored = torch.bfloat16 if arguments.bf16 else None
        model = load(arguments.checkpoint, device=arguments.device, dtype=stored)
        dtype = next(model.lm.module.parameters()).dtype
    else:
        model = random_model(arguments.device, arguments.preset, dtype)
    twin = None
    if arguments.float32 and arguments.checkpoint:
        twin = load(arguments.checkpoint, device=arguments.device, dtype=torch.float32)
    elif arguments.float32:
        twin = in_float32(model, arguments.device, arguments.preset)
    on = measured_speeds(arguments.device, dtype)
    texts = [Path(path).read_text(encoding="utf-8") for path in arguments.prompts]
    lines = []
    asked = Asked(model, twin, on, texts)
    speeds = f"copies at {on.bandwidth / 1e9:,.0f} GB/s, products at {on.operations / 1e12:,.3g} TFLOP/s"
    print(f"{loaded(model).weights / 1e9:.3g} GB of weights, {speeds}")
    print(f"{'':32}{'rows':>5}" + "".join(f"{title:>9}" for title, _, _ in COLUMNS))
    for setting in ways(settings, arguments):
        if arguments.only and setting.name.split(", compiled")[0].split(", graphs")[0] not in arguments.only:
            continue
        lines.append(measure(asked, setting, arguments))
        print(table_line(lines[-1]), flush=True)
    if arguments.json:
        about = {
            "device": arguments.device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "preset": arguments.preset,
            "copy_bandwidth": on.bandwidth,
            "product_operations": on.operations,
        }
        arguments.json.write_text(json.dumps({**about, "lines": lines}, indent=2) + "\n")


if __name__ == "__main__":
    main()

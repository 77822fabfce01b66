"""What `training.py` prints: speed, utilisation and memory beside `platform plan`'s forecast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from training_cases import Case

from opendllm.core.planning.devices import KNOWN, Device, Gpu
from opendllm.core.planning.hardware import Hardware
from opendllm.core.planning.training_plan import plan_training
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.options import ObjectiveOptions

Answer: TypeAlias = tuple[int, float, int, float]
"""Real tokens, seconds, bytes of memory of some steps, and the seconds of the run's first step."""


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


def report(case: Case, found: Mapping[str, Sequence[Answer]], peak: float) -> None:
    """A line for each way, and one for the forecast.

    Args:
        case: what was trained.
        found: each way's answers, a round each.
        peak: operations a second of a large matrix product, here.
    """
    speeds = {way: [each[0] / each[1] for each in answers] for way, answers in found.items()}
    memory = {way: max(each[2] for each in answers) for way, answers in found.items()}
    flops = case.useful_flops_per_token()
    print(f"{'':10}{'real tokens/s':>14}{'utilisation':>13}{'peak memory':>14}{'speed':>9}{'memory':>9}")
    for way in found:
        speed = statistics.median(speeds[way])
        line = f"{way:10}{speed:14,.0f}{speed * flops / peak:13.1%}{memory[way] / 2**20:10,.0f} MiB"
        if "padded" in found:
            against = ratio(speeds[way], speeds["padded"]), memory[way] / memory["padded"]
            line += "".join(f"{value:8.2f}x" for value in against)
        print(line + (f"  first step {found[way][0][3]:.1f} s" if way == "open-dllm" else ""))
    if {"packed", "padded", "open-dllm"} <= found.keys():
        packing = ratio(speeds["packed"], speeds["padded"])
        rest = ratio(speeds["open-dllm"], speeds["packed"])
        print(f"packing alone {packing:.2f}x, everything else {rest:.2f}x")
    memory_planned, speed_planned = forecast(case, peak)
    share = speed_planned * flops / peak
    print(f"{'plan':10}{speed_planned:14,.0f}{share:13.1%}{memory_planned / 2**20:10,.0f} MiB")


def report_scaling(
    case: Case,
    ranks: Sequence[int],
    peak: float,
    alone: Sequence[Answer],
    measure: Callable[[Case], Mapping[str, Sequence[Answer]]],
) -> None:
    """Our own's speed on several devices, beside as many times that on one.

    Args:
        case: what is trained, by one process.
        ranks: how many processes, one after the other.
        peak: see `report`.
        alone: the answers of one process; empty where it has none, and there is no scaling to tell.
        measure: gives the answers of several.
    """
    print(f"{'processes':10}{'real tokens/s':>14}{'utilisation':>13}{'peak memory':>14}{'scaling':>9}")
    of_one = statistics.median(each[0] / each[1] for each in alone) if alone else None
    for number in ranks:
        answers = alone if number == 1 else measure(replace(case, ranks=number)).get("open-dllm", [])
        if not answers:
            continue
        speed = statistics.median(each[0] / each[1] for each in answers)
        used = max(each[2] for each in answers)
        share = speed * case.useful_flops_per_token() / number / peak
        scaling = "-" if of_one is None else f"{speed / of_one / number:.1%}"
        print(
            f"{number:<10}{speed:14,.0f}{share:13.1%}{used / 2**20:10,.0f} MiB{scaling:>9}  "
            f"first step {answers[0][3]:.1f} s",
            flush=True,
        )


def forecast(case: Case, peak: float) -> tuple[int, float]:
    """Bytes and tokens a second that `platform plan` tells, of rows that are one document each.

    Of a GPU whose data sheet it doesn't know, and of a CPU, by the peak that was measured here.
    """
    chosen: Any = installed_plugins().objectives.get("llada").options
    objective: ObjectiveOptions = chosen(random_length_probability=0)
    is_gpu = case.device != "cpu"
    known = Gpu(torch.cuda.get_device_name(), 0, "").model if is_gpu else None
    device = KNOWN[known] if known else Device("this one", {case.precision: peak}, 1.0, 0, is_gpu)
    hardware = Hardware(case.ranks, device)
    planned = plan_training(case.settings(1), objective, case.length, case.architecture, hardware)
    return planned.memory, planned.tokens / planned.seconds


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))

"""Training beside a plain transformers loop: real tokens a second, model FLOPs utilisation, peak memory.

    python benchmarks/training.py [--preset 0.5b] [--rounds 4] [--steps 2] [--rows 16] [--device cpu]

Three ways to train one and the same LLaDA-shaped model on the same documents with the same loss:
  padded    a plain loop: documents padded to the longest of their batch, all logits, then the loss
  packed    the same loop on our packed rows, under a dense mask: what packing alone brings
  open-dllm the trainer: packed rows, attention by document, scored positions only, chunked loss
Each lives in a process of its own and takes `--steps` steps in turn; a figure is the median over
rounds, a ratio the median of the rounds' ratios. Tokens are real ones, never padding. Useful
operations are those of real tokens within their document, half of which reach the head; the peak is a
large matrix product's, measured here. Memory on a CPU is the process's largest resident set
(VmHWM) less what it held after its imports, on a GPU the allocator's largest; beside it stands what
`platform plan` forecasts, and the speed at the utilisation that it assumes.

`--preset` takes a published size (nano, 0.5b, 1b, 8b; by default small, with the sizes that may be given one
by one). The ways are there together, and take turns; with `--one-at-a-time` (0.5b and larger always) each is
done before the next begins. `--ways open-dllm` measures ours alone. A way that runs out of memory says so.
Of our own: `--compile`, `--zero STAGE`, `--lora RANK`, `--activation-checkpointing`, `--kernel NAME` (the
attention of packed documents on a GPU; `attention.py` has them side by side), and `--ranks 1 2`, which trains
on so many GPUs in turn and tells the scaling; rows are those of one process. What the first step takes,
compilation included, stands beside.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from training_cases import PRESETS, Case, packed_batches, padded_batches, plain_loop

from opendllm.core.data.tokenizers import train_tokenizer
from opendllm.core.foundation.process_group import join_process_group
from opendllm.core.networks import varlen_kernels
from opendllm.core.planning.devices import KNOWN, Device, Gpu
from opendllm.core.planning.hardware import Hardware
from opendllm.core.planning.training_plan import plan_training
from opendllm.core.training.deepspeed_environment import deepspeed_environment
from opendllm.core.training.documents import DocumentTraining
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.registries.corpora import Document
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.options import ObjectiveOptions

WARM_UP = {"cpu": 2, "cuda": 12}
"""Steps before the clock runs: a GPU loads kernels and takes memory with the first rows of each length."""
Answer = tuple[int, float, int, float]
"""Real tokens, seconds, bytes of memory of some steps, and the seconds of the run's first step."""
PORT = 29511


def our_trainer(case: Case, most_steps: int, stepped: Callable[[int, float], None]) -> None:
    """The platform's own; `stepped` is told the real tokens of each step, and its seconds."""
    plugins, rows = installed_plugins(), case.packed_rows()
    settings = case.settings(most_steps)
    together = settings.global_batch_size
    firsts = range(0, most_steps * together, together)
    real = [int(rows.batch(range(first, first + together)).maskable.sum()) for first in firsts]

    def on_step(step: int, loss: float, tokens_per_second: float) -> None:
        stepped(real[step - 1], real[step - 1] / tokens_per_second)

    objective = settings.objective
    with tempfile.TemporaryDirectory() as folder:
        join_process_group(torch.device(case.device))
        train(
            TrainingRun(
                settings=settings,
                seed=0,
                lm=case.lm(),
                tokenizer=train_tokenizer([Document("", "text")], 258),
                method=DocumentTraining(
                    objective=plugins.objectives.get(objective.name).build(objective.options),
                    schedule=plugins.noise_schedules.get("linear").build(),
                    train_rows=rows,
                    held_out_rows=rows,
                ),
                folder=Path(folder),
                provenance={},
                on_step=on_step,
            )
        )


class FinishedError(Exception):
    """The parent has seen enough."""


def work(way: str, case: Case, most_steps: int, kernel: str, parent: Connection) -> None:
    """A child: trains when it is told to, and reports tokens, seconds and memory."""
    with deepspeed_environment():
        import deepspeed
    import transformers

    del deepspeed, transformers
    if kernel:
        varlen_kernels.KERNELS = (named_kernel(kernel),)
    baseline = resident("VmRSS") if case.device == "cpu" else 0
    parent.send("ready")
    left, tokens, started, first = parent.recv(), 0, time.perf_counter(), 0.0

    def stepped(step_tokens: int, seconds: float = 0.0) -> None:
        nonlocal left, tokens, started, first
        left, tokens, first = left - 1, tokens + step_tokens, first or seconds
        if left == 0:
            if case.device != "cpu":
                torch.cuda.synchronize()
            peak = resident("VmHWM") - baseline if case.device == "cpu" else torch.cuda.max_memory_allocated()
            parent.send((tokens, time.perf_counter() - started, peak, first))
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
    except torch.OutOfMemoryError:
        parent.send("out of memory")


def another_rank(rank: int, case: Case, most_steps: int, kernel: str) -> None:
    """A process beside our own first one: steps with it until it is ended."""
    set_rank(rank, case)
    if kernel:
        varlen_kernels.KERNELS = (named_kernel(kernel),)
    our_trainer(case, most_steps, lambda _tokens, _seconds: None)


def first_rank(case: Case, most_steps: int, kernel: str, parent: Connection) -> None:
    """`work` of our own, where there are several processes."""
    set_rank(0, case)
    work("open-dllm", case, most_steps, kernel, parent)


def set_rank(rank: int, case: Case) -> None:
    """As a launcher does, for processes of this machine."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(case.ranks), MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(PORT),
    )  # fmt: skip
    if case.device != "cpu":
        torch.cuda.set_device(rank)


def named_kernel(name: str) -> varlen_kernels.VarlenKernel:
    """One of ours."""
    [found] = [kernel for kernel in varlen_kernels.KERNELS if kernel.name == name]
    return found


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
LARGE = ("0.5b", "1b", "8b")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2, help="of each way in a round")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--preset", default="small", choices=tuple(PRESETS))
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--one-at-a-time", action="store_true")
    for name in PRESETS["small"]:
        if name != "tied":
            parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="by default the preset's")
    parser.add_argument("--compile", action="store_true", help="our own, by torch.compile")
    parser.add_argument("--zero", type=int, default=1, choices=(0, 1, 2, 3), help="our own's stage")
    parser.add_argument("--lora", type=int, default=0, help="rank of our own's adapters")
    parser.add_argument("--activation-checkpointing", action="store_true", help="our own's")
    parser.add_argument(
        "--ranks", type=int, nargs="+", default=[1], help="processes of our own, one after other"
    )
    kernels = [kernel.name for kernel in varlen_kernels.KERNELS]
    parser.add_argument("--kernel", default="", choices=kernels, help="our own's attention, on a GPU")
    given = vars(parser.parse_args())
    rounds, steps, ways = given.pop("rounds"), given.pop("steps"), given.pop("ways")
    ranks, kernel = given.pop("ranks"), given.pop("kernel")
    preset = given.pop("preset")
    alone = given.pop("one_at_a_time") or preset in LARGE
    sizes = {**PRESETS[preset], **{key: value for key, value in given.items() if value is not None}}
    case = Case(**sizes)
    peak = measured_peak(case.device)
    print(f"{case}\ntorch {torch.__version__}, {torch.get_num_threads()} threads, {case.precision}, "
          f"matrix products at {peak / 1e12:.3g} TFLOP/s", flush=True)  # fmt: skip
    found: dict[str, list[Answer]] = {}
    for together in [[way] for way in ways] if alone else [ways]:
        found |= measured(together, case, rounds, steps, kernel)
    report(case, found, peak)
    if ranks != [1]:
        report_scaling(case, ranks, peak, lambda one: measured(["open-dllm"], one, rounds, steps, kernel))


def measured(
    ways: Sequence[str], case: Case, rounds: int, steps: int, kernel: str
) -> dict[str, list[Answer]]:
    """Each way's answers, a round each; the ways take turns. None of one that ran out of memory."""
    context = multiprocessing.get_context("spawn")
    warm_up = WARM_UP["cpu" if case.device == "cpu" else "cuda"]
    most_steps = warm_up + rounds * steps + 1  # never reached: what follows a run's last step is not timed
    pipes, processes, others = {}, [], []
    for way in ways:
        pipes[way], child = context.Pipe()
        if case.ranks > 1:
            own = context.Process(target=first_rank, args=(case, most_steps, kernel, child), daemon=True)
            for rank in range(1, case.ranks):
                beside = (rank, case, most_steps, kernel)
                others.append(context.Process(target=another_rank, args=beside, daemon=True))
                others[-1].start()
        else:
            own = context.Process(target=work, args=(way, case, most_steps, kernel, child), daemon=True)
        processes.append(own)
        own.start()
        child.close()
        pipes[way].recv()
    found: dict[str, list[Answer]] = {way: [] for way in ways}
    for number in range(-1, rounds):
        for way in list(pipes):
            pipes[way].send(warm_up if number < 0 else steps)
            answer = _answer(pipes[way])
            if isinstance(answer, str):
                print(f"{way:10}{answer}", flush=True)
                del pipes[way], found[way]
            elif number >= 0:
                found[way].append(answer)
    for process in others:  # they wait for the first one, which ends without a word
        process.kill()
    for pipe in pipes.values():
        pipe.send(0)
    for process in [*processes, *others]:
        process.join()
    return found


def _answer(pipe: Connection) -> Answer | str:
    """Of a child, or why there is none."""
    try:
        answer: Answer | str = pipe.recv()
    except EOFError:
        return "its process has ended"
    return answer


def report(case: Case, found: dict[str, list[Answer]], peak: float) -> None:
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
    case: Case, ranks: Sequence[int], peak: float, measure: Callable[[Case], dict[str, list[Answer]]]
) -> None:
    """Our own's speed on several devices, beside as many times that on one."""
    print(f"{'processes':10}{'real tokens/s':>14}{'utilisation':>13}{'peak memory':>14}{'scaling':>9}")
    alone = 0.0
    for number in ranks:
        answers = measure(replace(case, ranks=number)).get("open-dllm", [])
        if not answers:
            continue
        speed = statistics.median(each[0] / each[1] for each in answers)
        used = max(each[2] for each in answers)
        alone = alone or speed / number
        share = speed * case.useful_flops_per_token() / number / peak
        print(
            f"{number:<10}{speed:14,.0f}{share:13.1%}{used / 2**20:10,.0f} MiB{speed / alone / number:9.1%}  "
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


def ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()

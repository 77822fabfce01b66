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
on so many GPUs in turn and tells the scaling beside one, which is always measured; rows are those of one
process. What the first step takes, compilation included, stands beside.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from training_cases import PRESETS, Case, packed_batches, padded_batches, plain_loop
from training_report import Answer, measured_peak, report, report_scaling

from opendllm.core.data.tokenizers import train_tokenizer
from opendllm.core.foundation.process_group import join_process_group
from opendllm.core.networks import varlen_kernels
from opendllm.core.training.deepspeed_environment import deepspeed_environment
from opendllm.core.training.documents import DocumentTraining
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.registries.corpora import Document
from opendllm.registries.discovery import installed_plugins

WARM_UP = {"cpu": 2, "cuda": 12}
"""Steps before the clock runs: a GPU loads kernels and takes memory with the first rows of each length."""
PORT_VARIABLE = "MASTER_PORT"


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
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(case.ranks), MASTER_ADDR="127.0.0.1"
    )
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


WAYS = ("padded", "packed", "open-dllm")
LARGE = ("0.5b", "1b", "8b")


def positive(text: str) -> int:
    """An argument that counts something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=4)
    parser.add_argument("--steps", type=positive, default=2, help="of each way in a round")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--preset", default="small", choices=tuple(PRESETS))
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--one-at-a-time", action="store_true")
    for name in PRESETS["small"]:
        if name != "tied":
            parser.add_argument(f"--{name.replace('_', '-')}", type=positive, help="by default the preset's")
    parser.add_argument("--compile", action="store_true", help="our own, by torch.compile")
    parser.add_argument("--zero", type=int, default=1, choices=(0, 1, 2, 3), help="our own's stage")
    parser.add_argument("--lora", type=positive, default=0, help="rank of our own's adapters")
    parser.add_argument("--activation-checkpointing", action="store_true", help="our own's")
    parser.add_argument(
        "--ranks", type=positive, nargs="+", default=[1], help="processes of our own, one after other"
    )
    kernels = [kernel.name for kernel in varlen_kernels.KERNELS]
    parser.add_argument("--kernel", default="", choices=kernels, help="our own's attention, on a GPU")
    return parser


def main() -> None:
    parser = arguments()
    given = vars(parser.parse_args())
    rounds, steps, ways = given.pop("rounds"), given.pop("steps"), given.pop("ways")
    ranks, kernel = given.pop("ranks"), given.pop("kernel")
    preset = given.pop("preset")
    alone = given.pop("one_at_a_time") or preset in LARGE
    sizes = {**PRESETS[preset], **{key: value for key, value in given.items() if value is not None}}
    case = Case(**sizes)
    if case.mistake:
        parser.error(case.mistake)
    if ranks != [1] and "open-dllm" not in ways:
        parser.error("--ranks is for --ways open-dllm")
    peak = measured_peak(case.device)
    print(f"{case}\ntorch {torch.__version__}, {torch.get_num_threads()} threads, {case.precision}, "
          f"matrix products at {peak / 1e12:.3g} TFLOP/s", flush=True)  # fmt: skip
    found: dict[str, list[Answer]] = {}
    for together in [[way] for way in ways] if alone else [ways]:
        found |= measured(together, case, rounds, steps, kernel)
    report(case, found, peak)
    if ranks != [1]:
        of_one = found.get("open-dllm", [])
        report_scaling(
            case, ranks, peak, of_one, lambda one: measured(["open-dllm"], one, rounds, steps, kernel)
        )


def measured(
    ways: Sequence[str], case: Case, rounds: int, steps: int, kernel: str
) -> dict[str, list[Answer]]:
    """Each way's answers, a round each; the ways take turns. None of one that ran out of memory."""
    warm_up = WARM_UP["cpu" if case.device == "cpu" else "cuda"]
    most_steps = warm_up + rounds * steps + 1  # never reached: what follows a run's last step is not timed
    pipes, processes, others = started(ways, case, most_steps, kernel)
    found: dict[str, list[Answer]] = {way: [] for way in ways}
    for number in range(-2, rounds):  # first they say that they are ready, then they warm up
        for way in list(pipes):
            if number > -2:
                pipes[way].send(warm_up if number < 0 else steps)
            answer = _answer(pipes[way], others)
            if not isinstance(answer, str):
                found[way] += [answer] if number >= 0 else []
            elif answer != "ready":
                print(f"{way:10}{answer}", flush=True)
                del pipes[way], found[way]
    for process in others:  # they wait for the first one, which ends without a word
        process.kill()
    for pipe in pipes.values():
        pipe.send(0)
    if others and not found:  # it waits for what has ended
        processes[0].kill()
    for process in [*processes, *others]:
        process.join()
    return found


def started(
    ways: Sequence[str], case: Case, most_steps: int, kernel: str
) -> tuple[dict[str, Connection], list[BaseProcess], list[BaseProcess]]:
    """(a pipe to each way, its process, further ranks of our own)."""
    context = multiprocessing.get_context("spawn")
    os.environ[PORT_VARIABLE] = str(free_port())
    pipes: dict[str, Connection] = {}
    processes: list[BaseProcess] = []
    for way in ways:
        pipes[way], child = context.Pipe()
        if case.ranks > 1:
            own = context.Process(target=first_rank, args=(case, most_steps, kernel, child), daemon=True)
        else:
            own = context.Process(target=work, args=(way, case, most_steps, kernel, child), daemon=True)
        processes.append(own)
        own.start()
        child.close()
    others: list[BaseProcess] = []
    for rank in range(1, case.ranks):
        others.append(
            context.Process(target=another_rank, args=(rank, case, most_steps, kernel), daemon=True)
        )
        others[-1].start()
    return pipes, processes, others


def _answer(pipe: Connection, others: Sequence[BaseProcess]) -> Answer | str:
    """Of a child, or why there is none; the others end before it only where something went wrong."""
    ready = wait([pipe, *[process.sentinel for process in others]])
    if pipe not in ready and not pipe.poll(5):
        return "one of its processes has ended"
    try:
        answer: Answer | str = pipe.recv()
    except EOFError:
        return "its process has ended"
    return answer


def free_port() -> int:
    """For processes of this machine to meet at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


if __name__ == "__main__":
    main()

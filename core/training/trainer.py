"""The training loop of every objective and every backbone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from opendllm.core.checkpoints.files import steps
from opendllm.core.data.rows import Rows
from opendllm.core.foundation.peak_memory import peak_memory_bytes, restart_peak_memory
from opendllm.core.foundation.process_group import sum_of_numbers, summed
from opendllm.core.foundation.ranks import rank, world_size
from opendllm.core.launching.stopping import EXIT_CODES, Stopped, StopRequest, stop_requests
from opendllm.core.manifest.train_schema import Train
from opendllm.core.progress.progress import Progress
from opendllm.core.toolkit.draws import hash_address, stream_id
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.training.checkpoints import SavedStep, TakenStep, newest_whole, restore, save_step
from opendllm.core.training.deepspeed_environment import deepspeed_environment
from opendllm.core.training.engine import set_learning_rate, started_engine, take_step
from opendllm.core.training.held_out import held_out_loss
from opendllm.core.training.metrics_log import MetricsLog
from opendllm.core.training.model_changes import prepare_for_training
from opendllm.core.training.prefetcher import Prefetcher
from opendllm.core.training.settings import batch_shape, learning_rate, zero_stage
from opendllm.core.training.trackers import open_trackers
from opendllm.core.training.trained_weights import TrainedWeights
from opendllm.core.training.weight_checks import (
    NonFiniteLossError,
    check_nothing_is_lost,
    check_untrained,
    warning_where_little_moves,
)
from opendllm.registries.backbones import DiffusionLM, LossPart
from opendllm.registries.errors import UserError
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Objective
from opendllm.registries.sequences import PADDING_SEGMENT, TokenIds, TokenRows

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from transformers import PreTrainedTokenizerFast

OnStep = Callable[[int, float, float], None]
"""Told (step, loss, tokens per second) after every step."""


@dataclass(frozen=True)
class CorruptedStep:
    """What this rank's part of a step reads.

    Attributes:
        micro_batches: the rows.
        data_tokens: how many tokens of the data they are.
        count: what the loss sum is divided by: over all micro-batches and ranks, so that neither matters.
    """

    micro_batches: list[Corruption]
    data_tokens: int
    count: float


@dataclass(frozen=True)
class TrainingRun:
    """Everything that one training run is made of.

    Attributes:
        settings: the manifest's `train` section.
        seed: of data order and noise.
        lm: the model, with its starting weights on its device.
        tokenizer: saved with every checkpoint.
        objective: corrupts and weighs.
        schedule: the noise schedule.
        train_rows: what is learnt.
        held_out_rows: what the held-out loss is measured on.
        folder: the variant's; checkpoints and train.jsonl go there.
        provenance: travels with every checkpoint.
        on_step: told how far it is.
        pretrained: folder or hub id of the checkpoint that `lm` is; None where its weights were drawn.
        progress: told what else is being done.
    """

    settings: Train
    seed: int
    lm: DiffusionLM
    tokenizer: PreTrainedTokenizerFast
    objective: Objective
    schedule: NoiseSchedule
    train_rows: Rows
    held_out_rows: Rows
    folder: Path
    provenance: Mapping[str, Any]
    on_step: OnStep
    pretrained: str | None = None
    progress: Progress = field(default_factory=Progress)


def train(run: TrainingRun) -> None:
    """Train to the last step, going on from the newest checkpoint in the run's folder.

    Raises:
        NonFiniteLossError: the loss is not finite; the last checkpoint is intact.
        UserError: the batch doesn't divide, no checkpoint can be used, or the disk can't be written.
        Stopped: SIGTERM or Ctrl-C came; the step that was under way is saved.
    """
    try:
        with deepspeed_environment():
            _train(run)
    except OSError as error:
        raise UserError(
            f"{error.filename or run.folder} cannot be written or read ({error.strerror or error}): training "
            f"stopped; what {run.folder} has of checkpoints is whole"
        ) from error


def _train(run: TrainingRun) -> None:
    settings = run.settings
    micro_batch, accumulation = batch_shape(settings, world_size())
    weights, parameters = prepare_for_training(run.lm, settings, run.seed, run.pretrained)
    if (
        settings.load_balancing is not None
    ):  # a mean over the step's rows, of which each forward pass has as many
        run.lm.balance_experts(settings.load_balancing / (accumulation * world_size()))
    run.lm.module.train()  # a loaded network comes ready to be read
    provenance = {**run.provenance, "parameters": parameters}
    saved = newest_whole(run.folder, provenance)
    extended = saved.extended_to(settings.steps)
    provenance |= {"extended": list(extended)} if extended else {}
    convert = saved.of_other_processes and zero_stage(settings) > 0
    with ExitStack() as started:
        with run.progress.activity("starting DeepSpeed"):
            own = started_engine(run.lm.module, settings, micro_batch, accumulation, convert)
            engine = started.enter_context(own)
        if saved.step:
            with run.progress.activity(f"reading step {saved.step}"):
                restore(engine, weights, saved, convert)
        _take_steps(run, engine, weights, saved, provenance)


def _take_steps(
    run: TrainingRun,
    engine: DeepSpeedEngine,
    weights: TrainedWeights,
    saved: SavedStep,
    provenance: Mapping[str, Any],
) -> None:
    """Those that are left."""
    settings = run.settings
    micro_batch, accumulation = batch_shape(settings, world_size())
    step, tokens = saved.step, saved.tokens
    trackers = open_trackers(
        settings.trackers if rank() == 0 else (), run.folder, run.provenance.get("manifest", {}), step
    )
    log = MetricsLog(run.folder / "train.jsonl", step, rank() == 0, trackers)
    restart_peak_memory()
    batches = Prefetcher(
        lambda step: _corrupt_step(run, step, micro_batch, accumulation), settings.steps, engine.device
    )

    # One layer's activations are kept, not all of them as in training: twice its rows fit on a GPU, which
    # small passes would leave idle, and under ZeRO 3 fetch the weights for each.
    measured_at_once = 2 * micro_batch if engine.device.type == "cuda" else 0

    def measure() -> float | None:
        if run.lm.noise.bound == "none":
            return None
        with run.progress.activity("measuring the held-out loss", unit="rows") as task, weights.evaluated():
            return held_out_loss(run.lm, run.held_out_rows, settings.held_out, task.update, measured_at_once)

    with closing(log), stop_requests(lambda: _what_is_saved(run.folder)) as stop:
        if step == 0:
            untrained = measure()
            check_untrained(untrained)
            log.add(0, **_measured(untrained))
        while step < settings.steps:
            step += 1
            started = time.perf_counter()
            rate = learning_rate(settings, step)
            set_learning_rate(engine, rate)
            compiling = settings.compile and step == saved.step + 1
            with run.progress.activity("compiling") if compiling else nullcontext():
                loss, norm, step_tokens, stopping = _take_step(run, engine, step, batches, stop)
            weights.update(step)
            seconds = time.perf_counter() - started
            if not compiling:
                stop.watchdog.expect(seconds)
            tokens += step_tokens
            last = step == settings.steps
            saving = last or stopping > 0 or _due(step, settings.checkpoint.every)
            measured = None
            if last or _due(step, settings.held_out.every) or (saving and settings.checkpoint.keep_best):
                measured = measure()
            check_nothing_is_lost(engine, run.lm, run.held_out_rows, step, measured, saving)
            log.add(
                step,
                loss=loss,
                learning_rate=rate,
                tokens=tokens,
                tokens_per_second=step_tokens / seconds,
                gradient_norm=norm,
                seconds=seconds,
                processes=world_size(),
                peak_memory_bytes=peak_memory_bytes(),
                **_measured(measured),
            )
            run.on_step(step, loss, step_tokens / seconds)
            if saving:
                log.sync()
                taken = TakenStep(step, {**provenance, "tokens": tokens}, measured)
                with run.progress.activity(f"saving step {step}"), stop.watchdog.saving(run.folder):
                    save_step(engine, weights, run.tokenizer, run.folder, taken, settings.checkpoint)
            if stopping:
                raise Stopped(f"stopped after step {step} of {settings.steps}, which is saved", stopping)
    if stop.made:  # during the last save
        raise Stopped("stopped after the last step, which is saved", stop.exit_code)


def _measured(held_out_loss: float | None) -> dict[str, float]:
    """What is logged of it; nothing where the objective's models have no likelihood."""
    return {} if held_out_loss is None else {"held_out_loss": held_out_loss}


def _take_step(
    run: TrainingRun,
    engine: DeepSpeedEngine,
    step: int,
    batches: Prefetcher[CorruptedStep],
    stop: StopRequest,
) -> tuple[float, float, int, int]:
    """One optimizer step: (loss, gradient norm, real tokens of all ranks, the exit code where any rank was
    asked to stop, else 0).
    """
    corrupted = batches.take(step)
    corruptions, count = corrupted.micro_batches, corrupted.count
    # What torch draws itself, for dropout say, is a function of the step too: a resumed run repeats it.
    torch.manual_seed(int(hash_address(run.seed, stream_id("torch"), step, rank())))
    answers = _answer_count(run, engine, corruptions)
    parts = [run.objective.loss_part(corruption, run.schedule, count, answers) for corruption in corruptions]
    device_loss = _accumulate(engine, corruptions, parts)
    batches.prepare(step + 1)
    with warning_where_little_moves(engine, run.settings, step):
        device_norm = take_step(engine)
    # Everything is under way, and waited for once.
    asked = [stop.made and stop.exit_code == code for code in EXIT_CODES]
    own = torch.tensor([corrupted.data_tokens, *asked], dtype=torch.float64, device=engine.device)
    loss, step_tokens, *stopping = summed(torch.cat([device_loss[None], own])).tolist()
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            f"the loss of step {step} is {loss}: training stopped and did not save the step; "
            f"lower train.learning_rate, or look at the data"
        )
    norm = float(device_norm)
    if not math.isfinite(norm) or norm < 0:  # DeepSpeed's own sign of it
        raise NonFiniteLossError(
            f"the gradients of step {step} are not finite: training stopped and did not save the step; "
            f"lower train.learning_rate, or look at the data"
        )
    return (
        loss,
        norm,
        int(step_tokens),
        next((code for code, by in zip(EXIT_CODES, stopping, strict=True) if by), 0),
    )


def _corrupt_step(run: TrainingRun, step: int, micro_batch: int, accumulation: int) -> CorruptedStep:
    """This rank's micro-batches of a step, corrupted: a pure function of the seed and the step."""
    batch = run.settings.global_batch_size
    first = (step - 1) * batch + rank() * micro_batch * accumulation
    device = next(run.lm.module.parameters()).device
    corruptions, tokens = [], []
    for start in range(first, first + micro_batch * accumulation, micro_batch):
        rows = run.train_rows.batch(range(start, start + micro_batch)).to(device)
        ids = TokenIds(run.lm.vocab_size, run.lm.mask_token_id)
        rows = replace(rows, blocks=run.lm.attention.blocks(rows.positions), ids=ids)
        noise = AddressedNoise(run.seed, rows, batch)
        masking = run.objective.mask(rows, noise, run.schedule)
        corruptions.append(run.objective.corrupt(masking, run.schedule, run.lm.mask_token_id))
        tokens.append(_data_tokens(masking.rows, start, micro_batch))
    counts = torch.stack([corruption.count for corruption in corruptions]).sum()
    data_tokens, own_count = torch.stack([torch.stack(tokens).sum().double(), counts.double()]).tolist()
    return CorruptedStep(corruptions, int(data_tokens), max(1.0, sum_of_numbers([own_count])[0]))


@torch.no_grad()
def _answer_count(run: TrainingRun, engine: DeepSpeedEngine, corruptions: Sequence[Corruption]) -> float:
    """What a mean over answers is divided by, which costs a pass of its own over the step's rows."""
    if not run.objective.averages_answers:
        return 1.0
    own = torch.zeros((), dtype=torch.float64, device=engine.device)
    for corruption in corruptions:
        part = run.objective.answer_count(corruption)
        own += run.lm.module(corruption.inputs, corruption.targets, corruption.scored, part)
    return max(1.0, float(summed(own)))


def _accumulate(
    engine: DeepSpeedEngine, corruptions: Sequence[Corruption], parts: Sequence[LossPart]
) -> Tensor:
    """Forward and backward of every micro-batch; this rank's part of the loss, which may not be there yet."""
    total = torch.zeros((), dtype=torch.float64, device=engine.device)
    for number, (corruption, part) in enumerate(zip(corruptions, parts, strict=True), start=1):
        engine.set_gradient_accumulation_boundary(number == len(corruptions))
        loss = engine(corruption.inputs, corruption.targets, corruption.scored, part)
        # DeepSpeed averages gradients over the ranks; the count is already global.
        engine.backward(loss * world_size(), scale_wrt_gas=False)
        total += loss.detach().double()
    return total


def _data_tokens(read: TokenRows, first: int, samples: int) -> Tensor:
    """How many real tokens of the samples from `first` on are read, each once, whatever copies are made."""
    real = (read.segments != PADDING_SEGMENT).sum(-1)
    by_sample = torch.zeros(samples, dtype=torch.int64, device=real.device)
    return by_sample.scatter_reduce(0, read.sample_index - first, real, "amax").sum()


def _what_is_saved(folder: Path) -> str:
    saved = steps(folder)
    return f"step {saved[-1][0]} is saved in {saved[-1][1]}" if saved else "nothing is saved yet"


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0

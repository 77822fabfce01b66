"""The training loop of every objective, every reward and every backbone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from opendllm.core.checkpoints.files import steps
from opendllm.core.checkpoints.ledger import enter_measured
from opendllm.core.foundation.peak_memory import peak_memory_bytes, restart_peak_memory
from opendllm.core.foundation.process_group import summed
from opendllm.core.foundation.ranks import rank, world_size
from opendllm.core.launching.stopping import EXIT_CODES, Stopped, StopRequest, stop_requests
from opendllm.core.manifest.train_schema import Train
from opendllm.core.progress.progress import Progress
from opendllm.core.toolkit.draws import hash_address, stream_id
from opendllm.core.training.checkpoints import SavedStep, StepToSave, save_step
from opendllm.core.training.deepspeed_environment import deepspeed_environment
from opendllm.core.training.engine import set_learning_rate, started_engine, take_step
from opendllm.core.training.method import StepGradients, TrainingMethod, TrainingSteps
from opendllm.core.training.metrics_log import MetricsLog
from opendllm.core.training.model_changes import prepare_for_training
from opendllm.core.training.numbers_under_way import NumbersUnderWay, on_device
from opendllm.core.training.resuming import newest_whole, restore
from opendllm.core.training.settings import batch_shape, due, learning_rate, zero_stage
from opendllm.core.training.trackers import open_trackers
from opendllm.core.training.trained_weights import TrainedWeights
from opendllm.core.training.weight_checks import (
    NonFiniteLossError,
    check_nothing_is_lost,
    check_untrained,
    warning_where_little_moves,
)
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.errors import UserError
from opendllm.registries.machine_errors import in_words

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from transformers import PreTrainedTokenizerFast

OnStep: TypeAlias = Callable[..., None]
"""Told (step, loss, tokens per second) after every step, and by name what else there is to show."""


@dataclass(frozen=True)
class TrainingRun:
    """Everything that one training run is made of.

    Attributes:
        settings: the manifest's `train` section.
        seed: of data order and noise.
        lm: the model, with its starting weights on its device.
        tokenizer: saved with every checkpoint.
        method: what is learnt, and how.
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
    method: TrainingMethod
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
        if not run.folder.is_dir():
            raise UserError(
                f"{run.folder} is gone, moved or removed while it was trained in: bring it back and run again"
            ) from error
        raise UserError(
            f"{error.filename or run.folder} cannot be written or read ({in_words(error)}): training "
            f"stopped; what {run.folder} has of checkpoints is whole"
        ) from error


def _train(run: TrainingRun) -> None:
    settings = run.settings
    micro_batch, accumulation = batch_shape(settings, world_size())
    weights, parameters = prepare_for_training(run.lm, settings, run.seed, run.pretrained)
    if settings.load_balancing is not None:
        # A mean over the step's rows, of which each forward pass has as many.
        run.lm.balance_experts(settings.load_balancing / (accumulation * world_size()))
    run.lm.module.train()  # a loaded network comes ready to be read
    provenance = {**run.provenance, "parameters": parameters}
    saved = newest_whole(run.folder, provenance)
    extended = saved.extended_to(settings.steps)
    provenance |= {"extended": list(extended)} if extended else {}
    convert = saved.of_other_processes and zero_stage(settings) > 0
    taken_by = run.method.steps_of(run, weights)
    with ExitStack() as started:
        with run.progress.activity("starting DeepSpeed"):
            own = started_engine(run.lm.module, settings, micro_batch, accumulation, convert)
            engine = started.enter_context(own)
        if saved.step:
            with run.progress.activity(f"reading step {saved.step}"):
                restore(engine, weights, saved, convert)
        taken_by.begin(engine, saved)
        _take_steps(run, engine, weights, saved, taken_by, provenance)


def _take_steps(
    run: TrainingRun,
    engine: DeepSpeedEngine,
    weights: TrainedWeights,
    saved: SavedStep,
    taken_by: TrainingSteps,
    provenance: Mapping[str, Any],
) -> None:
    """Those that are left."""
    settings = run.settings
    step, tokens = saved.step, saved.tokens
    trackers = open_trackers(
        settings.trackers if rank() == 0 else (), run.folder, run.provenance.get("manifest", {}), step
    )
    log = MetricsLog(run.folder / "train.jsonl", step, rank() == 0, trackers)
    restart_peak_memory()
    with closing(log), closing(taken_by), stop_requests(lambda: _what_is_saved(run.folder)) as stop:
        if step == 0:
            with stop.watchdog.measuring():
                untrained = taken_by.measured(0, last=False, saving=False)
            check_untrained(untrained.get("held_out_loss"))
            log.add(0, **untrained)
        if saved.unmeasured:
            _measure_late(run, engine, taken_by, step, log, stop)
        while step < settings.steps:
            step += 1
            started = time.perf_counter()
            rate = learning_rate(settings, step)
            set_learning_rate(engine, rate)
            compiling = settings.compile and step == saved.step + 1
            with run.progress.activity("compiling") if compiling else nullcontext():
                taken = _take_step(run, engine, step, taken_by, stop)
            weights.update(step)
            seconds = time.perf_counter() - started
            if not compiling:
                stop.watchdog.expect(seconds)
            tokens += taken.tokens
            last = step == settings.steps
            saving = last or taken.stopping > 0 or due(step, settings.checkpoint.every)
            # There may be no time for it: what is asked to stop is saved first, and measured when it goes on.
            unmeasured = taken.stopping > 0 and not last
            with stop.watchdog.measuring():
                measured = {} if unmeasured else taken_by.measured(step, last, saving)
            held_out = measured.get("held_out_loss")
            check_nothing_is_lost(engine, taken_by.spot_check, step, held_out, saving)
            log.add(
                step,
                loss=taken.loss,
                learning_rate=rate,
                tokens=tokens,
                tokens_per_second=taken.tokens / seconds,
                gradient_norm=taken.norm,
                seconds=seconds,
                processes=world_size(),
                peak_memory_bytes=peak_memory_bytes(),
                **taken.figures,
                **measured,
            )
            run.on_step(step, taken.loss, taken.tokens / seconds, **taken.shown)
            if saving:
                log.sync()
                about = {**provenance, "tokens": tokens} | ({"unmeasured": True} if unmeasured else {})
                to_save = StepToSave(step, about, held_out, taken_by.save)
                with run.progress.activity(f"saving step {step}"), stop.watchdog.saving(run.folder):
                    save_step(engine, weights, run.tokenizer, run.folder, to_save, settings.checkpoint)
            if taken.stopping:
                raise Stopped(
                    f"stopped after step {step} of {settings.steps}, which is saved", taken.stopping
                )
    if stop.made:  # during the last save
        raise Stopped("stopped after the last step, which is saved", stop.exit_code)


def _measure_late(
    run: TrainingRun,
    engine: DeepSpeedEngine,
    taken_by: TrainingSteps,
    step: int,
    log: MetricsLog,
    stop: StopRequest,
) -> None:
    """What was due at a step that was saved without it, whose weights are there again."""
    with stop.watchdog.measuring():
        measured = taken_by.measured(step, last=False, saving=True)
    held_out = measured.get("held_out_loss")
    check_nothing_is_lost(engine, taken_by.spot_check, step, held_out, saving=False)
    log.amend(step, **measured)
    if rank() == 0 and held_out is not None:
        enter_measured(run.folder, step, held_out)


@dataclass(frozen=True)
class TakenStep:
    """An optimizer step.

    Attributes:
        loss: of the weights before it.
        norm: of the gradients.
        tokens: real ones that all ranks read.
        stopping: the exit code where any rank was asked to stop, else 0.
        figures: see `StepGradients`.
        shown: those of them that the status line shows.
    """

    loss: float
    norm: float
    tokens: int
    stopping: int
    figures: Mapping[str, float]
    shown: Mapping[str, float]


def _take_step(
    run: TrainingRun, engine: DeepSpeedEngine, step: int, taken_by: TrainingSteps, stop: StopRequest
) -> TakenStep:
    """One optimizer step."""
    # What torch draws itself, for dropout say, is a function of the step too: a resumed run repeats it.
    torch.manual_seed(int(hash_address(run.seed, stream_id("torch"), step, rank())))
    gradients: StepGradients = taken_by.accumulate(step)
    taken_by.prepare(step + 1)
    asked = [stop.made and stop.exit_code == code for code in EXIT_CODES]
    own = on_device([gradients.tokens, *asked], engine.device)
    # On their way before the optimizer's step is: while a device takes it, the next step is made ready.
    sums = NumbersUnderWay(summed(torch.cat([gradients.loss[None], own])))
    with warning_where_little_moves(engine, run.settings, step):
        norm_under_way = take_step(engine)
    loss, tokens, *stopping = sums.tolist()
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            f"the loss of step {step} is {loss}: training stopped and did not save the step; "
            f"lower train.learning_rate, or look at the data"
        )
    [norm] = norm_under_way.tolist()
    if not math.isfinite(norm) or norm < 0:  # DeepSpeed's own sign of it
        raise NonFiniteLossError(
            f"the gradients of step {step} are not finite: training stopped and did not save the step; "
            f"lower train.learning_rate, or look at the data"
        )
    asked_for = next((code for code, by in zip(EXIT_CODES, stopping, strict=True) if by), 0)
    shown = {name: gradients.figures[name] for name in gradients.shown if name in gradients.figures}
    return TakenStep(loss, norm, int(tokens), asked_for, gradients.figures, shown)


def _what_is_saved(folder: Path) -> str:
    saved = steps(folder)
    return f"step {saved[-1][0]} is saved in {saved[-1][1]}" if saved else "nothing is saved yet"

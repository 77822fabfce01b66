"""The training loop of every objective and every backbone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from opendllm.core.data.rows import Rows
from opendllm.core.manifest.schema import Train
from opendllm.core.toolkit.likelihood import log_likelihood
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.segments import document_starts
from opendllm.core.training.checkpoints import resume_step, save_step
from opendllm.core.training.engine import set_learning_rate, start_engine, take_step
from opendllm.core.training.metrics_log import MetricsLog
from opendllm.core.training.processes import deepspeed_environment, rank, summed, world_size
from opendllm.core.training.settings import batch_shape, learning_rate
from opendllm.registries.backbones import DiffusionLM, LossPart
from opendllm.registries.errors import UserError
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Objective
from opendllm.registries.sequences import PADDING_SEGMENT, ModelInputs

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from transformers import PreTrainedTokenizerFast

OnStep = Callable[[int, float, float], None]
"""Told (step, loss, tokens per second) after every step."""


class NonFiniteLossError(UserError):
    """The loss or a gradient is NaN or infinite; nothing of that step is saved."""


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
        on_step: for a progress bar.
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


def train(run: TrainingRun) -> None:
    """Train to the last step, going on from the newest checkpoint in the run's folder.

    Raises:
        NonFiniteLossError: the loss is not finite; the last checkpoint is intact.
        UserError: the batch doesn't divide, or a checkpoint is damaged.
    """
    with deepspeed_environment():
        _train(run)


def _train(run: TrainingRun) -> None:
    settings = run.settings
    micro_batch, accumulation = batch_shape(settings, world_size())
    engine = start_engine(run.lm.module, settings, micro_batch, accumulation)
    step = resume_step(engine, run.folder, run.provenance)
    log = MetricsLog(run.folder / "train.jsonl", step or None, write=rank() == 0)
    tokens = log.last_tokens()
    if step == 0:
        log.add(0, held_out_loss=_held_out_loss(run))
    while step < settings.steps:
        step += 1
        started = time.perf_counter()
        set_learning_rate(engine, learning_rate(settings, step))
        corruptions = _corrupt_step(run, step, micro_batch, accumulation)
        count = _global_count(corruptions)
        loss = _accumulate(engine, run.objective, corruptions, count)
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"the loss of step {step} is {loss}: training stopped before the step; "
                f"lower train.learning_rate, or look at the data"
            )
        norm = take_step(engine)
        if not math.isfinite(norm):
            raise NonFiniteLossError(
                f"the gradients of step {step} are not finite: training stopped and did not save the step; "
                f"lower train.learning_rate, or look at the data"
            )
        seconds = time.perf_counter() - started
        step_tokens = _real_tokens(corruptions)
        tokens += step_tokens
        last = step == settings.steps
        log.add(
            step,
            loss=loss,
            learning_rate=learning_rate(settings, step),
            tokens=tokens,
            tokens_per_second=step_tokens / seconds,
            gradient_norm=norm,
            seconds=seconds,
            **({"held_out_loss": _held_out_loss(run)} if last or _due(step, settings.held_out.every) else {}),
        )
        run.on_step(step, loss, step_tokens / seconds)
        if last or _due(step, settings.checkpoint.every):
            save_step(
                engine, run.lm, run.tokenizer, run.folder, step, run.provenance, settings.checkpoint.keep
            )


def _corrupt_step(run: TrainingRun, step: int, micro_batch: int, accumulation: int) -> list[Corruption]:
    """This rank's micro-batches of a step, corrupted: a pure function of the seed and the step."""
    batch = run.settings.global_batch_size
    first = (step - 1) * batch + rank() * micro_batch * accumulation
    device = next(run.lm.module.parameters()).device
    corruptions = []
    for start in range(first, first + micro_batch * accumulation, micro_batch):
        rows = run.train_rows.batch(range(start, start + micro_batch)).to(device)
        rows = replace(rows, blocks=run.lm.attention.blocks(rows.positions))
        noise = AddressedNoise(run.seed, rows, batch)
        masking = run.objective.mask(rows, noise, run.schedule)
        corruptions.append(run.objective.corrupt(masking, run.schedule, run.lm.mask_token_id))
    return corruptions


def _global_count(corruptions: Sequence[Corruption]) -> float:
    """What the loss sum is divided by: over all micro-batches and ranks, so that neither matters."""
    own = torch.stack([corruption.count for corruption in corruptions]).sum()
    return max(1.0, float(summed(own)))


def _accumulate(
    engine: DeepSpeedEngine, objective: Objective, corruptions: Sequence[Corruption], count: float
) -> float:
    """Forward and backward of every micro-batch; the global loss."""
    total = torch.zeros((), dtype=torch.float64, device=engine.device)
    for number, corruption in enumerate(corruptions, start=1):
        engine.set_gradient_accumulation_boundary(number == len(corruptions))
        part = _loss_part(objective, corruption, count)
        loss = engine(corruption.inputs, corruption.targets, corruption.scored, part)
        # DeepSpeed averages gradients over the ranks; the count is already global.
        engine.backward(loss * world_size(), scale_wrt_gas=False)
        total += loss.detach().double()
    return float(summed(total))


def _loss_part(objective: Objective, corruption: Corruption, count: float) -> LossPart:
    return lambda nll, chosen: objective.loss_sum(nll, corruption.part(chosen)) / count


@torch.no_grad()
def _held_out_loss(run: TrainingRun) -> float:
    """Nats a token of held-out rows: the ELBO, exact for a causal model; first tokens are given."""
    settings = run.settings.held_out
    chosen = range(min(settings.rows, len(run.held_out_rows)))
    device = next(run.lm.module.parameters()).device
    rows = run.held_out_rows.batch(chosen).to(device)
    scorable = rows.maskable & ~document_starts(rows.segments)
    run.lm.module.eval()
    found = log_likelihood(
        run.lm,
        ModelInputs(rows.tokens, rows.segments, rows.positions),
        scorable,
        settings.draws,
        rows.sample_index,
    )
    run.lm.module.train()
    return -float(found.log_likelihood.sum() / scorable.sum())


def _real_tokens(corruptions: Sequence[Corruption]) -> int:
    own = sum((corruption.inputs.segments != PADDING_SEGMENT).sum() for corruption in corruptions)
    return int(summed(torch.as_tensor(own)))


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0

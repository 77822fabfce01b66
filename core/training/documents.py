"""Learning from documents: corrupted rows, an objective's loss, the held-out loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from opendllm.core.data.rows import Rows
from opendllm.core.foundation.process_group import sum_of_numbers, summed
from opendllm.core.foundation.ranks import rank, world_size
from opendllm.core.manifest.train_schema import HeldOut
from opendllm.core.networks.scoring_module import ScoringModule
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.training.checkpoints import SavedStep
from opendllm.core.training.held_out import held_out_loss
from opendllm.core.training.method import StepGradients
from opendllm.core.training.prefetcher import Prefetcher
from opendllm.core.training.settings import batch_shape, due
from opendllm.core.training.trained_weights import TrainedWeights
from opendllm.registries.backbones import LossPart
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Objective
from opendllm.registries.sequences import PADDING_SEGMENT, TokenIds, TokenRows

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

    from opendllm.core.training.trainer import TrainingRun

SPOT_CHECK = HeldOut(rows=1, draws=1)
"""One forward pass a rank: enough to see whether the weights still give numbers."""


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
class DocumentTraining:
    """Implements `TrainingMethod`.

    Attributes:
        objective: corrupts and weighs.
        schedule: the noise schedule.
        train_rows: what is learnt.
        held_out_rows: what the held-out loss is measured on.
    """

    objective: Objective
    schedule: NoiseSchedule
    train_rows: Rows
    held_out_rows: Rows

    def steps_of(self, run: TrainingRun, weights: TrainedWeights) -> _DocumentSteps:
        """See `TrainingMethod.steps_of`."""
        return _DocumentSteps(self, run, weights)


class _DocumentSteps:
    """Implements `TrainingSteps`."""

    _engine: DeepSpeedEngine
    _batches: Prefetcher[CorruptedStep]
    _under_way: CorruptedStep
    """Kept until the next step, whatever the device still reads of it: it was made in another stream."""

    def __init__(self, method: DocumentTraining, run: TrainingRun, weights: TrainedWeights) -> None:
        self._method, self._run, self._weights = method, run, weights

    def begin(self, engine: DeepSpeedEngine, saved: SavedStep) -> None:
        """See `TrainingSteps`."""
        self._engine = engine
        self._batches = Prefetcher(self._corrupt_step, self._run.settings.steps, engine.device)

    def accumulate(self, step: int) -> StepGradients:
        """See `TrainingSteps`."""
        corrupted = self._under_way = self._batches.take(step)
        corruptions, objective = corrupted.micro_batches, self._method.objective
        answers = self._answer_count(corruptions)
        parts = [
            objective.loss_part(each, self._method.schedule, corrupted.count, answers) for each in corruptions
        ]
        return StepGradients(self._accumulate(corruptions, parts), corrupted.data_tokens)

    def prepare(self, step: int) -> None:
        """Corrupt a step's rows."""
        self._batches.prepare(step)

    def measured(self, step: int, last: bool, saving: bool) -> Mapping[str, float]:
        """The held-out loss; nothing where the objective's models have no likelihood."""
        settings = self._run.settings
        wanted = step == 0 or last or due(step, settings.held_out.every)
        if not (wanted or (saving and settings.checkpoint.keep_best)) or self._run.lm.noise.bound == "none":
            return {}
        activity = self._run.progress.activity("measuring the held-out loss", unit="rows")
        with activity as task, self._weights.evaluated():
            found = held_out_loss(
                self._run.lm,
                self._method.held_out_rows,
                settings.held_out,
                task.update,
                self._measured_at_once,
            )
        return {} if found is None else {"held_out_loss": found}

    @property
    def _measured_at_once(self) -> int:
        """One layer's activations are kept, not all of them as in training: twice its rows fit on a GPU,
        which small passes would leave idle, and under ZeRO 3 fetch the weights for each."""
        micro_batch, _ = batch_shape(self._run.settings, world_size())
        return 2 * micro_batch if self._engine.device.type == "cuda" else 0

    def spot_check(self) -> float | None:
        """The loss of a row or two."""
        if self._run.lm.noise.bound == "none":
            return None
        return held_out_loss(self._run.lm, self._method.held_out_rows, SPOT_CHECK)

    def save(self, folder: Path) -> None:
        """Nothing: a step's rows and noise are a function of the seed."""

    def close(self) -> None:
        """Nothing is held."""

    def _corrupt_step(self, step: int) -> CorruptedStep:
        """This rank's micro-batches of a step, corrupted: a pure function of the seed and the step."""
        run, method = self._run, self._method
        batch = run.settings.global_batch_size
        micro_batch, accumulation = batch_shape(run.settings, world_size())
        first = (step - 1) * batch + rank() * micro_batch * accumulation
        device = next(run.lm.module.parameters()).device
        corruptions, tokens = [], []
        for start in range(first, first + micro_batch * accumulation, micro_batch):
            rows = method.train_rows.batch(range(start, start + micro_batch)).to(device)
            ids = TokenIds(run.lm.vocab_size, run.lm.mask_token_id)
            rows = replace(rows, blocks=run.lm.attention.blocks(rows.positions), ids=ids)
            noise = AddressedNoise(run.seed, rows, batch)
            masking = method.objective.mask(rows, noise, method.schedule)
            corruption = method.objective.corrupt(masking, method.schedule, run.lm.mask_token_id)
            if isinstance(run.lm.module, ScoringModule):
                run.lm.module.read_ahead(corruption.inputs, corruption.scored)
            corruptions.append(corruption)
            tokens.append(_data_tokens(masking.rows, start, micro_batch))
        counts = torch.stack([corruption.count for corruption in corruptions]).sum()
        data_tokens, own_count = torch.stack([torch.stack(tokens).sum().double(), counts.double()]).tolist()
        return CorruptedStep(corruptions, int(data_tokens), max(1.0, sum_of_numbers([own_count])[0]))

    @torch.no_grad()
    def _answer_count(self, corruptions: Sequence[Corruption]) -> float:
        """What a mean over answers is divided by, which costs a pass of its own over the step's rows."""
        objective = self._method.objective
        if not objective.averages_answers:
            return 1.0
        own = torch.zeros((), dtype=torch.float64, device=self._engine.device)
        for corruption in corruptions:
            part = objective.answer_count(corruption)
            own += self._run.lm.module(corruption.inputs, corruption.targets, corruption.scored, part)
        return max(1.0, float(summed(own)))

    def _accumulate(self, corruptions: Sequence[Corruption], parts: Sequence[LossPart]) -> Tensor:
        """Forward and backward of every micro-batch; this rank's part of the loss, which may not be there
        yet.
        """
        engine = self._engine
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

"""Learning from rewards: a phase writes answers, gives each a reward, and takes some steps on them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from opendllm.core.decoding.kept_steps import release_steps
from opendllm.core.foundation.process_group import summed
from opendllm.core.foundation.ranks import rank, world_size
from opendllm.core.manifest.reward_schema import RewardLearning
from opendllm.core.rewards.weighing import WeightedReward
from opendllm.core.rewards.worker import RewardWorker
from opendllm.core.toolkit.policy_updates import PolicyStatistics, PolicyUpdate, log_probabilities
from opendllm.core.training.checkpoints import SavedStep
from opendllm.core.training.engine import whole_weights
from opendllm.core.training.method import StepGradients
from opendllm.core.training.reinforcement.answers import Writer, answering
from opendllm.core.training.reinforcement.held_out_problems import HeldOutMeasure
from opendllm.core.training.reinforcement.judging import Judge
from opendllm.core.training.reinforcement.new_phase import PhaseMaker, wait_for_device
from opendllm.core.training.reinforcement.phase import Phase
from opendllm.core.training.reinforcement.problems import ProblemOrder
from opendllm.core.training.reinforcement.readings import PhaseReader
from opendllm.core.training.reinforcement.reference import AdaptersOff, FrozenCopy, ReferenceModel
from opendllm.core.training.settings import batch_shape, due, zero_stage
from opendllm.core.training.trained_weights import TrainedWeights
from opendllm.registries.policies import PolicyObjective
from opendllm.registries.problems import Problem
from opendllm.registries.rewards import RewardContext
from opendllm.registries.sequences import PADDING_SEGMENT, TokenIds

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

    from opendllm.core.training.trainer import TrainingRun


@dataclass(frozen=True)
class RewardTraining:
    """Implements `TrainingMethod`.

    Attributes:
        settings: the manifest's `train.rl` section.
        objective: turns answers and their rewards into a loss.
        needs_reference: whether that loss reads a reference.
        writer: writes the answers.
        problems: what is asked.
        held_out: problems that are never trained on; empty where none are.
        rewards: what answers are worth.
        context: what rewards may ask of the run.
    """

    settings: RewardLearning
    objective: PolicyObjective
    needs_reference: bool
    writer: Writer
    problems: Sequence[Problem]
    held_out: Sequence[Problem]
    rewards: Sequence[WeightedReward]
    context: RewardContext

    def steps_of(self, run: TrainingRun, weights: TrainedWeights) -> _RewardSteps:
        """See `TrainingMethod.steps_of`."""
        return _RewardSteps(self, run, weights)


class _RewardSteps:
    """Implements `TrainingSteps`."""

    _engine: DeepSpeedEngine

    def __init__(self, method: RewardTraining, run: TrainingRun, weights: TrainedWeights) -> None:
        self._run, self._weights = run, weights
        self._iterations = method.settings.iterations
        self._phase: Phase | None = None
        self._goes_on = False
        self._reference = _reference(method, run, weights)
        micro_batch, accumulation = batch_shape(run.settings, world_size())
        share = micro_batch * accumulation
        self._worker = RewardWorker(method.rewards, method.context, method.settings.reward_seconds)
        judge = Judge(self._worker, [each.label for each in method.rewards], method.writer.batch_size)
        answers = run.settings.global_batch_size
        self._maker = PhaseMaker(
            order=ProblemOrder(method.problems, run.seed, method.settings.group_size, answers),
            own=range(rank() * share, (rank() + 1) * share),
            writer=method.writer,
            longest=method.writer.longest(method.problems),
            judge=judge,
            reader=PhaseReader(run.lm, method.objective, run.seed, answers, self._iterations, micro_batch),
            reference=self._reference,
        )
        held_out = method.settings.held_out
        self._held_out: HeldOutMeasure | None = None
        if held_out is not None:
            self._held_out = HeldOutMeasure(held_out, method.held_out, method.writer, judge, run.seed)

    def begin(self, engine: DeepSpeedEngine, saved: SavedStep) -> None:
        """See `TrainingSteps`."""
        self._engine = engine
        if not saved.step:
            return
        if self._reference is not None:
            self._reference.restore(saved.folder)
        if saved.step % self._iterations:
            lm = self._run.lm
            ids = TokenIds(lm.vocab_size, lm.mask_token_id)
            self._phase = Phase.restore(saved.folder, self._maker.own, ids)

    def accumulate(self, step: int) -> StepGradients:
        """A phase's first step writes and judges its answers; all take one update each on them."""
        number, iteration = divmod(step - 1, self._iterations)
        if self._reference is not None:
            self._reference.follow(self._engine, step - 1)
        figures: dict[str, float] = {"phase": number + 1}
        if self._phase is None or self._phase.number != number:
            self._phase = self._maker.phase(number, self._engine)
            figures |= self._phase.figures
        started = time.perf_counter()
        gradients = self._update(self._phase, iteration)
        wait_for_device(self._engine)
        figures |= gradients.figures
        self._goes_on = step % self._iterations > 0
        figures["update_seconds"] = time.perf_counter() - started
        return replace(gradients, figures=figures, shown=("reward", "kl"))

    def prepare(self, step: int) -> None:
        """Nothing: the next answers hang on the weights."""

    def measured(self, step: int, last: bool, saving: bool) -> Mapping[str, float]:
        """How many held-out problems pass."""
        held_out = self._held_out
        if held_out is None or not (step == 0 or last or due(step, held_out.settings.every)):
            return {}
        with (
            self._run.progress.activity("answering held-out problems"),
            self._weights.evaluated(),
            whole_weights(self._engine),
        ):
            return held_out.figures(self._engine.device)

    def spot_check(self) -> float | None:
        """The likelihood of one reading of the phase's answers."""
        if self._phase is None:
            return None
        module, micro_batches = self._run.lm.module, self._maker.reader.micro_batches(self._phase, 0)
        with answering(module):
            own = log_probabilities(module, micro_batches[0].readings[0]).sum()
        return -float(summed(own))

    def save(self, folder: Path) -> None:
        """The reference, where it follows the policy; and a phase that isn't over."""
        if self._reference is not None:
            self._reference.save(folder)
        if self._phase is not None and self._goes_on:
            self._phase.save(folder)

    def close(self) -> None:
        """End the rewards' process; let go of what decoding kept."""
        self._worker.close()
        release_steps(self._run.lm)

    def _update(self, phase: Phase, iteration: int) -> StepGradients:
        """Forward and backward of all readings of the phase's answers."""
        engine, objective = self._engine, self._maker.reader.objective
        parts = self._maker.reader.micro_batches(phase, iteration)
        readings_left = sum(len(each.readings) for each in parts)
        own = torch.stack([reading.count for each in parts for reading in each.readings]).sum()
        count = max(1.0, float(summed(own)))
        total = torch.zeros((), dtype=torch.float64, device=engine.device)
        seen: list[PolicyStatistics] = []
        for each in parts:
            for reading, terms in zip(each.readings, each.fixed_terms(phase, iteration), strict=True):
                readings_left -= 1
                engine.set_gradient_accumulation_boundary(readings_left == 0)
                update = PolicyUpdate(objective, reading, terms, count, on_policy=iteration == 0)
                loss = engine(reading.inputs, reading.targets, reading.scored, update.loss_part)
                # DeepSpeed averages gradients over the ranks; the count is already global.
                engine.backward(loss * world_size(), scale_wrt_gas=False)
                total += loss.detach().double()
                assert update.statistics is not None
                seen.append(update.statistics)
        tokens = int((phase.rollouts.rows.segments != PADDING_SEGMENT).sum())
        statistics = PolicyStatistics(summed(PolicyStatistics.joined(seen).sums))
        return StepGradients(total, tokens, statistics.means())


def _reference(method: RewardTraining, run: TrainingRun, weights: TrainedWeights) -> ReferenceModel | None:
    if not method.needs_reference:
        return None
    if weights.base() is not None:
        return AdaptersOff(weights)
    dtype = torch.bfloat16 if run.settings.precision == "bf16" else torch.float32
    return FrozenCopy(run.lm.module, method.settings.reference, zero_stage(run.settings), dtype)

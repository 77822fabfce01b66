"""Learning from rewards: a phase writes answers, gives each a reward, and takes some steps on them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from opendllm.core.decoding.kept_steps import release_steps
from opendllm.core.foundation.process_group import largest, summed
from opendllm.core.foundation.ranks import rank, world_size
from opendllm.core.manifest.reward_schema import RewardLearning
from opendllm.core.rewards.weighing import WeightedReward
from opendllm.core.rewards.worker import RewardWorker
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.policy_updates import PolicyStatistics, PolicyUpdate, log_probabilities
from opendllm.core.training.checkpoints import SavedStep
from opendllm.core.training.engine import whole_weights
from opendllm.core.training.method import StepGradients
from opendllm.core.training.reinforcement.answers import Answer, Writer, part_of, rollouts_of
from opendllm.core.training.reinforcement.figures import answer_figures, answer_sums, reward_figures
from opendllm.core.training.reinforcement.judging import FULL_MARK, Judged, judged
from opendllm.core.training.reinforcement.phase import Phase
from opendllm.core.training.reinforcement.problems import ProblemOrder, Question, held_out_questions
from opendllm.core.training.reinforcement.reference import AdaptersOff, FrozenCopy, ReferenceModel
from opendllm.core.training.reinforcement.term_values import TermValues
from opendllm.core.training.settings import batch_shape, due, zero_stage
from opendllm.core.training.trained_weights import TrainedWeights
from opendllm.registries.policies import FixedTerms, PolicyObjective, PolicyReading
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
        self._method, self._run, self._weights = method, run, weights
        self._order = ProblemOrder(
            method.problems, run.seed, method.settings.group_size, run.settings.global_batch_size
        )
        self._names = [each.label for each in method.rewards]
        self._longest = method.writer.longest(method.problems)
        self._micro_batch, accumulation = batch_shape(run.settings, world_size())
        share = self._micro_batch * accumulation
        self._own = range(rank() * share, (rank() + 1) * share)
        self._phase: Phase | None = None
        self._goes_on = False
        self._reference: ReferenceModel | None = None
        if method.needs_reference and weights.base() is not None:
            self._reference = AdaptersOff(weights)
        elif method.needs_reference:
            bf16 = run.settings.precision == "bf16"
            dtype = torch.bfloat16 if bf16 else torch.float32
            stage = zero_stage(run.settings)
            self._reference = FrozenCopy(run.lm.module, method.settings.reference, stage, dtype)
        self._worker = RewardWorker(method.rewards, method.context, method.settings.reward_seconds)

    def begin(self, engine: DeepSpeedEngine, saved: SavedStep) -> None:
        """See `TrainingSteps`."""
        self._engine = engine
        if not saved.step:
            return
        if self._reference is not None:
            self._reference.restore(saved.folder)
        if saved.step % self._method.settings.iterations:
            lm = self._run.lm
            self._phase = Phase.restore(saved.folder, self._own, TokenIds(lm.vocab_size, lm.mask_token_id))

    def accumulate(self, step: int) -> StepGradients:
        """A phase's first step writes and judges its answers; all take one update each on them."""
        number, iteration = divmod(step - 1, self._method.settings.iterations)
        if self._reference is not None:
            self._reference.follow(self._engine, step - 1)
        figures: dict[str, float] = {"phase": number + 1}
        if self._phase is None or self._phase.number != number:
            self._phase = self._new_phase(number)
            figures |= self._phase.figures
        started = time.perf_counter()
        gradients = self._update(self._phase, iteration)
        self._wait_for_device()
        figures |= gradients.figures
        self._goes_on = step % self._method.settings.iterations > 0
        figures["update_seconds"] = time.perf_counter() - started
        return replace(gradients, figures=figures, shown=("reward", "kl"))

    def prepare(self, step: int) -> None:
        """Nothing: the next answers hang on the weights."""

    def measured(self, step: int, last: bool, saving: bool) -> Mapping[str, float]:
        """How many held-out problems pass."""
        held_out = self._method.settings.held_out
        if held_out is None or not (step == 0 or last or due(step, held_out.every)):
            return {}
        with (
            self._run.progress.activity("answering held-out problems"),
            self._weights.evaluated(),
            whole_weights(self._engine),
        ):
            return self._held_out_figures()

    def spot_check(self) -> float | None:
        """The likelihood of one reading of the phase's answers."""
        if self._phase is None:
            return None
        readings = self._readings(self._phase, 0)
        with self._asked():
            own = log_probabilities(self._run.lm.module, readings[0][1][0]).sum()
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

    # A phase

    def _new_phase(self, number: int) -> Phase:
        """Answers of the policy as it is, judged; their likelihood now, and under the reference."""
        iterations, objective = self._method.settings.iterations, self._method.objective
        started = time.perf_counter()
        questions = self._order.questions(number, self._own)
        with whole_weights(self._engine):
            answers, pending = judged(
                self._method.writer.write(questions), self._worker, self._names, self._at_once
            )
        written = time.perf_counter()
        rollouts = rollouts_of(answers, self._run.lm, self._longest)
        phase = Phase(number, rollouts, torch.zeros(0), torch.ones(len(answers), dtype=torch.bool), {}, {})
        # Where every answer is learnt, likelihoods are computed while the last answers are judged.
        early = type(objective).kept is PolicyObjective.kept
        if early:
            phase = self._with_likelihoods(phase, iterations)
        self._wait_for_device()
        read = time.perf_counter()
        found = pending.collect(answers)
        rewards, values = self._of_all_ranks(found)
        advantages = objective.advantages(rewards).flatten()[self._own.start : self._own.stop]
        learnt = objective.kept(rewards).repeat_interleave(rewards.shape[1])
        own = learnt[self._own.start : self._own.stop]
        phase = replace(phase, advantages=advantages, learnt=own)
        judged_by = time.perf_counter()
        if not early:
            phase = self._with_likelihoods(phase, iterations)
            self._wait_for_device()
        figures = {
            **reward_figures(rewards, values, self._names),
            **self._answer_figures(answers),
            "learnt": float(learnt.double().mean()),
            "rollout_seconds": written - started,
            "reward_seconds": found.waited,
            "likelihood_seconds": (read - written) + (time.perf_counter() - judged_by),
        }
        return replace(phase, figures=figures)

    @property
    def _at_once(self) -> int:
        """As many as finish together."""
        return self._method.writer.batch_size

    def _of_all_ranks(self, found: Judged) -> tuple[Tensor, Tensor]:
        """([P, G], [P * G, R]) float64, on the CPU: every rank knows what all answers are worth."""
        whole = torch.zeros(self._order.answers, 1 + len(self._names), dtype=torch.float64)
        whole[self._own.start : self._own.stop] = torch.cat([found.totals[:, None], found.values], dim=1)
        whole = summed(whole.to(self._engine.device)).cpu()
        return whole[:, 0].view(-1, self._order.group_size), whole[:, 1:]

    def _answer_figures(self, answers: Sequence[Answer]) -> Mapping[str, float]:
        sums = answer_sums(
            [each.counted for each in answers],
            [each.kept < len(each.tokens) for each in answers],
            [each.forward_passes for each in answers],
        )
        return answer_figures(summed(sums.to(self._engine.device)).cpu())

    def _with_likelihoods(self, phase: Phase, iterations: int) -> Phase:
        """Of the terms of all its iterations, before the first step changes the policy."""
        old = {each: self._terms(phase, each) for each in range(1, iterations)}
        reference: dict[int, TermValues] = {}
        if self._reference is not None:
            with self._reference.in_place(self._engine):
                reference = {each: self._terms(phase, each) for each in range(iterations)}
        return replace(phase, old=old, reference=reference)

    def _terms(self, phase: Phase, iteration: int) -> TermValues:
        """Under the model as it is."""
        parts = []
        with self._asked():
            for rows, readings in self._readings(phase, iteration):
                found = [log_probabilities(self._run.lm.module, reading) for reading in readings]
                parts.append(TermValues.of(readings, found, rows, len(phase.learnt)))
        return TermValues.joined(parts)

    # A step

    def _update(self, phase: Phase, iteration: int) -> StepGradients:
        """Forward and backward of all readings of the phase's answers."""
        engine, objective = self._engine, self._method.objective
        parts = self._readings(phase, iteration)
        own = torch.stack([each.count for _, readings in parts for each in readings]).sum()
        count = max(1.0, float(summed(own)))
        total = torch.zeros((), dtype=torch.float64, device=engine.device)
        seen: list[PolicyStatistics] = []
        tokens = torch.zeros((), dtype=torch.int64, device=engine.device)
        readings_left = sum(len(readings) for _, readings in parts)
        for rows, readings in parts:
            fixed = self._fixed_terms(phase, iteration, rows, readings)
            for reading, terms in zip(readings, fixed, strict=True):
                readings_left -= 1
                engine.set_gradient_accumulation_boundary(readings_left == 0)
                update = PolicyUpdate(objective, reading, terms, count, on_policy=iteration == 0)
                loss = engine(reading.inputs, reading.targets, reading.scored, update.loss_part)
                # DeepSpeed averages gradients over the ranks; the count is already global.
                engine.backward(loss * world_size(), scale_wrt_gas=False)
                total += loss.detach().double()
                assert update.statistics is not None
                seen.append(update.statistics)
        tokens += (phase.rollouts.rows.segments != PADDING_SEGMENT).sum().to(tokens.device)
        statistics = PolicyStatistics(summed(PolicyStatistics.joined(seen).sums))
        return StepGradients(total, int(tokens), statistics.means())

    def _fixed_terms(
        self, phase: Phase, iteration: int, rows: Tensor, readings: Sequence[PolicyReading]
    ) -> Iterator[FixedTerms]:
        """Of each reading of a micro-batch."""
        old, reference = phase.old.get(iteration), phase.reference.get(iteration)
        olds = None if old is None else old.of_answers(rows).of_readings(readings)
        references = None if reference is None else reference.of_answers(rows).of_readings(readings)
        for number, reading in enumerate(readings):
            advantages = reading.of_answers(phase.advantages[rows].to(reading.row.device))
            yield FixedTerms(
                old=torch.zeros_like(advantages) if olds is None else olds[number],
                advantages=advantages,
                reference=None if references is None else references[number],
            )

    def _readings(self, phase: Phase, iteration: int) -> list[tuple[Tensor, list[PolicyReading]]]:
        """By micro-batch: which of the phase's answers it has, and what is read of them.

        All ranks have the same number of readings: some of those of a rank that has fewer score nothing.
        """
        first = (phase.number * self._method.settings.iterations + iteration) * self._order.answers
        found: list[tuple[Tensor, list[PolicyReading]]] = []
        for start in range(0, len(phase.learnt), self._micro_batch):
            rows = torch.arange(start, start + self._micro_batch)
            learnt = rows[phase.learnt[rows]]
            readings = self._read(phase, learnt if len(learnt) else rows, first)
            found.append((learnt, readings) if len(learnt) else (rows, [readings[0].without_terms()]))
        missing = largest(sum(len(readings) for _, readings in found))
        missing -= sum(len(readings) for _, readings in found)
        if missing:
            rows, readings = found[-1]
            found[-1] = (rows, [*readings, *[readings[0].without_terms()] * missing])
        return found

    def _read(self, phase: Phase, rows: Tensor, first: int) -> list[PolicyReading]:
        part = part_of(phase.rollouts, self._run.lm, rows, first)
        noise = AddressedNoise(self._run.seed, part.rows, self._order.answers)
        return list(self._method.objective.readings(part, noise))

    # Held-out problems

    def _held_out_figures(self) -> Mapping[str, float]:
        held_out = self._method.settings.held_out
        assert held_out is not None
        total = len(self._method.held_out) * held_out.samples
        share = -(-total // world_size())
        own = range(min(rank() * share, total), min((rank() + 1) * share, total))
        questions: list[Question] = held_out_questions(
            self._method.held_out, held_out.samples, self._run.seed, own
        )
        writer = self._method.writer.at_temperature(held_out.temperature)
        answers, pending = judged(writer.write(questions), self._worker, self._names, self._at_once)
        found = pending.collect(answers)
        passing = self._names.index(held_out.reward or self._names[0])
        passed = (found.values[:, passing] >= FULL_MARK).double()
        own_sums = torch.stack([torch.tensor(float(len(own))).double(), found.totals.sum(), passed.sum()])
        number, reward, passes = summed(own_sums.to(self._engine.device)).tolist()
        return {"held_out_reward": reward / number, "held_out_pass_rate": passes / number}

    # The model

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Within it the model only answers: nothing is dropped out."""
        module = self._run.lm.module
        training = module.training
        module.eval()
        try:
            yield
        finally:
            module.train(training)

    def _wait_for_device(self) -> None:
        """So that what was measured is what was done."""
        if self._engine.device.type == "cuda":
            torch.cuda.synchronize(self._engine.device)

"""An objective's loss under noise that is given, as the Python API and golden vectors ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from opendllm.core.call_checks import check_loss_noise, check_mask_noise, check_segments
from opendllm.core.foundation.option_errors import checked_options
from opendllm.core.toolkit.noise_likelihood import position_values
from opendllm.core.toolkit.segments import document_positions
from opendllm.registries.backbones import DiffusionLM, DistributionLoss, LikelihoodLoss
from opendllm.registries.discovery import Plugins
from opendllm.registries.errors import UserError
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Masking
from opendllm.registries.options import (
    ObjectiveOptions,
    PluginOptions,
    PolicyObjectiveOptions,
    destination_issue,
    noise_destination,
)
from opendllm.registries.registry import ChosenPlugin, Registry
from opendllm.registries.sequences import PADDING_SEGMENT, TokenIds, TokenRows


@dataclass(frozen=True)
class GivenNoise:
    """Texts, and what noise made of them; see `LanguageModel.loss`.

    Attributes:
        tokens: [B, L] int64, clean.
        masked: [B, L] bool, or int64: the noisy tokens themselves.
        mask_probability: [B, L] float, or [B, 1].
        segments: [B, L] document numbers; None for one document a row.
    """

    tokens: Tensor
    masked: Tensor
    mask_probability: Tensor
    segments: Tensor | None


def objective_loss(
    lm: DiffusionLM,
    plugins: Plugins,
    noise: GivenNoise,
    objective: str,
    noise_schedule: str | Mapping[str, Any],
    options: Mapping[str, Any],
) -> tuple[Tensor, Tensor]:
    """(sum, count) of an objective's loss; see `LanguageModel.loss`.

    Args:
        lm: the model.
        plugins: those that are installed.
        noise: what is given.
        objective: the objective plugin.
        noise_schedule: the schedule plugin, by name or with options.
        options: the objective's.

    Raises:
        UserError: the objective and the schedule don't go together, or the noise isn't said as they need it.
    """
    chosen_schedule = _chosen(plugins.noise_schedules, noise_schedule)
    schedule = chosen_schedule.build()
    registration = plugins.objectives.get(objective)
    checked = checked_options(registration.options, options)
    assert isinstance(checked, ObjectiveOptions)
    if isinstance(checked, PolicyObjectiveOptions):
        raise UserError(f"objective {objective} learns from answers' rewards: it has no loss of masks alone")
    issue = destination_issue(objective, checked, chosen_schedule.options)
    if issue is not None:
        raise UserError(issue)
    chosen = registration.build(checked)
    masked = noise.masked
    check_loss_noise(noise.tokens, masked, noise.mask_probability)
    gone = masked if masked.dtype == torch.bool else masked != noise.tokens
    check_segments(noise.segments, gone)
    if noise_destination(chosen_schedule.options) == "mask":
        check_mask_noise(noise.tokens, masked, noise.segments, lm.mask_token_id)
    noisy = None if masked.dtype == torch.bool else masked
    if "mask" not in checked.destinations and noisy is None:
        raise UserError(f"objective {objective} replaces tokens: give the noisy tokens, int64, as `masked`")
    given = _token_rows(noise.tokens, noise.segments)
    ids = TokenIds(lm.vocab_size, lm.mask_token_id)
    given = replace(given, blocks=lm.attention.blocks(given.positions), ids=ids)
    probability = noise.mask_probability.double().expand(noise.tokens.shape)
    masking = Masking(gone, probability, schedule.time_of(probability), given, noisy)
    corruption = chosen.corrupt(masking, schedule, lm.mask_token_id)
    if chosen.reads_distributions:
        rows, columns = corruption.scored.nonzero(as_tuple=True)

        def summed(part: LikelihoodLoss | DistributionLoss) -> Tensor:
            assert isinstance(part, DistributionLoss)
            return position_values(
                lm, corruption.inputs, (rows, columns), lambda *run: part.of(*run)[None]
            ).sum()

        answers = 1.0
        if chosen.averages_answers:  # a mean of its own: the sum here is divided by the other count
            counted = summed(chosen.answer_count(corruption)).clamp(min=1)
            answers = float(counted / corruption.count.clamp(min=1))
        return summed(chosen.loss_part(corruption, schedule, answers=answers)), corruption.count
    part = chosen.loss_part(corruption, schedule)
    assert not isinstance(part, DistributionLoss)
    nll = lm.negative_log_likelihood(corruption.inputs, corruption.targets, corruption.scored)
    return part(nll, slice(0, len(nll))), corruption.count


def _chosen(
    registry: Registry[NoiseSchedule], choice: str | Mapping[str, Any]
) -> ChosenPlugin[NoiseSchedule, PluginOptions]:
    name, options = (choice, {}) if isinstance(choice, str) else (choice["name"], choice.get("options", {}))
    registration = registry.get(name)
    return ChosenPlugin(registration, checked_options(registration.options, options))


def _token_rows(tokens: Tensor, segments: Tensor | None) -> TokenRows:
    segments = torch.zeros_like(tokens) if segments is None else segments
    index = torch.arange(tokens.shape[0], device=tokens.device)
    return TokenRows(tokens, segments, document_positions(segments), segments != PADDING_SEGMENT, index)

"""The contract of objectives: their mean loss is the bound that they declare."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from opendllm.core.testing.contract import passed_over
from opendllm.core.testing.exact_bounds import masked_bound, noise_bound
from opendllm.core.testing.known_law import (
    BLOCK_LENGTH,
    IDS,
    LENGTH,
    LawLM,
    ProbeLM,
    drawn_texts,
    entropy,
    rows_of,
    texts,
)
from opendllm.core.testing.objective_case import ObjectiveCase
from opendllm.core.testing.table_lm import CopyingLM
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.noise_schedules import NoiseSchedule

BATCHES, BATCH_ROWS = 16, 512
"""How many rows a mean is of; a batch's times are spread evenly, and batches are drawn apart."""
ERRORS = 5
"""How many standard errors a mean may be off by."""
TEXT = 27
"""Which of the law's texts is enumerated."""
SHORT = 4
"""How long a text is whose noisy rows are all enumerated."""
WEIGH = (
    "let the weights belong to the chances that tokens are drawn with, at every time of the schedule, or "
    "give loss_is_bound = False where it isn't meant to be the bound"
)


class BoundTests(ObjectiveCase):
    """What a row's loss is on average, where the options say that it is a bound."""

    def test_the_loss_is_unbiased(self) -> None:
        """Its mean over what is drawn is the bound, summed over everything that can be drawn.

        Of masks: with models that are surprised where one number of tokens is hidden, or in one place.
        """
        self._only_of_a_bound()
        attention = self.attention(BLOCK_LENGTH)
        for told, schedule in self.schedules().items():
            exact, models = self._enumerated(schedule)
            text = texts()[TEXT : TEXT + 1]
            if self.objective_options().bound != "masks":
                text = text[:, :SHORT]
            means = self.mean_losses(models, text.expand(BATCHES * BATCH_ROWS, -1), schedule)
            for what, (mean, error) in means.items():
                due = exact[what]
                assert abs(mean - due) <= ERRORS * error + 1e-3 * (1 + due), (
                    f"with {told}, a row's loss on {attention.kind} models is {mean:.3f} nats on average "
                    f"{what}, and its bound, by enumeration, {due:.3f}: {WEIGH}"
                )

    def test_the_loss_is_a_bound_of_a_known_law(self) -> None:
        """No model can be better than the law that the texts are drawn from; the law itself is as good."""
        self._only_of_a_bound()
        masks = self.objective_options().bound == "masks"
        lm, least = LawLM(self.attention(BLOCK_LENGTH), None if masks else 0.5), entropy()
        for told, schedule in self.schedules().items():
            means = self.mean_losses({"": lm}, drawn_texts(BATCHES * BATCH_ROWS), schedule)
            mean, error = means[""]
            slack = ERRORS * error + 1e-3 * least
            law = f"with {told}, the law has an entropy of {least:.3f} nats, and the loss of its own model is"
            assert mean >= least - slack, (
                f"{law} {mean:.3f}: a bound lies above; score every token that was hidden, with its whole "
                f"weight"
            )
            if masks:
                assert mean <= least + slack, (
                    f"{law} {mean:.3f}: of masks, or a causal model, it is the entropy; show the model what "
                    f"isn't masked, and {WEIGH}"
                )

    def _only_of_a_bound(self) -> None:
        if not self.objective_options().loss_is_bound:
            passed_over("its options' loss_is_bound is False")

    def _enumerated(self, schedule: NoiseSchedule) -> tuple[dict[str, float], dict[str, DiffusionLM]]:
        """By what the models are surprised at: the bounds of a text, and the models."""
        options, attention = self.objective_options(), self.attention(BLOCK_LENGTH)
        text = texts()[TEXT]
        if options.bound != "masks":
            lm = CopyingLM(IDS.size, attention, reads_time=options.tells_time)
            row = rows_of(text[None, :SHORT], 0, attention)
            reconstruction = options.bound == "noise-and-reconstruction"
            whole = "of all tokens"
            return {whole: noise_bound(lm, row, schedule, options.tells_time, reconstruction)}, {whole: lm}
        models: dict[str, DiffusionLM] = {
            f"of the token at position {place}": ProbeLM(attention, text, place, None)
            for place in (1, LENGTH - 1)
        }
        if attention.kind != "causal":
            hidden = LENGTH - 1 if attention.block_length is None else attention.block_length
            models |= {
                f"where {masks} of the tokens are hidden": ProbeLM(attention, text, None, masks)
                for masks in range(1, hidden + 1)
            }
        row = rows_of(text[None], 0, attention)
        return {what: masked_bound(lm, row) for what, lm in models.items()}, models

    @torch.no_grad()
    def mean_losses(
        self, models: Mapping[str, DiffusionLM], tokens: Tensor, schedule: NoiseSchedule
    ) -> dict[str, tuple[float, float]]:
        """By model: (the mean of a row's loss sum, its standard error) over rows [N, L], by batches."""
        objective, attention = self.objective(), self.attention(BLOCK_LENGTH)
        sums: dict[str, list[Tensor]] = {what: [] for what in models}
        for start in range(0, len(tokens), BATCH_ROWS):
            rows = rows_of(tokens[start : start + BATCH_ROWS], start, attention)
            masking = objective.mask(rows, AddressedNoise(5, rows, BATCH_ROWS), schedule)
            corruption = objective.corrupt(masking, schedule, IDS.mask_token_id)
            for what, lm in models.items():
                sums[what].append(self.loss_sum(corruption, schedule, lm) / BATCH_ROWS)
        means = {what: torch.stack(each).double() for what, each in sums.items()}
        return {
            what: (float(each.mean()), float(each.std()) / len(each) ** 0.5) for what, each in means.items()
        }

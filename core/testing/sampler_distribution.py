"""The contract of samplers: what is written follows the model, exactly, where its law is known."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.testing.contract import passed_over
from opendllm.core.testing.sampler_case import SamplerCase
from opendllm.core.testing.table_lm import TableLM
from opendllm.core.testing.trained_noise import noise_for
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.sequences import ModelInputs

DRAWS = 2000
CHOICES = 4
"""How many tokens an `EvenLM` chooses from at each position, one as likely as the other."""
PROMPT, MASKS = 2, 3
FOLLOW = "draw from what the model says, or set follows_model = False in a sampler that doesn't mean to"


class NoiseBlindLM(TableLM):
    """Its logits hang on the position alone: what a chain of draws from it follows is known exactly."""

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """See `DiffusionLM.hidden_states`."""
        return super().hidden_states(inputs.with_tokens(torch.zeros_like(inputs.tokens)))


class EvenLM(TableLM):
    """At each position a few tokens of its own, all alike: no proposal is surer than another, so that the
    order of commits, whatever it hangs on, tells nothing of what is committed.
    """

    def choices(self) -> Tensor:
        """[64, 4] int64, by position; neither EOS nor the mask."""
        positions = torch.arange(self.context_length)[:, None]
        return 1 + (3 * positions + 2 * torch.arange(CHOICES)) % (self.mask_token_id - 1)

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """[B, L, V] logits; `project` leaves them as they are."""
        logits = torch.full((self.context_length, self.vocab_size), -100.0)
        return logits.scatter(1, self.choices(), 0.0)[inputs.positions]

    def project(self, hidden: Tensor) -> Tensor:
        """See `DiffusionLM.project`."""
        return hidden


class DistributionTests(SamplerCase):
    """At temperature 1, unless follows_model is False."""

    def _only_of_one_that_follows(self) -> None:
        if not self.sampler().follows_model:
            passed_over("its follows_model is False")
        if self.sampler().edits_length:
            passed_over("its edits_length is True, and no position stays where it is")

    @torch.no_grad()
    def test_a_position_alone_follows_the_model(self) -> None:
        """Its exact distribution, on a masked canvas and on one of other noise."""
        self._only_of_one_that_follows()
        for destination in self.destinations():
            lm = NoiseBlindLM()
            lm.noise = noise_for(destination)
            canvas = self.canvas(lm, PROMPT, 1)
            options = DecoderOptions(temperature=1.0, steps=4)
            rows, seeds = canvas.expand(DRAWS, -1), torch.arange(DRAWS)
            tokens = decode(lm, rows, None, self.sampler(), options, seeds).tokens[:, PROMPT]
            logits = lm.project(lm.hidden_states(inputs_from_mask(canvas, None)))[0, PROMPT].double()
            wanted = logits.index_fill(0, torch.tensor([lm.mask_token_id]), -torch.inf).softmax(-1) * DRAWS
            counts = torch.bincount(tokens, minlength=lm.vocab_size).double()
            assert _by_chance(counts, wanted), (
                f"from a canvas of {destination} noise, {DRAWS} rows gave the tokens {counts.tolist()}, and "
                f"the model's distribution is {[round(each, 1) for each in wanted.tolist()]}: {FOLLOW}"
            )

    @torch.no_grad()
    def test_positions_together_follow_the_model(self) -> None:
        """Each position of several, over several steps, and independently where the model has it so."""
        self._only_of_one_that_follows()
        for destination, steps in itertools.product(self.destinations(), (2, 5)):
            lm = EvenLM()
            lm.noise = noise_for(destination)
            canvas = self.canvas(lm, PROMPT, MASKS)
            rows, seeds = canvas.expand(DRAWS, -1), torch.arange(DRAWS)
            options = DecoderOptions(temperature=1.0, steps=steps)
            tokens = decode(lm, rows, None, self.sampler(), options, seeds).tokens[:, PROMPT:]
            told = f"from a canvas of {destination} noise in {steps} steps"
            chosen = tokens[..., None] == lm.choices()[PROMPT : PROMPT + MASKS]  # [N, 3, 4]
            strange = (~chosen.any(-1)).nonzero().tolist()
            assert not strange, (
                f"{told}, row {strange[0][0]} has the token {int(tokens[tuple(strange[0])])} at position "
                f"{PROMPT + strange[0][1]}, and the model gives all its chances to "
                f"{lm.choices()[PROMPT + strange[0][1]].tolist()}: write the proposals of the position itself"
            )
            which = chosen.long().argmax(-1)
            even = torch.full((CHOICES,), DRAWS / CHOICES, dtype=torch.float64)
            for position in range(MASKS):
                counts = torch.bincount(which[:, position], minlength=CHOICES).double()
                assert _by_chance(counts, even), (
                    f"{told}, {DRAWS} rows gave the four tokens that are alike at position "
                    f"{PROMPT + position} {counts.tolist()} times: {FOLLOW}"
                )
            joint = which @ CHOICES ** torch.arange(MASKS)
            counts = torch.bincount(joint, minlength=CHOICES**MASKS).double()
            assert _by_chance(counts, torch.full_like(counts, DRAWS / len(counts))), (
                f"{told}, some of the {len(counts)} texts that are alike come more often than others (from "
                f"{int(counts.min())} to {int(counts.max())} times), and chance alone was expected: draw "
                f"each position by a number of its own"
            )


def _by_chance(counts: Tensor, wanted: Tensor) -> bool:
    """Whether chance may have drawn these counts [n] where these [n] are the means."""
    rare = wanted < 5
    pairs = [*zip(counts[~rare], wanted[~rare], strict=True)]
    if bool(rare.any()):
        pairs.append((counts[rare].sum(), wanted[rare].sum()))
    statistic = sum(float((seen - due) ** 2 / due) for seen, due in pairs)
    # Seven standard deviations above a chi-square's mean: chance alone never gets there.
    return bool(statistic < len(pairs) + 7 * (2 * len(pairs)) ** 0.5)

"""The reverse process: how likely each less noisy token is, given the noisy one and what the model believes.

One formula for every noise. With b(z, t) where a token goes that doesn't survive, x the model's
distribution of the clean token and q_t(z) = alpha_t x(z) + b_t(z), a step from time t to an earlier s has

    q(z_s | z_t) = [a [z_s = z_t] + b_t(z_t) - a b_s(z_t)] q_s(z_s) / q_t(z_t),   a = alpha_t / alpha_s

(GIDD, arXiv:2503.04482, eq. 8). For uniform noise it is Duo's (arXiv:2506.10892, eq. 5) and UDLM's
(arXiv:2412.10193, eq. 16) posterior; for masks it is MDLM's. It is a mixture of four parts: the model's
distribution, the token that stands, the mask, and all other tokens alike. So a token is drawn from it
without a table of the whole vocabulary: nothing but the model's distribution is ever V wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.toolkit.corrupting import replacements
from opendllm.core.toolkit.draws import draw_from
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.sequences import TokenIds


@dataclass(frozen=True)
class NoiseLevel:
    """How noisy tokens are at some time; all float64 of one shape.

    Attributes:
        alpha: the chance to be clean.
        mask: b at the mask.
        other: b at each other token.
    """

    alpha: Tensor
    mask: Tensor
    other: Tensor

    def at(self, index: Tensor) -> NoiseLevel:
        """The levels at `index` [n] of [B] ones."""
        return NoiseLevel(self.alpha[index], self.mask[index], self.other[index])


def level_at(schedule: NoiseSchedule, t: Tensor, vocab_size: int) -> NoiseLevel:
    """Of a schedule at times `t`, of any shape, with V = `vocab_size` tokens."""
    t = t.double()
    mass = schedule.noise_mass(t, vocab_size)
    return NoiseLevel(schedule.alpha(t), mass.mask, mass.other)


def no_noise(like: NoiseLevel) -> NoiseLevel:
    """Alpha is 1: the clean text."""
    nothing = torch.zeros_like(like.alpha)
    return NoiseLevel(torch.ones_like(like.alpha), nothing, nothing)


def pure_noise(schedule: NoiseSchedule, draws: Tensor, ids: TokenIds) -> Tensor:
    """Token ids, int64, as noise alone has them at the schedule's last time.

    Args:
        schedule: where noise puts tokens.
        draws: uniform numbers in [0, 1), float64, one a position.
        ids: the model's.
    """
    time = torch.full_like(draws, schedule.interval[1])
    return replacements(schedule.noise_mass(time, ids.size), draws, ids)


@dataclass(frozen=True)
class Posterior:
    """A distribution over tokens at each of n positions, as a mixture; all [n] float64.

    Attributes:
        model: weight of the model's distribution, which sums to 1.
        stay: weight of the token that stands.
        mask: weight of the mask.
        other: weight of each token but the mask.
    """

    model: Tensor
    stay: Tensor
    mask: Tensor
    other: Tensor

    def mixed(self, share: Tensor, rest: Posterior) -> Posterior:
        """`share` [n] of this, and of `rest` what is left of 1."""
        left = 1 - share
        return Posterior(
            share * self.model + left * rest.model,
            share * self.stay + left * rest.stay,
            share * self.mask + left * rest.mask,
            share * self.other + left * rest.other,
        )

    def noised(self, level: NoiseLevel) -> Posterior:
        """Of tokens drawn from this, and made as noisy as `level` [n] says."""
        return Posterior(
            level.alpha * self.model,
            level.alpha * self.stay,
            level.alpha * self.mask + level.mask,
            level.alpha * self.other + level.other,
        )

    def without_mask(self, stands_mask: Tensor, chosen: Tensor) -> Posterior:
        """Where `chosen` [n] bool, given that it isn't the mask, as far as that isn't the model's word.

        Args:
            stands_mask: [n] bool, where the token that stands is the mask.
            chosen: [n] bool. A position that only the mask could have got gets the model's token.
        """
        stay = self.stay.masked_fill(chosen & stands_mask, 0.0)
        model = torch.where(chosen & (self.model + stay + self.other <= 0), 1.0, self.model)
        return Posterior(model, stay, self.mask.masked_fill(chosen, 0.0), self.other)

    def table(self, model: Tensor, tokens: Tensor, mask_token_id: int) -> Tensor:
        """[n, V] float64, the chance of each token.

        Args:
            model: [n, V], the model's distribution of the clean token.
            tokens: [n] int64, what stands.
            mask_token_id: of the mask.
        """
        chances = self.model[:, None] * model.double() + self.other[:, None]
        chances[:, mask_token_id] += self.mask - self.other
        return chances.scatter_add(1, tokens[:, None], self.stay[:, None])

    def draw(self, weights: Tensor, tokens: Tensor, mask_token_id: int, uniforms: Tensor) -> Tensor:
        """[n] int64: a token at each position, by inverse CDF of one uniform number.

        The number picks a part of the mixture, and what is left of it picks a token in that.

        Args:
            weights: [n, V] float, proportional to the model's distribution.
            tokens: [n] int64, what stands.
            mask_token_id: of the mask.
            uniforms: [n] float64 in [0, 1).
        """
        others = self.other * (weights.shape[-1] - 1)
        reached = uniforms * (self.model + self.stay + self.mask + others)
        within = (reached / self.model).nan_to_num(0.0, 0.0, 0.0).clamp(0.0, 1 - 2.0**-53)
        drawn = draw_from(weights, within)
        beyond = reached - self.model
        drawn = torch.where((beyond >= 0) & (self.stay > 0), tokens, drawn)
        beyond = beyond - self.stay
        drawn = torch.where((beyond >= 0) & (self.mask > 0), mask_token_id, drawn)
        beyond = beyond - self.mask
        # The last part that has any weight takes what rounding leaves over.
        number = (beyond / self.other).nan_to_num(0.0, 0.0, 0.0).long().clamp(0, weights.shape[-1] - 2)
        number = number + (number >= mask_token_id).long()
        return torch.where((beyond >= 0) & (self.other > 0), number, drawn)


def reverse_posterior(
    model_at_token: Tensor, stands_mask: Tensor, now: NoiseLevel, earlier: NoiseLevel
) -> Posterior:
    """q(z_s | z_t) at n positions; see the module.

    Args:
        model_at_token: [n] float64, x(z_t), the model's probability of the token that stands.
        stands_mask: [n] bool, where that is the mask.
        now: [n], at time t.
        earlier: [n], at time s.
    """
    ratio = now.alpha / earlier.alpha
    noise_now = torch.where(stands_mask, now.mask, now.other)
    noise_earlier = torch.where(stands_mask, earlier.mask, earlier.other)
    q_now = now.alpha * model_at_token + noise_now
    # What can't have become this token by noise is this token still.
    certain = (q_now <= 0) | (noise_now <= 0)
    arrived = (noise_now - ratio * noise_earlier).clamp(min=0) / q_now
    stay = ratio * (earlier.alpha * model_at_token + noise_earlier) / q_now
    arrived = arrived.masked_fill(certain, 0.0)
    return Posterior(
        arrived * earlier.alpha,
        stay.masked_fill(certain, 1.0),
        arrived * earlier.mask,
        arrived * earlier.other,
    )


def guided_table(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """[n, V] float64: softmax((1 + s) ln p - s ln p') of two tables [n, V].

    UDLM's guidance, with gamma = 1 + s = 1 + `scale` (arXiv:2412.10193, section 3.3).
    """
    # What the second table rules out would be infinitely better than all else: a floor keeps it a number.
    mixed = (1 + scale) * conditional.double().log() - scale * unconditional.double().clamp(min=1e-300).log()
    return mixed.softmax(-1)


def guided_logits(logits: Tensor, unconditional: Tensor | None, scale: float) -> Tensor:
    """[n, V] (1 + s) l - s l', with s = `scale`; the `logits` themselves where there is no guidance."""
    if unconditional is None:
        return logits
    guided = (1 + scale) * logits - scale * unconditional
    return guided.masked_fill_(logits == -torch.inf, -torch.inf)

"""One bound for every noise: masked, uniform and mixed diffusion in continuous time.

With alpha(t) the chance to survive, b(z, t) the mass that noise puts on z, x the clean token, z the noisy one
and x_th the model's distribution,

    q(y) = alpha [y = x] + b(y)        p(y) = alpha x_th(y) + b(y)        rho = q(z) / p(z)
    bound(z, t) = (b'(z) - alpha'/alpha b(z)) / q(z)  *  (KL(q || p) + rho - 1 - ln rho)

whose mean over z ~ q, integrated over t in [0, 1], is at least -ln p(x) where alpha goes from 1 to 0. It is
GIDD's (arXiv:2503.04482, theorem 1) and, with uniform noise, Duo's (arXiv:2506.10892) and UDLM's
(arXiv:2412.10193). Masks leave `-alpha' / (1 - alpha)` times the cross-entropy at masked tokens, MDLM's.

With uniform noise the mask token is a token like any other; everywhere else no clean token is a mask, and
x_th gives it no mass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from opendllm.registries.noise_schedules import Destination, NoiseMass, NoiseSchedule

LEAST_MASS = 1e-30
"""Stands for a noise mass of 0, which nothing may be divided by."""


@dataclass(frozen=True)
class NoiseAt:
    """A schedule at the times of n positions; float64 [n] each.

    Attributes:
        destination: where tokens go.
        alpha: the chance that a token survives.
        alpha_prime: its derivative.
        mass: b.
        mass_prime: its derivative.
    """

    destination: Destination
    alpha: Tensor
    alpha_prime: Tensor
    mass: NoiseMass
    mass_prime: NoiseMass

    @classmethod
    def of(cls, schedule: NoiseSchedule, time: Tensor, vocab_size: int) -> NoiseAt:
        """What `schedule` says of the times [n], for V tokens."""
        time = time.double()
        return cls(
            schedule.destination,
            schedule.alpha(time),
            schedule.alpha_prime(time),
            schedule.noise_mass(time, vocab_size),
            schedule.noise_mass_prime(time, vocab_size),
        )


@dataclass(frozen=True)
class NoisyTokens:
    """n clean tokens and what noise made of them.

    Attributes:
        clean: [n] int64, x.
        noisy: [n] int64, z.
        mask_token_id: the mask token.
    """

    clean: Tensor
    noisy: Tensor
    mask_token_id: int

    @property
    def survived(self) -> Tensor:
        """[n] bool: z = x."""
        return self.noisy == self.clean

    @property
    def masked(self) -> Tensor:
        """[n] bool: z is the mask token."""
        return self.noisy == self.mask_token_id


def bound(logits: Tensor, tokens: NoisyTokens, noise: NoiseAt) -> Tensor:
    """[n] float64 nats: the integrand of the bound, at each position's time.

    Args:
        logits: [n, V] float, the model's; float32 leaves five digits at times in [1e-3, 1 - 1e-3].
        tokens: what it read, and what it should have said.
        noise: of each position.
    """
    if noise.destination == "mask":
        weight = torch.where(tokens.masked, -noise.alpha_prime / (1 - noise.alpha), 0.0)
        allowed = _without_mask(logits, tokens.mask_token_id)
        # A token that survived has no weight, but may be a mask in itself, with an infinite cross-entropy.
        target = tokens.clean.masked_fill(~tokens.masked, -100)
        return weight * cross_entropy(allowed, target, reduction="none").double()
    return rate(tokens, noise) * divergence(logits, tokens, noise)


def rate(tokens: NoisyTokens, noise: NoiseAt) -> Tensor:
    """[n] float64: how fast z arises, r(z) / q(z); what weighs `divergence` in the bound."""
    mass = _at(noise.mass, tokens.masked)
    fall = noise.alpha_prime / noise.alpha.clamp(min=LEAST_MASS)
    rise = _at(noise.mass_prime, tokens.masked) - fall * mass
    return rise / (noise.alpha * tokens.survived + mass).clamp(min=LEAST_MASS)


def divergence(logits: Tensor, tokens: NoisyTokens, noise: NoiseAt) -> Tensor:
    """[n] float64: KL(q || p) + rho - 1 - ln rho, never negative.

    Every term of the sum over the vocabulary is of the form q (p/q - 1 - ln p/q), which is never negative:
    nothing cancels where q and p are nearly the same.

    Args:
        logits: see `bound`.
        tokens: see `bound`.
        noise: see `bound`; not one of masks only.
    """
    if noise.destination != "uniform":
        logits = _without_mask(logits, tokens.mask_token_id)
    model = logits.softmax(-1)
    own = model.gather(1, tokens.clean[:, None]).squeeze(1).double()
    read = model.gather(1, tokens.noisy[:, None]).squeeze(1).double()
    mass = noise.mass.other.clamp(min=LEAST_MASS)
    # x_th has no mask, or the mask has the others' mass: one column needs no other treatment.
    excess = model.scatter(1, tokens.clean[:, None], 0.0) * (noise.alpha / mass).to(model.dtype)[:, None]
    others = mass * (excess - excess.log1p()).sum(-1).double()
    mass_clean = _at(noise.mass, tokens.clean == tokens.mask_token_id).clamp(min=LEAST_MASS)
    q_clean, p_clean = noise.alpha + mass_clean, noise.alpha * own + mass_clean
    clean = noise.alpha * (own - 1) - q_clean * (p_clean.log() - q_clean.log())
    mass_read = _at(noise.mass, tokens.masked).clamp(min=LEAST_MASS)
    rho_inverse = torch.where(
        tokens.survived, p_clean / q_clean, (noise.alpha * read + mass_read) / mass_read
    )
    return others + clean + rho_inverse.reciprocal() - 1 + rho_inverse.log()


def _at(mass: NoiseMass, masked: Tensor) -> Tensor:
    return torch.where(masked, mass.mask, mass.other)


def _without_mask(logits: Tensor, mask_token_id: int) -> Tensor:
    return logits.index_fill(1, torch.tensor([mask_token_id], device=logits.device), -torch.inf)

"""Returns and advantages of a trace's tokens, from a value of each: TraceRL's variant with a value model.

No value model is trained here; this is what one's trainer would take (arXiv:2509.06949, section 4.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenValues:
    """Of each token, [B, L] float64, 0 where it isn't learnt.

    Attributes:
        returns: R_j = r_j + g R*_(t+1), what its value should have been.
        advantages: A_j = r_j - V_j + g V*_(t+1) + g l A*_(t+1).
    """

    returns: Tensor
    advantages: Tensor


def token_values(
    rewards: Tensor, steps: Tensor, values: Tensor, learnt: Tensor, discounts: tuple[float, float]
) -> TokenValues:
    """Generalised advantages over steps; V*_t and r*_t are means over a step's tokens.

    The reward is that of each token of an answer's last step. delta_t = r*_t - V*_t + g V*_(t+1),
    A*_t = delta_t + g l A*_(t+1), R*_t = r*_t + g R*_(t+1); all are 0 after the last step.

    Args:
        rewards: [B], of the answers.
        steps: [B, L] int64, at which each token is learnt.
        values: [B, L] float, of each token.
        learnt: [B, L] bool, which tokens are.
        discounts: (g, l), the discount of a step and the decay of generalised advantages.
    """
    gamma, decay = discounts
    returns = torch.zeros(steps.shape, dtype=torch.float64, device=steps.device)
    advantages = torch.zeros_like(returns)
    for row, reward in enumerate(rewards.double().tolist()):
        next_return = next_value = next_advantage = 0.0
        due = reward  # at the last step only
        for step in steps[row][learnt[row]].unique(sorted=True).flip(0):
            of_step = learnt[row] & (steps[row] == step)
            value = values[row][of_step].double()
            returns[row, of_step] = due + gamma * next_return
            advantages[row, of_step] = due - value + gamma * (next_value + decay * next_advantage)
            mean = float(value.mean())
            next_advantage = due - mean + gamma * (next_value + decay * next_advantage)
            next_return, next_value, due = due + gamma * next_return, mean, 0.0
    return TokenValues(returns, advantages)

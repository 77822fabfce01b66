"""What policy objectives let their users choose between, by name; loads nothing."""

from typing import Literal

AdvantageKind = Literal[
    "leave-one-out", "leave-one-out-scaled", "group-mean", "z-score", "z-score-population"
]
"""See `policy_advantages.group_advantages`."""
KlEstimator = Literal["k1", "k3"]
KlTo = Literal["reference", "old"]
"""See `policy_losses.ClippedRatio`."""
Normalisation = Literal["bnpo", "grpo", "dr_grpo", "dllm_rl"]
"""See `policy_losses.term_shares`."""

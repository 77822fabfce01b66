"""A phase between its steps: what was written, what it is worth, and how likely it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from opendllm.core.foundation.ranks import rank
from opendllm.core.training.reinforcement.term_values import TermValues
from opendllm.registries.policies import Rollouts
from opendllm.registries.sequences import PADDING_SEGMENT, TokenIds, TokenRows

PHASE_FOLDER = "phase"
"""In a checkpoint that lies between a phase's steps."""
_ROW_FIELDS = ("tokens", "segments", "positions", "maskable")
_FILLED_WITH: Mapping[str, int] = {"segments": PADDING_SEGMENT}


@dataclass(frozen=True)
class Phase:
    """This rank's share of a phase; everything lies on the CPU.

    Attributes:
        number: from 0.
        rollouts: n answers; each `sample_index` is its number among all of the phase.
        advantages: [n] float64.
        learnt: [n] bool, whether the objective keeps the answer's prompt.
        old: by iteration, of the terms under the policy that wrote the answers; the first step's is the
            policy itself.
        reference: by iteration, of the terms under the reference; empty where none is asked for.
        figures: for the line of the phase's first step.
    """

    number: int
    rollouts: Rollouts
    advantages: Tensor
    learnt: Tensor
    old: Mapping[int, TermValues]
    reference: Mapping[int, TermValues]
    figures: Mapping[str, float] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write this rank's share into a checkpoint, for the phase's other steps."""
        target = folder / PHASE_FOLDER
        target.mkdir(exist_ok=True)
        rows = self.rollouts.rows
        tensors = {name: getattr(rows, name) for name in _ROW_FIELDS}
        tensors |= {
            "numbers": rows.sample_index,
            "counted": self.rollouts.counted,
            "committed_at": self.rollouts.committed_at,
            "advantages": self.advantages,
            "learnt": self.learnt,
        }
        for name, found in (("old", self.old), ("reference", self.reference)):
            for iteration, terms in found.items():
                tensors[f"{name}-{iteration}-values"] = terms.values
                tensors[f"{name}-{iteration}-counts"] = terms.counts
        longest = self.rollouts.max_completion_length
        about = {"phase": str(self.number), "max_completion_length": str(longest)}
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(whole, target / f"rank-{rank()}.safetensors", metadata=about)

    @classmethod
    def restore(cls, folder: Path, own: range, ids: TokenIds) -> Phase:
        """What `save` wrote, by however many ranks.

        Args:
            folder: of the checkpoint.
            own: which of the phase's answers are this rank's.
            ids: the model's.
        """
        parts: list[dict[str, Tensor]] = []
        for path in (folder / PHASE_FOLDER).glob("rank-*.safetensors"):
            with safe_open(path, "pt") as file:
                about = file.metadata()
                parts.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        parts.sort(key=lambda part: int(part["numbers"][0]))
        width = max(part["tokens"].shape[1] for part in parts)
        joined = {name: torch.cat([_widened(part, name, width) for part in parts]) for name in parts[0]}
        chosen = torch.arange(own.start, own.stop)
        rows = TokenRows(
            **{name: joined[name][chosen] for name in _ROW_FIELDS},
            sample_index=joined["numbers"][chosen],
            ids=ids,
        )
        rollouts = Rollouts(
            rows,
            joined["counted"][chosen],
            joined["committed_at"][chosen],
            int(about["max_completion_length"]),
        )
        return cls(
            int(about["phase"]),
            rollouts,
            joined["advantages"][chosen],
            joined["learnt"][chosen],
            _terms(joined, "old", chosen),
            _terms(joined, "reference", chosen),
        )


def _widened(part: Mapping[str, Tensor], name: str, width: int) -> Tensor:
    values = part[name]
    if values.ndim < 2:
        return values
    return pad(values, (0, width - values.shape[1]), value=_FILLED_WITH.get(name, 0))


def _terms(joined: Mapping[str, Tensor], name: str, chosen: Tensor) -> dict[int, TermValues]:
    iterations: Sequence[int] = sorted(
        int(key.split("-")[1]) for key in joined if key.startswith(f"{name}-") and key.endswith("-values")
    )
    return {
        each: TermValues(joined[f"{name}-{each}-values"], joined[f"{name}-{each}-counts"]).of_answers(chosen)
        for each in iterations
    }

"""What all tests of an objective start from: rows, schedules that go with it, and what it makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from opendllm.core.testing.contract import PluginContract
from opendllm.core.testing.known_noise import PowerNoise
from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.segments import document_positions
from opendllm.registries.backbones import DiffusionLM, DistributionLoss
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.noise_schedules import Destination, NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Objective
from opendllm.registries.options import ObjectiveOptions, noise_destination
from opendllm.registries.registry import Registration
from opendllm.registries.sequences import PADDING_SEGMENT, AttentionPattern, TokenIds, TokenRows

MASK_TOKEN_ID = 11
ROWS, LENGTH = 8, 24
BLOCK_LENGTH = 4


def packed_rows(first_sample: int = 0, rows: int = ROWS) -> TokenRows:
    """Rows of two documents and some padding; the first three tokens of each row are a prompt."""
    sample_index = torch.arange(first_sample, first_sample + rows)
    columns = torch.arange(LENGTH).expand(rows, LENGTH)
    segments = torch.where(columns < 10, 0, torch.where(columns < 21, 1, PADDING_SEGMENT))
    tokens = (sample_index[:, None] * 7 + columns * 3) % 10
    maskable = (segments != PADDING_SEGMENT) & (columns >= 3)
    return TokenRows(tokens, segments, document_positions(segments), maskable, sample_index)


class ObjectiveCase(PluginContract):
    """An objective, and the noise that it is held against."""

    kind = "objectives"

    def objective(self) -> Objective:
        """The plugin."""
        return self.built(Objective)  # type: ignore[type-abstract]

    def objective_options(self) -> ObjectiveOptions:
        """What it is built with."""
        options = self.plugin_options()
        assert isinstance(options, ObjectiveOptions), f"derive {type(options).__name__} from ObjectiveOptions"
        return options

    def schedules(self) -> dict[str, NoiseSchedule]:
        """What it can be trained with, by what messages call it.

        Of an objective for any schedule two of different shape, for its first destination, and one for each
        other; of one that names them, those.
        """
        options = self.objective_options()
        destinations = sorted(options.destinations, key=lambda each: (each != "mask", each))
        if options.noise_schedules is None:
            shapes = [PowerNoise(1, destinations[0])] if destinations else []
            shapes += [PowerNoise(2, destination) for destination in destinations]
            return {str(shape): shape for shape in shapes}
        known = installed_plugins().noise_schedules
        found = {
            f"noise schedule {name}": schedule
            for name in sorted(options.noise_schedules)
            for schedule in _suited(known.get(name), destinations)
        }
        assert found, (
            f"no noise schedule goes with the objective: {sorted(options.noise_schedules)} with destination "
            f"{destinations}: name one in noise_schedules, or None for any"
        )
        return found

    def attention(self, block_length: int) -> AttentionPattern:
        """Of the models that it trains."""
        trains = self.objective_options().trains
        return AttentionPattern(trains, block_length if trains == "block-causal" else None)

    def prepared(self, rows: TokenRows) -> TokenRows:
        """With the attention blocks of a model that it trains."""
        ids = TokenIds(MASK_TOKEN_ID + 1, MASK_TOKEN_ID)
        return replace(rows, blocks=self.attention(BLOCK_LENGTH).blocks(rows.positions), ids=ids)

    def masking(self, schedule: NoiseSchedule, rows: TokenRows) -> Masking:
        """With the noise of seed 5."""
        rows = self.prepared(rows)
        return self.objective().mask(rows, AddressedNoise(5, rows, ROWS), schedule)

    def corrupt(self, schedule: NoiseSchedule, rows: TokenRows) -> Corruption:
        """Mask and corrupt with the noise of seed 5."""
        rows, objective = self.prepared(rows), self.objective()
        masking = objective.mask(rows, AddressedNoise(5, rows, ROWS), schedule)
        return objective.corrupt(masking, schedule, MASK_TOKEN_ID)

    def corruptions(self) -> Iterator[tuple[str, NoiseSchedule, Corruption]]:
        """What becomes of the packed rows, with each schedule: its name, itself, and that."""
        for told, schedule in self.schedules().items():
            yield told, schedule, self.corrupt(schedule, packed_rows())

    def copies(self, corruption: Corruption, rows: int = ROWS) -> tuple[int, int]:
        """How often the model reads a row: in rows after it, and in columns right of it."""
        read = list(corruption.inputs.tokens.shape)
        copies, halves = read[0] // rows, read[1] // LENGTH
        assert read == [copies * rows, halves * LENGTH], (
            f"{rows} rows of {LENGTH} tokens are read as {read}: a row is read whole, as often as you like"
        )
        return copies, halves

    def in_each_copy(self, of_rows: Tensor, corruption: Corruption) -> Tensor:
        """[B', L'] of [B, L]: the same for each time that the model reads a row."""
        copies, halves = self.copies(corruption, len(of_rows))
        return of_rows.repeat_interleave(copies, 0).repeat(1, halves)

    def answers(self, corruption: Corruption) -> torch.Tensor:
        """What a model might say of the scored positions: likelihoods [N], or logits [N, V]; float64."""
        number = int(corruption.scored.sum())
        if not self.objective().reads_distributions:
            return torch.linspace(0.1, 5, number, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        return torch.randn(number, MASK_TOKEN_ID + 1, generator=generator, dtype=torch.float64)

    def loss_of(
        self, answers: torch.Tensor, corruption: Corruption, chosen: slice, schedule: NoiseSchedule
    ) -> torch.Tensor:
        """The share of the loss that some scored positions have."""
        part = self.objective().loss_part(corruption, schedule)
        return part.of(answers, chosen) if isinstance(part, DistributionLoss) else part(answers, chosen)

    def loss_sum(
        self, corruption: Corruption, schedule: NoiseSchedule, lm: DiffusionLM | None = None
    ) -> torch.Tensor:
        """With the answers of a model, by default a tiny one."""
        if lm is None:
            reads_time = self.objective_options().tells_time
            lm = TableLM(MASK_TOKEN_ID + 1, self.attention(BLOCK_LENGTH), reads_time)
        if self.objective().reads_distributions:
            logits = lm.project(lm.hidden_states(corruption.inputs)[corruption.scored]).double()
            return self.loss_of(logits, corruption, slice(0, len(logits)), schedule).detach()
        nll = lm.negative_log_likelihood(corruption.inputs, corruption.targets, corruption.scored)
        return self.objective().loss_sum(nll.double(), corruption).detach()


def _suited(registration: Registration[Any], destinations: list[Destination]) -> list[NoiseSchedule]:
    """The schedule, sending tokens to the first of these that it can; none where it can't."""
    for destination in destinations:
        given = {"destination": destination} if "destination" in registration.options.model_fields else {}
        checked = registration.options.model_validate(given)
        if noise_destination(checked) == destination:
            return [registration.build(checked)]
    return []

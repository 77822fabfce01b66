"""A stock network with the training loss as its forward, and what it reads ahead."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import PreTrainedModel

from opendllm.core.networks.attention import AttentionLayout
from opendllm.core.networks.load_balancing import load_balancing_loss
from opendllm.core.networks.token_losses import let_score, summed_loss
from opendllm.registries.backbones import LossPart
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import PADDING_SEGMENT, AttentionPattern, ModelInputs


class ReadAhead(NamedTuple):
    """What a forward pass of packed rows would wait for a device for.

    Attributes:
        inputs: of that pass.
        layout: who sees whom.
        rows: [N] int64, of the scored positions, as is the next.
        columns: see rows.
    """

    inputs: ModelInputs
    layout: AttentionLayout
    rows: Tensor
    columns: Tensor


class ScoringModule(nn.Module):
    """The network, with the training loss as its forward."""

    network: PreTrainedModel

    def __init__(self, network: PreTrainedModel, attention: AttentionPattern, logit_shift: bool) -> None:
        super().__init__()
        self.network = network
        let_score(network.get_output_embeddings())
        self._attention = attention
        self._logit_shift = logit_shift
        self.balance_weight = 0.0
        self._ahead = WeakTensorKeyDictionary()
        """`ReadAhead` by the very tensor of scored positions."""

    def read_ahead(self, inputs: ModelInputs, scored: Tensor) -> None:
        """Work out what a forward pass of the very same tensors would have to wait for a device for.

        The trainer calls it while the device is busy with the step before, in a stream of its own.
        """
        ahead = self._ahead[scored] = self._read(inputs, scored)
        ahead.layout.work_out()

    def _read(self, inputs: ModelInputs, scored: Tensor) -> ReadAhead:
        return ReadAhead(inputs, self._layout_of(inputs), *scored.nonzero(as_tuple=True))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _ahead_of(self, inputs: ModelInputs, scored: Tensor) -> ReadAhead:
        for known, ahead in self._ahead.items():
            # ZeRO 3 hands on another tensor of the same memory, and the inputs as they are.
            same_memory = known.data_ptr() == scored.data_ptr() and known.shape == scored.shape
            if same_memory and ahead.inputs is inputs:
                found: ReadAhead = ahead
                del self._ahead[known]  # a layout keeps what layers ask of it, masks too: for one pass
                return found
        return self._read(inputs, scored)

    def forward(self, inputs: ModelInputs, targets: Tensor, scored: Tensor, loss_part: LossPart) -> Tensor:
        """See `DiffusionLM.module`."""
        ahead = self._ahead_of(inputs, scored)
        rows, columns = ahead.rows, ahead.columns
        balancing = self.balance_weight > 0 and torch.is_grad_enabled()
        wanted = {"output_router_logits": True} if balancing else {}
        output = self._network_output(inputs, ahead.layout, **wanted)
        hidden, chosen = self._chosen(output.last_hidden_state, inputs, targets, rows, columns)
        loss: Tensor = summed_loss(self.network.get_output_embeddings(), hidden, chosen, loss_part)
        if not balancing:
            return loss
        real, top_k = inputs.segments != PADDING_SEGMENT, self.network.config.num_experts_per_tok
        return loss + self.balance_weight * load_balancing_loss(output.router_logits, top_k, real)

    def scored_states(self, inputs: ModelInputs, targets: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
        """([N, D], [N]): what predicts each scored position, and its target; nothing else is projected."""
        rows, columns = scored.nonzero(as_tuple=True)
        return self._chosen(self.network_states(inputs), inputs, targets, rows, columns)

    def _chosen(
        self, hidden: Tensor, inputs: ModelInputs, targets: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor]:
        sources = rows * targets.shape[1] + self.predictors_of(inputs)[rows, columns]
        return hidden.flatten(0, 1).index_select(0, sources), targets[rows, columns]

    def network_states(self, inputs: ModelInputs) -> Tensor:
        """[B, L, D] the network's own hidden states, not aligned."""
        hidden: Tensor = self._network_output(inputs, self._layout_of(inputs)).last_hidden_state
        return hidden

    def _layout_of(self, inputs: ModelInputs) -> AttentionLayout:
        blocks = self._attention.blocks(inputs.positions) if inputs.blocks is None else inputs.blocks
        return AttentionLayout(inputs, blocks)

    def _network_output(self, inputs: ModelInputs, layout: AttentionLayout, **wanted: bool) -> Any:
        """Of the stock class, as it names things."""
        refuse_time(inputs)
        return self.network.get_decoder()(
            input_ids=inputs.tokens,
            position_ids=inputs.positions,
            use_cache=False,
            layout=layout,
            **wanted,
        )

    def predictors_of(self, inputs: ModelInputs) -> Tensor:
        """[B, L] int64: `predictors`; of a noisy half beside its clean one, as `inputs` say.

        The clean copy of the position before a block sees the blocks up to its own, so not what it predicts.
        """
        found = self.predictors(inputs.segments)
        if not (self._logit_shift and inputs.predicts_from_clean) or inputs.clean is None:
            return found
        assert inputs.blocks is not None
        half = found.shape[1] // 2
        enters_block = inputs.blocks.gather(1, found) != inputs.blocks
        return torch.where(enters_block & ~inputs.clean, found + half, found)

    def predictors(self, segments: Tensor) -> Tensor:
        """[B, L] int64: the position whose hidden state predicts the token at each position.

        Itself; in a shifted checkpoint the document's one before, over any padding in between, but
        for its first position, which has none and repeats its own (Dream's
        `cat([logits[:, :1], logits[:, :-1]])`).
        """
        own = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
        if not self._logit_shift:
            return own
        last_real = torch.where(segments != PADDING_SEGMENT, own, 0).cummax(-1).values
        before = torch.cat([own[:, :1], last_real[:, :-1]], dim=-1)
        return torch.where(segments.gather(1, before) == segments, before, own)


def refuse_time(inputs: ModelInputs) -> None:
    """Stock networks have no input for it.

    Raises:
        UserError: there is one.
    """
    if inputs.time is not None:
        raise UserError(
            "this backbone's network has no input for the time: train and decode it without time_conditioning"
        )

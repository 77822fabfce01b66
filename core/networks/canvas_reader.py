"""Reading canvases with transformers' stock models: again and again, with or without kept keys."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from opendllm.core.networks.attention import CanvasLayout
from opendllm.core.networks.canvas_cache import CanvasCache
from opendllm.registries.backbones import CanvasReader, RefreshSpan, TokenPositions
from opendllm.registries.sequences import PADDING_SEGMENT, AttentionPattern, ModelInputs


class TransformersReader(CanvasReader):
    """Rows of one layout, read by a stock network."""

    def __init__(
        self,
        network: PreTrainedModel,
        pattern: AttentionPattern,
        predictors: Callable[[Tensor], Tensor],
        inputs: ModelInputs,
        use_kv_cache: bool,
        read: Callable[..., Tensor],
    ) -> None:
        """Take the layout in.

        Args:
            network: any causal LM whose attention is `segment_attention`.
            pattern: the checkpoint's.
            predictors: see `DiffusionLM.predictors`.
            inputs: the rows; only their layout is read.
            use_kv_cache: whether to keep keys and values.
            read: `network_states`, or what does the same.
        """
        self._network = network
        self._pattern = pattern
        self._predictors_of = predictors
        # Copies: other rows are written into them.
        self._predictors = predictors(inputs.segments).clone(memory_format=torch.contiguous_format)
        self._positions = inputs.positions.clone(memory_format=torch.contiguous_format)
        real = inputs.segments != PADDING_SEGMENT
        self._real = None if bool(real.all()) else real
        self._blocks = pattern.blocks(self._positions)
        self._cache = CanvasCache(*inputs.tokens.shape) if use_kv_cache else None
        self._read = read
        self._is_fixed = False

    def states(self, tokens: Tensor, at: TokenPositions, refresh: RefreshSpan | None = None) -> Tensor:
        """See `CanvasReader.states`."""
        sources = self._predictors[at.rows, at.columns]
        if refresh is None:
            if self._cache is not None:
                self._cache.rows, self._cache.columns = None, None
            visible = self._visible(self._blocks)
            hidden = self._read(self._network, tokens, self._positions, visible, self._cache)
            return hidden[at.rows, sources]
        assert self._cache is not None
        length = tokens.shape[1]
        rows = slice(None) if refresh.rows is None else refresh.rows
        columns = refresh.first[:, None] + torch.arange(refresh.width, device=tokens.device)
        inside = columns <= refresh.last[:, None]
        # A row whose last column is left of its first one is read for nothing.
        read_columns = torch.where(inside, columns, refresh.last[:, None].clamp(min=0))
        self._cache.rows = refresh.rows
        self._cache.columns = torch.where(inside, columns, length)
        self._cache.seen = length if refresh.seen is None else refresh.seen
        blocks = None
        if self._blocks is not None and not refresh.see_alike:
            blocks = self._blocks[rows].gather(1, read_columns)
        hidden = self._read(
            self._network,
            tokens[rows].gather(1, read_columns),
            self._positions[rows].gather(1, read_columns),
            self._visible(blocks, rows, refresh.seen),
            self._cache,
        )
        if refresh.rows is None:
            within = at.rows
        else:
            number = torch.zeros(tokens.shape[0], dtype=torch.int64, device=tokens.device)
            number[refresh.rows] = torch.arange(len(refresh.rows), device=tokens.device)
            within = number[at.rows]
        # Nor is anybody asked for its states: they are some of those that are there.
        return hidden[within, (sources - refresh.first[within]).clamp(0, refresh.width - 1)]

    def replace_rows(self, rows: Tensor, inputs: ModelInputs) -> bool:
        """See `CanvasReader.replace_rows`."""
        real = inputs.segments != PADDING_SEGMENT
        if self._real is None and not bool(real.all()):
            if self._is_fixed:
                return False
            self._real = torch.ones_like(self._positions, dtype=torch.bool)
        if self._real is not None:
            self._real[rows] = real
        if self._cache is not None:
            self._cache.clear(rows)
        self._predictors[rows] = self._predictors_of(inputs.segments)
        self._positions[rows] = inputs.positions
        blocks = self._pattern.blocks(inputs.positions)
        if self._blocks is not None and blocks is not None:
            self._blocks[rows] = blocks
        return True

    def fix_memory(self) -> int:
        """See `CanvasReader.fix_memory`."""
        self._is_fixed = True
        own = (self._predictors, self._positions, self._real, self._blocks)
        size = sum(each.nbytes for each in own if each is not None)
        if self._cache is None:
            return size
        # One token tells what a layer keeps, in any architecture and wherever its layers lie.
        probe, token = CanvasCache(1, 1), torch.zeros_like(self._positions[:1, :1])
        network_states(self._network, token, token, None, probe)
        return size + self._cache.allocate_like(probe)

    def select_rows(self, rows: Tensor) -> None:
        """See `CanvasReader.select_rows`."""
        self._predictors = self._predictors[rows]
        self._positions = self._positions[rows]
        self._real = None if self._real is None else self._real[rows]
        self._blocks = None if self._blocks is None else self._blocks[rows]
        if self._cache is not None:
            self._cache.select_rows(rows)

    def _visible(
        self, blocks: Tensor | None, rows: Tensor | slice = slice(None), seen: int | None = None
    ) -> Tensor | None:
        """[R, Q or 1, seen] bool for queries in `blocks` [R, Q]; None where all see all.

        Padding sees what is real, too: nobody reads it, and a query without a key would be NaN. (A row
        has a real column, whose block is the first; padding has one of the row's blocks.)
        """
        real = None if self._real is None else self._real[rows, None, :seen]
        if blocks is None or self._blocks is None:
            return real
        earlier = self._blocks[rows, None, :seen] <= blocks[:, :, None]
        return earlier if real is None else earlier & real


def network_states(
    network: PreTrainedModel,
    tokens: Tensor,
    positions: Tensor,
    visible: Tensor | None,
    cache: CanvasCache | None,
) -> Tensor:
    """[R, Q, D] the network's own hidden states, not aligned.

    Args:
        network: the stock model.
        tokens: [R, Q] int64.
        positions: [R, Q] int64.
        visible: see `CanvasLayout`.
        cache: keys and values of the other columns; None where there are none.
    """
    output = network.get_decoder()(
        input_ids=tokens,
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
        layout=CanvasLayout(visible),
    )
    hidden: Tensor = output.last_hidden_state
    return hidden

"""Reading canvases with transformers' stock models: again and again, with or without kept keys.

A cache here holds the keys and values of every column. A pass over some columns overwrites their
entries and attends to all; which columns, the decoder says. So Fast-dLLM's prefix and dual caches
(arXiv:2505.22618, section 3.2), and the exact ones of causal and block-causal checkpoints, are one thing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from opendllm.core.networks.attention import CanvasLayout
from opendllm.registries.backbones import CanvasReader, RefreshSpan, TokenPositions
from opendllm.registries.sequences import PADDING_SEGMENT, AttentionPattern, ModelInputs


class CanvasCache(Cache):
    """Keys and values of all columns, behind transformers' cache interface.

    Attributes:
        columns: [R, Q] int64, where the next pass's entries go; L is nowhere. None for everywhere.
        rows: [R] int64, whose they are; None for all rows.
        seen: of how many columns, the first ones, the entries come back.
    """

    def __init__(self, rows: int, length: int) -> None:
        """Make an empty cache for so many rows of `length` columns."""
        super().__init__(layers=[])
        self.columns: Tensor | None = None
        self.rows: Tensor | None = None
        self.seen = length
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._rows = rows
        self._length = length

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Take in a layer's new entries [R, H, Q, K]; these rows' [R, H, seen, K] come back."""
        if layer_idx == len(self.keys):
            # One column more than there are, for what is to go nowhere.
            size = (self._rows, key_states.shape[1], self._length + 1, key_states.shape[3])
            for store, states in ((self.keys, key_states), (self.values, value_states)):
                store.append(states.new_zeros(size))
        found = []
        # A model that is spread over devices has layers elsewhere than what says where their entries go.
        device = key_states.device
        chosen = None if self.rows is None else self.rows.to(device)
        columns = None if self.columns is None else self.columns.to(device)
        for kept, new in ((self.keys[layer_idx], key_states), (self.values[layer_idx], value_states)):
            if columns is None:
                kept[slice(None) if chosen is None else chosen, :, : self._length] = new
                found.append(new)
                continue
            rows = torch.arange(kept.shape[0], device=device) if chosen is None else chosen
            kept[rows[:, None], :, columns] = new.transpose(1, 2)
            found.append(kept[slice(None) if chosen is None else chosen, :, : self.seen])
        return found[0], found[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Every column has an entry."""
        return self._length

    def allocate_like(self, other: CanvasCache) -> int:
        """Make room for the entries of all layers, each like another cache's; gives how many bytes."""
        for own, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for store in theirs:
                own.append(store.new_zeros(self._rows, store.shape[1], self._length + 1, store.shape[3]))
        return sum(store.nbytes for store in (*self.keys, *self.values))

    def clear(self, rows: Tensor) -> None:
        """Forget all entries of some rows: masked ones count with a weight of 0, which a NaN survives."""
        for store in (*self.keys, *self.values):
            store.index_fill_(0, rows.to(store.device), 0)

    def select_rows(self, rows: Tensor) -> None:
        """Forget the other rows."""
        self._rows = len(rows)
        self.keys = [keys[rows.to(keys.device)] for keys in self.keys]
        self.values = [values[rows.to(values.device)] for values in self.values]


class TransformersReader(CanvasReader):
    """Rows of one layout, read by a stock network."""

    def __init__(
        self,
        network: PreTrainedModel,
        pattern: AttentionPattern,
        predictors: Callable[[Tensor], Tensor],
        inputs: ModelInputs,
        use_kv_cache: bool,
        compiled: Callable[..., Tensor] | None,
    ) -> None:
        """Take the layout in.

        Args:
            network: any causal LM whose attention is `segment_attention`.
            pattern: the checkpoint's.
            predictors: see `DiffusionLM.predictors`.
            inputs: the rows; only their layout is read.
            use_kv_cache: whether to keep keys and values.
            compiled: `network_states`, compiled; None to run it as it is.
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
        self._read = network_states if compiled is None else compiled
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

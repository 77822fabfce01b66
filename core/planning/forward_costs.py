"""Operations, bytes and seconds of forward passes."""

from __future__ import annotations

from dataclasses import dataclass

from opendllm.core.planning.devices import PASS_SECONDS_A_LAYER
from opendllm.core.planning.hardware import Hardware
from opendllm.registries.architecture import Architecture, Sizes


@dataclass(frozen=True)
class Loaded:
    """A model as it lies in memory for evaluation.

    Attributes:
        sizes: its architecture's.
        number: bytes of a weight, and of an activation.
        in_8bit: whether its linear layers' weights are one byte each.
        devices: that it is spread over.
    """

    sizes: Sizes
    number: int
    in_8bit: bool = False
    devices: int = 1

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return self._bytes(self.sizes.parameters)

    @property
    def precision(self) -> str:
        """Of its matrix products."""
        return "bf16" if self.number == 2 else "fp32"

    def keys_values(self, positions: int) -> int:
        """Bytes of the keys and values of so many positions; 0 where the widths aren't known."""
        if not isinstance(self.sizes, Architecture):
            return 0
        width = self.sizes.key_value_heads * self.sizes.head_size
        return 2 * self.sizes.layers * width * self.number * positions

    def activations(self, positions: int) -> int | None:
        """Bytes that a block holds together while so many positions go through: about five tensors of the
        model's width and three of the feed-forward's. None where the widths aren't known.
        """
        if not isinstance(self.sizes, Architecture):
            return None
        inner = self.sizes.intermediate_size
        if self.sizes.experts is not None:
            experts = self.sizes.experts
            inner = max(inner, (experts.active + experts.shared) * experts.intermediate_size)
        return positions * (5 * self.sizes.hidden_size + 3 * inner) * self.number

    def weights_read(self, tokens: float) -> float:
        """Bytes of the weights that a pass of so many tokens reads.

        Of a mixture only the experts that a token is sent to: of E experts of which each token takes k,
        E (1 - (1 - k/E)^tokens), were they drawn evenly. Of an embedding beside a head of its own, next to
        nothing.
        """
        sizes = self.sizes
        read: float = sizes.parameters
        if isinstance(sizes, Architecture):
            if sizes.experts is not None:
                total, active = sizes.experts.experts, sizes.experts.active
                hit = total * (1 - (1 - active / total) ** max(1.0, tokens))
                share = (hit - active) / max(1, total - active)
                read = sizes.active_parameters + share * (sizes.parameters - sizes.active_parameters)
            if not sizes.tied:
                read -= sizes.vocab_size * sizes.hidden_size
        return self._bytes(read)

    def operations(self, columns: int, seen: int, scored: float) -> float:
        """Of one row's pass: a third of what training takes.

        Args:
            columns: positions that go through the network.
            seen: positions that these attend to.
            scored: of the columns, those that reach the LM head.
        """
        return self.sizes.training_flops(columns, seen, scored / columns) / 3

    def _bytes(self, parameters: float) -> int:
        if not self.in_8bit:
            return int(parameters * self.number)
        embeddings = min(parameters, self.sizes.embedding_parameters)
        return int(embeddings * self.number + parameters - embeddings)


def pass_seconds(
    loaded: Loaded, hardware: Hardware, operations: float, read: float, uncompiled: bool
) -> float:
    """Of one pass: the longest of what its operations, its bytes and its calls take.

    Args:
        loaded: the model.
        hardware: what it runs on.
        operations: of all its rows.
        read: bytes of weights, keys and values.
        uncompiled: whether each layer's kernels are called one by one.
    """
    layers = loaded.sizes.layers if isinstance(loaded.sizes, Architecture) else 0
    return max(
        hardware.seconds(operations, loaded.precision),
        read / hardware.device.bandwidth,
        layers * PASS_SECONDS_A_LAYER if uncompiled else 0.0,
    )

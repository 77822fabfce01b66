"""The fixed steps that a model keeps from call to call, with their graphs and keys, within a bound."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable

import torch

from opendllm.core.decoding.fixed_step import FixedStep
from opendllm.core.decoding.graph_calls import GraphCalls, GraphTiming, captures_on
from opendllm.core.decoding.options import DecoderOptions
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.samplers import Sampler

KEPT_BYTES = 2 << 30
"""Of keys and values beside those in use; of the shape that was used last, however large it is."""


class KeptSteps:
    """Of one model. A step that is in use is not among them, so that nobody else takes it.

    Attributes:
        timing: what its graphs have cost.
    """

    def __init__(self, device: torch.device) -> None:
        self.timing = GraphTiming()
        self._captures = captures_on(device)
        self._kept: dict[tuple[Hashable, ...], FixedStep] = {}
        self._in_use: weakref.WeakKeyDictionary[FixedStep, tuple[Hashable, ...]] = weakref.WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._kept)

    def take(
        self, lm: DiffusionLM, shape: tuple[int, int, bool], sampler: Sampler, options: DecoderOptions
    ) -> FixedStep:
        """The step for a shape: the kept one, or a new one; see `FixedStep`."""
        model = _model_of(lm)
        # Steps of other weights would keep those in memory, whose places nobody will read again.
        for key in [key for key in self._kept if key[-1] != model]:
            del self._kept[key]
        # A sampler may keep something of a decode in itself: what it is now, another one will be, too.
        asked = (shape, _identity(sampler), options, model)
        found = self._kept.pop(asked, None)
        if found is None:
            found = self._made(lm, shape, sampler, options)
        self._in_use[found] = (*asked[:-1], _model_of(lm))  # a first step has joined its weights
        return found

    def _made(
        self, lm: DiffusionLM, shape: tuple[int, int, bool], sampler: Sampler, options: DecoderOptions
    ) -> FixedStep:
        self._evict(KEPT_BYTES)
        self.timing.shapes += 1
        # Weak: what the model keeps must not keep the model.
        model: DiffusionLM = weakref.proxy(lm)
        calls = GraphCalls(self._captures, self.timing, _weakly(self))
        try:
            return FixedStep(model, shape, sampler, options, calls)
        except torch.OutOfMemoryError:
            if not self.make_room():
                raise
            return FixedStep(model, shape, sampler, options, calls)

    def give_back(self, step: FixedStep) -> None:
        """Keep a step that was taken for the next call."""
        self._evict(KEPT_BYTES - step.memory_bytes)
        self._kept[self._in_use.pop(step)] = step

    def make_room(self) -> bool:
        """Forget all that is not in use; gives whether there was any."""
        was_any = bool(self._kept)
        self._evict(0)
        if was_any and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return was_any

    def _evict(self, most_bytes: int) -> None:
        """The ones used longest ago, until the others take no more than that."""
        while self._kept and (most_bytes <= 0 or sum(map(_bytes, self._kept.values())) > most_bytes):
            self._kept.pop(next(iter(self._kept)), None)


def kept_steps(lm: DiffusionLM) -> KeptSteps:
    """Those of a model."""
    found: KeptSteps | None = vars(lm).get("_kept_steps")
    if found is None:
        found = KeptSteps(next(lm.module.parameters()).device)
        found = vars(lm).setdefault("_kept_steps", found)
    assert found is not None
    return found


def release_steps(lm: DiffusionLM) -> GraphTiming:
    """Give back the memory of a model's graphs and of the keys that they read; gives what they had cost."""
    kept: KeptSteps | None = vars(lm).pop("_kept_steps", None)
    if kept is None:
        return GraphTiming()
    kept.make_room()
    return kept.timing


def _model_of(lm: DiffusionLM) -> Hashable:
    """What a step takes from the model for good: where its numbers lie, and the ids it treats apart."""
    tensors = (*lm.module.parameters(), *lm.module.buffers())
    return (
        hash(tuple((each.data_ptr(), each.dtype) for each in tensors)),
        (lm.mask_token_id, lm.eos_token_id, lm.end_of_turn_token_id, lm.stops, tuple(lm.ids_without_token)),
        repr((lm.noise, lm.attention, lm.vocab_size)),
    )


def _identity(sampler: Sampler) -> Hashable:
    """Equal for samplers that decide alike."""
    try:
        identity = (type(sampler), tuple(sorted(vars(sampler).items())))
        hash(identity)
    except TypeError:
        return sampler
    return identity


def _bytes(step: FixedStep) -> int:
    return step.memory_bytes


def _weakly(kept: KeptSteps) -> Callable[[], bool]:
    reference = weakref.ref(kept)

    def make_room() -> bool:
        found = reference()
        return found is not None and found.make_room()

    return make_room

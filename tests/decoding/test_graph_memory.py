"""What graphs keep between calls, and when they give it back; and that nothing compiles under a capture."""

from __future__ import annotations

import functools
import gc
import shutil
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core import load
from opendllm.core.decoding import fixed_step, kept_steps
from opendllm.core.decoding.graph_calls import GraphCalls, GraphTiming
from opendllm.core.decoding.kept_steps import KeptSteps, release_steps
from opendllm.core.language_model import LanguageModel
from opendllm.registries.errors import UserError

M = 150


@pytest.fixture
def fixed(goldens: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LanguageModel]:
    """(family) -> a model that takes steps of fixed shapes, without any compiling."""
    monkeypatch.setattr(torch, "compile", lambda function, **_options: function)
    monkeypatch.setattr(shutil, "which", lambda _name: "a compiler")
    return lambda family, **given: load(goldens / family, mask_token_id=M, device="cpu", **given)


def written(model: LanguageModel, length: int, **options: Any) -> torch.Tensor:
    canvas = torch.full((2, length), 5)
    canvas[:, -4:] = M
    return model.sample(
        canvas, "confidence-threshold", compile=True, cache="dual", block_length=4, **options
    ).tokens


def kept(model: LanguageModel) -> KeptSteps:
    found: KeptSteps = vars(model.lm)["_kept_steps"]
    return found


def test_what_is_kept_is_bounded(
    fixed: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bytes; but the shape used last stays, and serves the next call."""
    model = fixed("llada")
    for length in (20, 30, 40):
        written(model, length)
    assert len(kept(model)) == 3
    assert kept(model).timing.shapes == 3
    written(model, 30)
    assert kept(model).timing.shapes == 3
    monkeypatch.setattr(kept_steps, "KEPT_BYTES", 1)
    written(model, 50)
    assert len(kept(model)) == 1
    written(model, 50)
    assert kept(model).timing.shapes == 4


def test_keys_are_there_before_the_first_step(fixed: Callable[..., LanguageModel]) -> None:
    """So that their size is known, and no graph sees them come."""
    model = fixed("llada")
    written(model, 20)
    config, step = model.lm.network.config, next(iter(kept(model)._kept.values()))
    head = config.hidden_size // config.num_attention_heads
    keys = 2 * config.num_hidden_layers * 2 * config.num_key_value_heads * 21 * head * 4
    assert keys < step.memory_bytes < keys + 2 * 20 * 64


def test_a_model_that_nobody_has_is_gone(fixed: Callable[..., LanguageModel]) -> None:
    """At once: no circle of references keeps its memory until the collector comes by."""
    model = fixed("llada")
    written(model, 20, guidance_scale=0.5)
    gone = weakref.ref(model.lm)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_all_is_given_back(fixed: Callable[..., LanguageModel]) -> None:
    model = fixed("llada")
    before = written(model, 20)
    step = weakref.ref(next(iter(kept(model)._kept.values())))
    timing = release_steps(model.lm)
    assert (timing.shapes, step()) == (1, None)
    assert release_steps(model.lm) == GraphTiming()
    assert torch.equal(written(model, 20), before)


def test_where_memory_is_short_others_make_room(
    fixed: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with, and never without, something to give up."""
    model = fixed("llada")
    expected = written(model, 30)
    release_steps(model.lm)
    written(model, 20)
    made = fixed_step.FixedStep.__init__

    def short(self: Any, *arguments: Any) -> None:
        if len(kept(model)):
            raise torch.OutOfMemoryError("a GPU's memory is full")
        made(self, *arguments)

    monkeypatch.setattr(fixed_step.FixedStep, "__init__", short)
    assert torch.equal(written(model, 30), expected)
    assert len(kept(model)) == 1


def test_a_step_that_lacks_memory_is_tried_once_more() -> None:
    tried: list[int] = []
    room = [True, False]

    def step() -> None:
        tried.append(1)
        if len(tried) in (1, 3, 4):
            raise torch.OutOfMemoryError("full")

    calls = GraphCalls(None, GraphTiming(), lambda: room.pop(0))
    calls(("read",), step)
    assert len(tried) == 2
    with pytest.raises(torch.OutOfMemoryError):
        calls(("read",), step)
    assert len(tried) == 3


@pytest.mark.parametrize("sampler", ["low-confidence", "confidence-threshold", "p2"])
def test_another_call_takes_the_graphs_of_the_first(
    sampler: str, fixed: Callable[..., LanguageModel]
) -> None:
    """Each call builds a sampler of its own, which may keep something of its decode in itself."""
    model = fixed("llada")
    canvas = torch.full((1, 24), M)
    canvas[:, :4] = torch.arange(4)
    for seed in range(3):
        model.sample(canvas, sampler, seed=seed, cache="dual", block_length=8, compile=True)
    assert kept(model).timing.shapes == 1


def test_other_weights_have_graphs_of_their_own(fixed: Callable[..., LanguageModel]) -> None:
    """A graph reads the memory that the weights lay in when it was captured."""
    model = fixed("sdar")
    canvas = torch.full((1, 16), M)
    canvas[:, :4] = torch.arange(4)
    model.sample(canvas, "block-steps", compile=True)
    model.lm.module.to(torch.bfloat16)
    plain = model.sample(canvas, "block-steps")
    assert torch.equal(model.sample(canvas, "block-steps", compile=True).tokens, plain.tokens)
    assert kept(model).timing.shapes == 2


def test_two_threads_on_one_model_do_not_meet(fixed: Callable[..., LanguageModel]) -> None:
    """A step that is in use is nobody else's."""
    model = fixed("llada")
    canvases = [torch.cat([torch.arange(4) + 9 * number, torch.full((8,), M)])[None] for number in range(2)]
    plain = [model.sample(canvas, "low-confidence").tokens for canvas in canvases]
    found: dict[int, list[torch.Tensor]] = {0: [], 1: []}

    def work(number: int) -> None:
        found[number] += [
            model.sample(canvases[number], "low-confidence", compile=True).tokens for _ in range(4)
        ]

    threads = [threading.Thread(target=work, args=(number,)) for number in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, tokens in enumerate(plain):
        assert len(found[number]) == 4
        assert all(torch.equal(tokens, each) for each in found[number])


def test_a_model_without_memory_of_its_own_is_refused(
    written_model: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its readers make all anew at every step: nothing could be replayed."""
    model = written_model(torch.randn(7))
    monkeypatch.setattr(type(model.lm), "reader", lambda lm, inputs, *_how: whole_reader(lm, inputs), False)
    with pytest.raises(UserError, match=r"WrittenLM has no form that CUDA graphs could replay"):
        model.sample(torch.zeros(1, 4, dtype=torch.int64), "entropy", compile=True)


def whole_reader(lm: Any, inputs: Any) -> Any:
    from opendllm.registries.backbones import WholeReader

    return WholeReader(lm, inputs)


@pytest.mark.parametrize(
    ("family", "sampler", "options"),
    [
        ("llada", "confidence-threshold", {"threshold": 0.02, "block_length": 6, "cache": "dual"}),
        ("sdar", "block-steps", {"threshold": 0.02}),
    ],
    ids=["dual", "exact"],
)
def test_each_read_compiles_once_and_before_it_is_captured(
    family: str,
    sampler: str,
    options: dict[str, Any],
    goldens: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setenv("CXX", "true")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled, reads = torch._dynamo.utils.counters["stats"], set()

    class Counts:
        """Calls what it is to capture, which must not compile any more."""

        def capture(self, function: Callable[[], None]) -> Any:
            before = compiled["unique_graphs"]
            function()
            assert compiled["unique_graphs"] == before
            reads.add(function)
            return type("Called", (), {"replay": lambda _self: function()})()

    monkeypatch.setattr(kept_steps, "captures_on", lambda _device: Counts())
    model = load(goldens / family, mask_token_id=M, device="cpu")
    canvas = torch.full((2, 24), M)
    canvas[:, :7] = torch.arange(7)
    model.sample(canvas, sampler, compile=True, **options)
    step = next(iter(kept(model)._kept.values()))
    called: set[Any] = step._calls._called
    # (whole or read, which span, rows, width, seen, whether all rows, size); all columns: (.., None, size).
    passes = {key[2:6] if key[1] is not None else None for key in called if key[0] in ("whole", "read")}
    assert compiled["unique_graphs"] == len(passes)
    model.sample(canvas, sampler, compile=True, seed=1, **options)
    assert compiled["unique_graphs"] == len(passes)
    assert reads
    torch._dynamo.reset()

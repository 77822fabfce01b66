"""What CUDA graphs can break: memory of another canvas, pointers to what is gone, reads on the host.

And continuous batching, whose rows come into the memory of others: with graphs and without.
"""

from __future__ import annotations

import functools
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from opendllm.core import load
from opendllm.core.decoding import fixed_step, kept_steps, row_pool, waiting_rows
from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.decoding_run import DecodingRun
from opendllm.core.decoding.graph_calls import GraphCalls, GraphTiming
from opendllm.core.decoding.kept_steps import release_steps
from opendllm.core.decoding.row_pool import WaitingRow, padded_rows
from opendllm.core.decoding.settings import sort_options
from opendllm.core.decoding.step_flags import FlagsOnHost
from opendllm.core.decoding.waiting_rows import KnownMemory, decode_waiting
from opendllm.core.foundation.notices import warn_once
from opendllm.core.language_model import LanguageModel
from opendllm.registries.discovery import installed_plugins

from .emulated_graphs import DeadPointerError, EmulatedCaptures

M = 150
BLOCK_LENGTHS = {"llada2": 8}
SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "exact": ("sdar", "block-steps", {"threshold": 0.02, "block_steps": 4}),
    "exact-stop": (
        "sdar",
        "block-steps",
        {"threshold": 0.02, "temperature": 1.0, "top_k": 5, "early_stop": True},
    ),
    "edits": ("llada2", "token-editing", {"threshold": 0.02, "editing_threshold": 0.05, "max_post_steps": 2}),
    "edits-stop": (
        "sdar",
        "token-editing",
        {"threshold": 0.02, "editing_threshold": 0.05, "early_stop": True, "max_post_steps": 2},
    ),
    "shifted": ("fast-dllm-v2", "block-steps", {"threshold": 0.02}),
    "sub-blocks": ("fast-dllm-v2", "block-steps", {"threshold": 0.02, "block_length": 4, "cache": "dual"}),
    "sub-blocks-late": (
        "sdar",
        "confidence-threshold",
        {"threshold": 0.02, "block_length": 2, "cache": "dual"},
    ),
    "dual": ("llada", "confidence-threshold", {"threshold": 0.02, "block_length": 5, "cache": "dual"}),
    "counted-stop": (
        "llada",
        "confidence-threshold",
        {"threshold": 0.02, "early_stop": True, "temperature": 1.0},
    ),
    "prefix": ("dream", "confidence-factor", {"block_length": 5, "cache": "prefix", "temperature": 0.9}),
    "guided": ("dream", "entropy", {"guidance_scale": 0.5, "cache": "prefix", "block_length": 6}),
    "refreshed": ("llada", "low-confidence", {"block_length": 5, "cache": "prefix", "cache_refresh": 3}),
    "planned-stop": ("llada", "low-confidence", {"block_length": 6, "cache": "dual", "early_stop": True}),
    "revises": ("open-dcoder", "p2", {"steps": 6, "temperature": 0.7, "cache": "dual", "block_length": 6}),
    "remasks": ("llada", "remdm", {"temperature": 0.7, "cache": "dual", "block_length": 6, "steps": 9}),
    "decides-first": ("llada", "ancestral", {"temperature": 0.7, "cache": "dual", "block_length": 6}),
    "pipelined": ("llada", "multi-block", {"threshold": 3.5, "block_length": 4}),
    "pipelined-delayed": (
        "llada",
        "multi-block",
        {"threshold": 3.5, "block_length": 4, "cache": "delayed", "cache_delay": 1},
    ),
    "top-p": ("llada", "confidence-threshold", {"threshold": 0.5, "temperature": 1.0, "top_p": 0.8}),
}
ROWS = {
    (2, 18): ([7, 11], [(0, 0), (2, 0)]),
    (3, 15): ([2, 15, 9], [(0, 0), (0, 0), (0, 2)]),
}
"""(rows, columns): the prompts' lengths, and the padding (left, right)."""

of_every_kind = pytest.mark.parametrize("setting", SETTINGS)


@functools.cache
def loaded(folder: Path) -> LanguageModel:
    block_length = BLOCK_LENGTHS.get(folder.name)
    return load(folder, mask_token_id=M, device="cpu", block_length=block_length)


@pytest.fixture
def model(goldens: Path) -> Iterator[Callable[[str], LanguageModel]]:
    """(family) -> its golden checkpoint, which has captured nothing yet."""
    used = []

    def found(family: str) -> LanguageModel:
        used.append(loaded(goldens / family))
        return used[-1]

    yield found
    for each in used:
        release_steps(each.lm)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> EmulatedCaptures:
    """Graphs are captured and replayed; nothing is compiled."""
    found = EmulatedCaptures()
    monkeypatch.setattr(kept_steps, "captures_on", lambda _device: found)
    monkeypatch.setattr(torch, "compile", lambda function, **_options: function)
    monkeypatch.setattr(shutil, "which", lambda _name: "a compiler")
    return found


def canvas_of(shape: tuple[int, int], turn: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Other tokens at every turn."""
    prompts, padding = ROWS[shape]
    canvas, mask = torch.full(shape, M), torch.ones(shape, dtype=torch.int64)
    numbers = torch.Generator().manual_seed(turn)
    for row, (prompt, (left, right)) in enumerate(zip(prompts, padding, strict=True)):
        tokens = torch.randint(5, 140, (prompt,), generator=numbers)
        canvas[row, left : left + prompt] = tokens[: shape[1] - left]
        mask[row, :left] = 0
        mask[row, shape[1] - right :] = 0
    return canvas, mask


@pytest.mark.parametrize("setting", ["exact", "sub-blocks", "dual", "guided", "revises", "top-p"])
def test_replayed_steps_are_the_same_steps(
    setting: str, captures: EmulatedCaptures, model: Callable[[str], LanguageModel]
) -> None:
    """Of canvases of two shapes by turns."""
    family, sampler, options = SETTINGS[setting]
    lm = model(family)
    for turn in range(3):
        canvas, mask = canvas_of(list(ROWS)[turn % 2], turn)
        plain = lm.sample(canvas, sampler, mask, seed=turn, **options)
        same = lm.sample(canvas, sampler, mask, seed=turn, compile=True, **options)
        assert torch.equal(plain.tokens, same.tokens)
        assert torch.equal(plain.forward_passes, same.forward_passes)
    assert captures.captured
    assert captures.replayed >= captures.captured
    assert captures.refused == []


@of_every_kind
@pytest.mark.parametrize("replayed", [False, True], ids=["as-they-are", "replayed"])
def test_a_row_is_written_the_same_in_the_place_of_another(
    setting: str, replayed: bool, captures: EmulatedCaptures, model: Callable[[str], LanguageModel]
) -> None:
    """Of five rows two are written at a time, each of its own length and seed; alone they are the same."""
    family, name, flat = SETTINGS[setting]
    lm, registration = model(family).lm, installed_plugins().samplers.get(name)
    options, own = sort_options({**flat, "compile": replayed}, registration)
    alone = options.model_copy(update={"compile": False})
    sampler = registration.build(own)
    numbers = torch.Generator().manual_seed(1)
    rows = []
    for number, (prompt, gap, rest) in enumerate([(3, 7, 0), (6, 4, 2), (2, 9, 0), (9, 0, 2), (1, 3, 0)]):
        given = torch.randint(5, 140, (prompt + rest,), generator=numbers).tolist()
        rows.append(WaitingRow(10 + number, [*given[:prompt], *[M] * gap, *given[prompt:]], 100 - number))
    found = {each.number: each for each in decode_waiting(lm, rows, 2, 13, sampler, options)}
    assert sorted(found) == [row.number for row in rows]
    for row in rows:
        one = decode(lm, torch.tensor([row.ids]), None, sampler, alone, torch.tensor([row.seed]))
        assert found[row.number].written == one.tokens[0][one.written[0]].tolist()
        assert found[row.number].forward_passes == int(one.forward_passes[0])
    assert bool(captures.captured) == replayed
    assert captures.refused == []


@pytest.mark.usefixtures("captures")
def test_a_kept_step_is_not_taken_for_a_model_that_stops_elsewhere(
    model: Callable[[str], LanguageModel],
) -> None:
    family, sampler, options = SETTINGS["exact-stop"]
    lm = model(family)
    canvas, mask = canvas_of((2, 18), 0)
    before = lm.sample(canvas, sampler, mask, compile=True, **options).tokens
    stops = lm.lm.stop_token_ids
    try:
        lm.lm.stop_token_ids = tuple(sorted({*before[:, 11:].flatten().tolist()} - {M}))[:3]
        plain = lm.sample(canvas, sampler, mask, **options).tokens
        assert torch.equal(lm.sample(canvas, sampler, mask, compile=True, **options).tokens, plain)
        assert not torch.equal(plain, before)
    finally:
        lm.lm.stop_token_ids = stops


@pytest.mark.usefixtures("captures")
def test_weights_that_have_moved_are_let_go(goldens: Path) -> None:
    lm = load(goldens / "llada", mask_token_id=M, device="cpu")
    canvas, mask = canvas_of((2, 18), 0)
    _, sampler, options = SETTINGS["dual"]
    joined = []
    for _ in range(3):
        lm.sample(canvas, sampler, mask, compile=True, **options)
        joined.append(weakref.ref(vars(lm.lm)["_fused"]._layers[0].query_key_value))
        for parameter in lm.lm.module.parameters():
            parameter.data = parameter.data.clone()
    lm.sample(canvas, sampler, mask, compile=True, **options)
    assert [found() is None for found in joined] == [True] * 3
    assert len(kept_steps.kept_steps(lm.lm)) == 1


def test_the_emulation_refuses_what_a_gpu_refuses() -> None:
    """And says when a replay reads memory that is gone, or that another graph has written to."""
    captures, kept, found = EmulatedCaptures(), torch.zeros(3), torch.zeros(3)
    for function in (
        lambda: found.copy_(kept * float(kept[0])),
        lambda: found.add_(kept.nonzero().sum()),
        lambda: found.add_(kept[kept > 0].sum()),
        lambda: found.copy_(torch.tensor([1.0, 2.0, 3.0])),
    ):
        with pytest.raises(RuntimeError, match=r"capture|waits"):
            captures.capture(function)  # type: ignore[arg-type]
    temporary, leaked = [torch.ones(3)], []

    def step() -> None:
        found.add_(temporary[0])
        leaked.append(found * 2)

    graph = captures.capture(step)
    assert found.tolist() == [0, 0, 0]  # a capture does nothing
    graph.replay()
    assert found.tolist() == [1, 1, 1]
    assert leaked[0].isnan().all()
    temporary[0] = torch.ones(3)
    with pytest.raises(DeadPointerError):
        graph.replay()


def test_what_cannot_be_captured_is_called_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever was raised, even without a word."""

    class Refuses:
        def capture(self, function: Callable[[], None]) -> Any:
            raise AssertionError

    done: list[int] = []
    calls = GraphCalls(Refuses(), GraphTiming())
    for _ in range(4):
        calls(("silent",), lambda: done.append(1))
    assert len(done) == 4
    assert "silent is not replayed as a CUDA graph: AssertionError" in capsys.readouterr().err


@pytest.mark.parametrize("below", [0, 1 << 40], ids=["at-once", "late"])
@pytest.mark.parametrize("setting", ["dual", "planned-stop", "refreshed", "exact", "sub-blocks", "remasks"])
def test_when_the_host_waits(
    setting: str,
    below: int,
    captures: EmulatedCaptures,
    model: Callable[[str], LanguageModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Never for what is planned; for small models' steps after the next one; the passes are the same."""
    log: list[tuple[str, int]] = []
    send = FlagsOnHost.send

    def watched(flags: FlagsOnHost) -> Callable[[], Any]:
        step, read = len(log), send(flags)
        log.append(("sent", step))

        def logged() -> Any:
            log.append(("read", step))
            return read()

        return logged

    monkeypatch.setattr(FlagsOnHost, "send", watched)
    monkeypatch.setattr(fixed_step, "READ_LATE_BELOW_BYTES", below)
    family, sampler, options = SETTINGS[setting]
    canvas, mask = canvas_of((2, 18), 1)
    plain = model(family).sample(canvas, sampler, mask, seed=1, **options)
    same = model(family).sample(canvas, sampler, mask, seed=1, compile=True, **options)
    assert torch.equal(plain.tokens, same.tokens)
    assert torch.equal(plain.forward_passes, same.forward_passes)
    order = [what for what, _ in log]
    if setting == "refreshed":
        assert order == []
    elif (below or setting == "planned-stop") and setting not in ("sub-blocks", "remasks"):
        assert order[:3] == ["sent", "sent", "read"]
        assert order.count("read") == order.count("sent") - 1
    else:
        assert order == ["sent", "read"] * (len(order) // 2)


def test_what_fills_up_a_row_is_no_mask(written_model: Callable[..., LanguageModel]) -> None:
    """Even where the mask's id is 0, and no token ends a text."""
    lm = written_model(torch.zeros(5)).lm
    assert (lm.mask_token_id, lm.stops) == (0, ())
    canvas, real = padded_rows([[3, 0], [2]], lm, 4)
    assert canvas.tolist() == [[3, 0, 1, 1], [2, 1, 1, 1]]
    assert real.tolist() == [[True, True, False, False], [True, False, False, False]]


@pytest.mark.parametrize("replayed", [False, True], ids=["as-they-are", "replayed"])
def test_rows_that_do_not_fit_are_written_by_fewer_at_a_time(
    replayed: bool,
    captures: EmulatedCaptures,
    model: Callable[[str], LanguageModel],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What was given before stays; the others begin again, and come to the same."""
    family, name, flat = SETTINGS["dual"]
    lm, registration = model(family).lm, installed_plugins().samplers.get(name)
    options, own = sort_options({**flat, "compile": replayed}, registration)
    sampler = registration.build(own)
    rows = [WaitingRow(at, [*range(5, 9 + at), *[M] * (12 - at)], at) for at in range(6)]
    expected = {row.number: row.written for row in decode_waiting(lm, rows, 1, 20, sampler, options)}
    warn_once.cache_clear()
    taken: list[int] = []
    take_step = DecodingRun.take_step
    clock = SimpleNamespace(perf_counter=lambda: float(len(taken)))  # a step takes a second
    monkeypatch.setattr(row_pool, "time", clock)
    monkeypatch.setattr(waiting_rows, "time", clock)

    def short(run: DecodingRun) -> None:
        taken.append(len(run.cursor.rows))
        if len(taken) > 1 and taken[-1] > 2:
            raise torch.OutOfMemoryError("a GPU's memory is full")
        take_step(run)

    monkeypatch.setattr(DecodingRun, "take_step", short)
    memory = KnownMemory()
    found = list(decode_waiting(lm, rows, 4, 20, sampler, options, memory))
    assert len(found) == 6
    assert {row.number: row.written for row in found} == expected
    assert max(taken[2:]) == 2
    # What was read in vain took its time, too.
    assert sum(row.seconds for row in found) == pytest.approx(len(taken))
    # Another canvas begins with as many rows as are known to fit.
    steps = len(taken)
    assert len(list(decode_waiting(lm, rows, 4, 18, sampler, options, memory))) == 6
    assert max(taken[steps:]) == 2
    assert "4 rows of 20 tokens don't fit the memory, so 2 are written" in capsys.readouterr().err
    monkeypatch.setattr(DecodingRun, "take_step", lambda _run: (_ for _ in ()).throw(torch.OutOfMemoryError))
    with pytest.raises(torch.OutOfMemoryError):
        list(decode_waiting(lm, rows, 4, 20, sampler, options))

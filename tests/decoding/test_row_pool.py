"""Rows that come and go while others are written: each as if it were alone, and what is settled stays."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest
import torch

from opendllm.core.decoding.kept_steps import release_steps
from opendllm.core.decoding.row_pool import RowPool, WaitingRow
from opendllm.core.language_model import LanguageModel
from opendllm.core.networks.canvas_reader import TransformersReader

from .samplers_by_noise import OF_MASKS, SAMPLERS, suited, with_effect

M = 150
ROWS = [
    [5, 9, 31, *[M] * 12],
    [7, *[M] * 16, 8, 9],
    [2, *[M] * 5, 3],  # masks that nothing stands left of are alike, and ties fall as rounding has it
    [3, 4, 5, 20, 21, *[M] * 8],
    [20, *[M] * 17],
    [1, *[M] * 3],
    [*range(2, 11), *[M] * 10],
]
LENGTH = 20
WAYS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "everything read": ("llada", "low-confidence", {"temperature": 0.9}),
    "prefix": ("llada", "entropy", {"block_length": 4, "cache": "prefix", "temperature": 0.9}),
    "dual": ("dream", "confidence-threshold", {"block_length": 4, "cache": "dual"}),
    "dual, refreshed": ("llada", "p2", {"block_length": 4, "cache": "dual", "cache_refresh": 2}),
    "delayed": ("llada", "multi-block", {"block_length": 4, "cache": "delayed"}),
    "blocks of its own": ("sdar", "low-confidence", {"temperature": 0.9}),
    "shifted blocks of its own": (
        "fast-dllm-v2",
        "confidence-threshold",
        {"block_length": 2, "cache": "dual"},
    ),
    "guidance": ("open-dcoder", "p2", {"guidance_scale": 0.5, "temperature": 0.7}),
    "early stop": ("llada", "low-confidence", {"early_stop": True, "block_length": 8, "temperature": 2.0}),
}


def alone(model: LanguageModel, name: str, options: dict[str, Any], number: int) -> list[int]:
    pool = pool_of(model, name, options, [number])
    with torch.no_grad(), pool.run:
        while not pool.is_done:
            pool.take_step()
        [row] = pool.finished()
    return row.written


def pool_of(
    model: LanguageModel, name: str, options: dict[str, Any], numbers: Iterable[int], places: int = 0
) -> RowPool:
    sampler, decoder = model.build_sampler(name, options)
    first = [WaitingRow(number, ROWS[number], 100 + number) for number in numbers]
    empty = [WaitingRow(-1, [0], 0)] * (places - len(first))
    pool = RowPool(model.lm, [*first, *empty], LENGTH, sampler, decoder, padded=True)
    pool.leave({-1})
    return pool


def written_in_company(
    model: LanguageModel, name: str, options: dict[str, Any], seed: int, places: int = 0
) -> dict[int, list[int]]:
    """Rows join and leave at steps that a die chooses; those that stayed."""
    die = random.Random(seed)
    waiting, left, found = list(range(1, len(ROWS))), 0, {}
    pool = pool_of(model, name, options, [0], places)
    with torch.no_grad(), pool.run:
        while True:
            found.update({row.number: row.written for row in pool.finished()})
            if waiting and die.random() < 0.5:
                count = die.randint(1, min(2, len(waiting)))
                rows = [WaitingRow(number, ROWS[number], 100 + number) for number in waiting[:count]]
                del waiting[: pool.join(rows)]
            there = [row.number for row in pool.unwritten]
            if len(there) > 1 and left < 2 and die.random() < 0.2:
                pool.leave({die.choice(there)})
                left += 1
            if pool.is_done and not waiting:
                break
            if not pool.is_done:
                if die.random() < 0.7:
                    pool.drop_empty()
                pool.take_step()
        found.update({row.number: row.written for row in pool.finished()})
    assert len(found) + left == len(ROWS)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_a_row_that_joins_others_is_written_as_if_it_were_alone(
    way: str, golden_model: Callable[[str], LanguageModel]
) -> None:
    family, name, options = WAYS[way]
    model = golden_model(family)
    expected = {number: alone(model, name, options, number) for number in range(len(ROWS))}
    for seed in range(2):
        for number, tokens in written_in_company(model, name, options, seed).items():
            assert tokens == expected[number], (seed, number)


@pytest.mark.parametrize("way", ["everything read", "dual", "blocks of its own"])
def test_in_fixed_shapes_rows_join_in_the_places_that_there_are(
    way: str, golden_model: Callable[[str], LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_options: function)
    monkeypatch.setattr(shutil, "which", lambda _name: "a compiler")
    family, name, options = WAYS[way]
    model = golden_model(family)
    expected = {number: alone(model, name, options, number) for number in range(len(ROWS))}
    for seed in range(2):
        found = written_in_company(model, name, {**options, "compile": True}, seed, places=4)
        assert found == {number: expected[number] for number in found}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("way", ["dual", "blocks of its own", "shifted blocks of its own"])
def test_what_a_row_before_left_in_the_cache_is_forgotten(
    way: str,
    compiled: bool,
    golden_model: Callable[[str], LanguageModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A masked key counts with a weight of 0, and 0 times what is no number is no number."""
    monkeypatch.setattr(torch, "compile", lambda function, **_options: function)
    monkeypatch.setattr(shutil, "which", lambda _name: "a compiler")
    family, name, options = WAYS[way]
    options = {**options, "compile": compiled}
    model = golden_model(family)
    long, short = 4, 3
    expected = alone(model, name, options, short)
    release_steps(model.lm)
    pool = pool_of(model, name, options, [long, 0])
    with torch.no_grad(), pool.run:
        while not any(row.number == long for row in pool.finished()):
            pool.take_step()
        for reader in pool.run._readers:
            cache = cast(TransformersReader, reader)._cache
            assert cache is not None
            for store in (*cache.keys, *cache.values):
                store[0] = torch.nan
        assert pool.join([WaitingRow(short, ROWS[short], 100 + short)]) == 1
        found = {}
        while not pool.is_done:
            pool.take_step()
            found.update({row.number: row.written for row in pool.finished()})
    assert found[short] == expected


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_settled_is_the_beginning_of_what_is_written(
    name: str,
    stops: bool,
    golden_model: Callable[[str], LanguageModel],
    usable: Callable[..., dict[str, Any]],
) -> None:
    """Up to the first end token: early_stop writes others behind it."""
    model = suited(golden_model("llada"), name)
    options = usable(name, with_effect(name, steps=9, block_length=4, temperature=2.0))
    if stops and "early_stop" in with_effect(name, early_stop=True):
        model.lm.stop_token_ids = tuple(range(0, M, 9))
        options["early_stop"] = True
    for blocks in (options, {**options, "block_length": None}):
        pool = pool_of(model, name, blocks, [0, 1, 3])
        settled: list[dict[int, list[int]]] = []
        finished: dict[int, list[int]] = {}
        with torch.no_grad(), pool.run:
            while not pool.is_done:
                pool.take_step()
                finished.update({row.number: row.written for row in pool.finished()})
                settled.append(pool.settled({row.number for row in pool.unwritten}))
        for looked in settled:
            for number, tokens in looked.items():
                end = next((at for at, token in enumerate(tokens) if token in model.lm.stops), len(tokens))
                assert finished[number][:end] == tokens[:end]
        if name in OF_MASKS and name != "dreamon" and blocks is options and not stops:
            assert any(tokens for looked in settled for tokens in looked.values())

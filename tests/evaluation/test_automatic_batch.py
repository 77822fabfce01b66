"""`batch_size: auto`: by memory on a GPU, whose place a model of another device type takes here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch

from opendllm.core.decoding.compiled_shapes import plan_shapes
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.evaluation import automatic_batch
from opendllm.core.evaluation.automatic_batch import automatic_rows, row_bytes
from opendllm.core.foundation import notices
from opendllm.registries.architecture import Architecture, Sizes

GIB = 2**30
LLADA = Architecture(
    vocab_size=126_464,
    hidden_size=4096,
    intermediate_size=12_288,
    layers=32,
    heads=32,
    key_value_heads=32,
    head_size=128,
    tied=False,
)
DUAL = DecoderOptions(cache="dual", block_length=32)


def model(*devices: str) -> Any:
    """What the choice looks at of a bidirectional one in bf16."""
    parameters = [SimpleNamespace(device=torch.device(device), element_size=lambda: 2) for device in devices]
    return SimpleNamespace(
        module=SimpleNamespace(parameters=lambda: parameters),
        attention=SimpleNamespace(kind="bidirectional"),
        supports_kv_cache=True,
    )


def chosen(monkeypatch: pytest.MonkeyPatch, free: float, texts: int = 164, **changes: Any) -> int:
    monkeypatch.setattr(automatic_batch, "free_bytes", lambda _device: int(free * GIB))
    lm = changes.pop("lm", None) or model("cuda:0")
    sizes: Sizes | None = changes.pop("sizes", LLADA)
    options = changes.pop("options", DUAL)
    return automatic_rows(lm, sizes, options, [changes.pop("length", 512)] * texts)


def test_as_many_rows_as_fit_beside_the_logits_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, keys, states = row_bytes(model("cuda:0"), LLADA, 2, DUAL, 512)
    assert keys == 524_288 * 513  # LLaDA-8B keeps so many bytes a position
    assert states is not None
    for free in (6.0, 10.0, 20.0):
        rows = chosen(monkeypatch, free)
        assert 1 < rows < 64
        assert rows & (rows - 1) == 0
        assert logits + rows * (keys + states) < 0.9 * free * GIB < logits + 2 * rows * (keys + states)


def test_compiled_canvases_are_planned_as_they_are_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    padded = chosen(monkeypatch, 8, length=256)
    assert chosen(monkeypatch, 8, length=130) > padded
    graphs = DUAL.model_copy(update={"compile": "graphs"})
    assert chosen(monkeypatch, 8, length=130, options=graphs) == padded


@pytest.mark.parametrize("mode", ["graphs", True])
@pytest.mark.parametrize("length", [40, 130, 300, 500])
def test_the_canvas_that_is_read_fits_what_was_planned(
    monkeypatch: pytest.MonkeyPatch, length: int, mode: Literal["graphs", True]
) -> None:
    """As `plan_shapes` makes it of such rows, whatever their own length."""
    options = DUAL.model_copy(update={"compile": mode})
    for free in (4.0, 5.0, 8.5, 12.0):
        rows = chosen(monkeypatch, free, length=length, options=options)
        for shape in plan_shapes([length] * 164, rows, padded=True, together=True):
            logits, keys, states = row_bytes(model("cuda:0"), LLADA, 2, options, shape.length)
            assert states is not None
            assert shape.rows == 1 or logits + shape.rows * (keys + states) < free * GIB


def test_no_more_rows_than_texts_or_than_are_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, 60) == 64
    assert chosen(monkeypatch, 60, texts=5) == 5
    assert chosen(monkeypatch, 0.1) == 1  # to be told by the GPU itself what it lacks


def test_what_takes_more_memory_takes_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    cached = chosen(monkeypatch, 10)
    assert chosen(monkeypatch, 10, options=DecoderOptions()) > cached
    guided = DUAL.model_copy(update={"guidance_scale": 1.5})
    assert chosen(monkeypatch, 10, options=guided) < cached
    # spread over two GPUs each has half of the keys
    assert chosen(monkeypatch, 10, lm=model("cuda:0", "cuda:1")) > cached


def test_the_choice_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    notices.tell_once.cache_clear()
    rows = chosen(monkeypatch, 10, texts=99)
    said = capsys.readouterr().err
    assert said.startswith(f"decoding: batch_size {rows}, of 99 texts: 10.0 GiB are free, and a row of 512 ")
    assert chosen(monkeypatch, 10, sizes=None) == 32
    assert "batch_size 32, since the model doesn't tell its sizes" in capsys.readouterr().err


def test_on_a_cpu_it_is_what_it_always_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert automatic_rows(model("cpu"), LLADA, DUAL, [512] * 164) == 32
    assert automatic_rows(model("cpu"), LLADA, DUAL, [512] * 3) == 3
    assert capsys.readouterr().err == ""

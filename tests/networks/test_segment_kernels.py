"""Attention document by document equals attention under the whole row's mask."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.nn.attention import SDPBackend
from torch.nn.functional import scaled_dot_product_attention

from opendllm.core.foundation import notices
from opendllm.core.networks import attention, segment_kernels, varlen_kernels
from opendllm.core.networks.attention import AttentionLayout, CanvasLayout, segment_attention
from opendllm.core.networks.segment_kernels import attend_in_groups, document_runs
from opendllm.core.networks.varlen_kernels import VarlenKernel
from opendllm.core.toolkit.segments import document_positions, noisy_then_clean, visibility
from opendllm.registries.sequences import PADDING_SEGMENT, AttentionPattern, ModelInputs

ROWS = [[0] * 9 + [1] * 4 + [2] * 6 + [-1] * 5, [0] * 4 + [1] * 20, [-1] * 3 + [0] * 21, [0] * 24]
SCATTERED = [*ROWS, [0] * 5 + [-1] * 4 + [0] * 9 + [1] * 6]
PATTERNS = {
    "bidirectional": AttentionPattern(),
    "causal": AttentionPattern("causal"),
    "block-causal": AttentionPattern("block-causal", 4),
}


States = tuple[Tensor, Tensor, Tensor]


def layout(rows: list[list[int]], pattern: str, halves: bool = False) -> tuple[ModelInputs, Tensor | None]:
    segments = torch.tensor(rows)
    positions = document_positions(segments)
    inputs = ModelInputs(segments, segments, positions)
    blocks = PATTERNS[pattern].blocks(positions)
    if halves:
        assert blocks is not None
        inputs = noisy_then_clean(inputs, segments, blocks)
        blocks = inputs.blocks
    return inputs, blocks


def states(inputs: ModelInputs) -> States:
    """Query, key and value [B, H, L, K], four heads over two."""
    generator = torch.Generator().manual_seed(0)
    shape = inputs.segments.shape

    def made(heads: int) -> Tensor:
        return torch.randn(shape[0], heads, shape[1], 8, generator=generator).requires_grad_()

    return made(4), made(2), made(2)


def under_mask(inputs: ModelInputs, blocks: Tensor | None, qkv: States) -> Tensor:
    query, key, value = qkv
    mask = visibility(inputs, blocks)
    assert mask is not None
    key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    return scaled_dot_product_attention(query, key, value, mask[:, None], scale=0.3).transpose(1, 2)


def assert_same_with_gradients(found: Tensor, wanted: Tensor, qkv: States, real: Tensor) -> None:
    assert found.shape == wanted.shape
    torch.testing.assert_close(found[real], wanted[real], atol=1e-6, rtol=1e-5)
    weight = torch.randn(wanted[real].shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((found[real] * weight).sum(), qkv)
    theirs = torch.autograd.grad((wanted[real] * weight).sum(), qkv)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("rows", [ROWS, SCATTERED], ids=["runs", "scattered"])
@pytest.mark.parametrize(
    ("pattern", "halves"),
    [("bidirectional", False), ("causal", False), ("block-causal", False), ("block-causal", True)],
)
def test_grouped_documents_equal_the_masked_row(rows: list[list[int]], pattern: str, halves: bool) -> None:
    inputs, blocks = layout(rows, pattern, halves)
    qkv = states(inputs)
    found, _ = segment_attention(
        torch.nn.Identity(), *qkv, None, layout=AttentionLayout(inputs, blocks), scaling=0.3
    )
    real = inputs.segments != PADDING_SEGMENT
    assert_same_with_gradients(found, under_mask(inputs, blocks, qkv), qkv, real)


def test_no_mask_is_made_for_whole_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of the row nor, but for blocks, of a document."""
    asked = []

    def watched(
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **rest: object
    ) -> Tensor:
        asked.append(None if mask is None else mask.shape)
        return scaled_dot_product_attention(query, key, value, mask, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(segment_kernels, "scaled_dot_product_attention", watched)
    for pattern, largest in (("bidirectional", None), ("causal", None), ("block-causal", 24)):
        inputs, blocks = layout(ROWS, pattern)
        asked.clear()
        segment_attention(torch.nn.Identity(), *states(inputs), None, layout=AttentionLayout(inputs, blocks))
        assert max((shape[-1] for shape in asked if shape), default=None) == largest
        assert len(asked) == 6  # documents of 4, 6, 9, 20, 21 and 24 tokens


def loop_over_bounds(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, causal: bool, scale: float | None
) -> Tensor:
    """What a variable-length kernel computes, on a CPU."""
    assert longest == bounds.diff().max()
    parts = []
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        q, k, v = (t[start:end].transpose(0, 1)[None] for t in (query, key, value))
        output = scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=True)
        parts.append(output[0].transpose(0, 1))
    return torch.cat(parts)


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU of compute capability 9.0, as far as the choice of a kernel goes."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(attention, "takes_varlen", lambda query: True)
    varlen_kernels.kernel_for.cache_clear()
    notices.tell_once.cache_clear()
    notices.warn_once.cache_clear()
    yield
    varlen_kernels.kernel_for.cache_clear()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, hopper: None) -> list[str]:
    """All kernels, computing on a CPU what they compute on a GPU; gives the names of those asked."""
    asked: list[str] = []

    def standing_in(kernel: VarlenKernel) -> VarlenKernel:
        def attend(*arguments: Any) -> Tensor:
            asked.append(kernel.name)
            return loop_over_bounds(*arguments)

        return replace(kernel, load=lambda: attend)

    monkeypatch.setattr(varlen_kernels, "KERNELS", tuple(map(standing_in, varlen_kernels.KERNELS)))
    return asked


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As where these are not installed."""

    def fails() -> Any:
        raise ModuleNotFoundError(name="flash_attn")

    kernels = [replace(k, load=fails) if k.name in names else k for k in varlen_kernels.KERNELS]
    monkeypatch.setattr(varlen_kernels, "KERNELS", tuple(kernels))


@pytest.mark.parametrize("pattern", ["bidirectional", "causal"])
def test_a_variable_length_kernel_computes_packed_documents(installed: list[str], pattern: str) -> None:
    inputs, blocks = layout(ROWS, pattern)
    qkv = states(inputs)
    found, _ = segment_attention(
        torch.nn.Identity(), *qkv, None, layout=AttentionLayout(inputs, blocks), scaling=0.3
    )
    real = inputs.segments != PADDING_SEGMENT
    assert_same_with_gradients(found, under_mask(inputs, blocks, qkv), qkv, real)
    assert installed[-1] == "flash-attn 3"


def chosen() -> str:
    """The kernel that heads of 16 get."""
    return varlen_kernels.kernel_for((4, 2, 16), torch.float32, False).name


def test_the_kernel_is_chosen_by_what_is_installed(
    installed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chosen() == chosen() == "flash-attn 3"
    assert capsys.readouterr().err == "attention of packed documents: flash-attn 3\n"
    for missing, found in (
        (["flash-attn 3"], "flash-attn 4"),
        (["flash-attn 4"], "flash-attn 2"),
        (["flash-attn 2"], "torch's flash-attention 2"),
    ):
        without(monkeypatch, *missing)
        varlen_kernels.kernel_for.cache_clear()
        assert chosen() == found
        assert capsys.readouterr().err == f"attention of packed documents: {found}\n"


def test_an_ampere_gpu_has_no_kernels_for_hopper(
    installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert chosen() == "flash-attn 2"


@pytest.mark.parametrize("error", [AttributeError("no attribute 'x'"), ModuleNotFoundError(name="cutlass")])
def test_a_kernel_that_is_installed_and_does_not_load_is_named(
    installed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    def fails() -> Any:
        raise error

    first, *rest = varlen_kernels.KERNELS
    monkeypatch.setattr(varlen_kernels, "KERNELS", (replace(first, load=fails), *rest))
    assert chosen() == "flash-attn 4"
    assert "flash-attn 3 is left out, it doesn't load" in capsys.readouterr().err


def test_where_no_kernel_computes_right_documents_go_another_way(
    installed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def attend(*arguments: Any) -> Tensor:
        return loop_over_bounds(*arguments) * torch.nan

    wrong = tuple(replace(kernel, load=lambda: attend) for kernel in varlen_kernels.KERNELS)
    monkeypatch.setattr(varlen_kernels, "KERNELS", wrong)
    inputs, blocks = layout(ROWS, "bidirectional")
    qkv = states(inputs)
    found, _ = segment_attention(
        torch.nn.Identity(), *qkv, None, layout=AttentionLayout(inputs, blocks), scaling=0.3
    )
    real = inputs.segments != PADDING_SEGMENT
    torch.testing.assert_close(found[real], under_mask(inputs, blocks, qkv)[real])
    assert "torch's flash-attention 2 is left out" in capsys.readouterr().err


FAULTS = ["wrong", "raises", "wrong gradient", "NaN gradient", "no scale", "cut at 256"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_kernel_that_computes_something_else_is_left_out_and_named(
    installed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    def attend(*arguments: Any) -> Tensor:
        if fault == "raises":
            raise RuntimeError("no execution plans\nsupport this graph")
        query, key, value, bounds, longest, causal, scale = arguments
        if fault == "cut at 256":
            longer = bounds.diff() > 256
            bounds, longest = torch.cat([bounds, bounds[:-1][longer] + 256]).sort().values, 256
        scale = None if fault == "no scale" else scale
        found = loop_over_bounds(query, key, value, bounds, longest, causal, scale)
        slope = {"wrong gradient": 1.1, "NaN gradient": torch.nan}.get(fault, 1.0)
        return found * 1.1 if fault == "wrong" else found.detach() + slope * (found - found.detach())

    first, *rest = varlen_kernels.KERNELS
    monkeypatch.setattr(varlen_kernels, "KERNELS", (replace(first, load=lambda: attend), *rest))
    assert chosen() == "flash-attn 4"
    reasons = {"raises": "fails (RuntimeError: no execution plans)", "NaN gradient": "is off by nan of the"}
    why = f"it {reasons.get(fault, 'is off by ' if fault in FAULTS[-2:] else 'is off by 0.1')}"
    assert f"warning: attention: flash-attn 3 is left out, for heads of 16 {why}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "kernel"),
    [
        ("flash_attn_interface", "flash-attn 3"),
        ("flash_attn.cute", "flash-attn 4"),
        ("flash_attn", "flash-attn 2"),
    ],
)
@pytest.mark.parametrize("gives_sums", [False, True])
def test_the_packages_are_called_by_the_names_that_they_have(
    monkeypatch: pytest.MonkeyPatch, module: str, kernel: str, gives_sums: bool
) -> None:
    def flash_attn_varlen_func(  # noqa: PLR0913  (the packages')
        q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor,
        max_seqlen_q: int, max_seqlen_k: int, softmax_scale: float | None = None, causal: bool = False,
    ) -> Any:  # fmt: skip
        assert cu_seqlens_q.dtype == torch.int32
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        assert max_seqlen_q == max_seqlen_k
        found = loop_over_bounds(q, k, v, cu_seqlens_q, max_seqlen_q, causal, softmax_scale)
        return (found, None) if gives_sums else found

    package = ModuleType(module)
    package.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, module, package)
    [found] = [each for each in varlen_kernels.KERNELS if each.name == kernel]
    load = found.load.__wrapped__  # type: ignore[attr-defined]  # not what was kept of an earlier test
    for causal in (False, True):
        assert not varlen_kernels.mistake(load(), (4, 2, 16), torch.float32, causal)


@pytest.mark.parametrize("shares_heads", [True, False])
def test_torchs_own_kernel_gets_the_heads_that_it_takes(
    monkeypatch: pytest.MonkeyPatch, shares_heads: bool
) -> None:
    """Up to 2.11 as many key heads as query heads."""
    asked = []

    def of_2_11(  # noqa: PLR0913  (torch's)
        query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor,
        max_q: int, max_k: int, *, scale: float | None, window_size: tuple[int, int],
    ) -> Tensor:  # fmt: skip
        asked.append((window_size, query.shape[1], key.shape[1], value.shape[1]))
        return loop_over_bounds(query, key, value, cu_seq_q, max_q, window_size == (-1, 0), scale)

    def of_2_13(*arguments: Any, enable_gqa: bool = False, **named: Any) -> Tensor:
        assert enable_gqa
        return of_2_11(*arguments, **named)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", of_2_13 if shares_heads else of_2_11)
    attend = varlen_kernels.TORCHS.load.__wrapped__()  # type: ignore[attr-defined]
    for causal in (True, False):
        assert not varlen_kernels.mistake(attend, (4, 2, 16), torch.float32, causal)
    keys = 2 if shares_heads else 4
    assert asked == [((-1, 0), 4, keys, keys), ((-1, -1), 4, keys, keys)]


def test_the_kernels_take_half_precision_and_usual_heads_on_a_recent_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def takes(dtype: torch.dtype, size: int = 64, is_cuda: bool = True) -> bool:
        query: Any = SimpleNamespace(dtype=dtype, shape=(1, 4, 9, size), is_cuda=is_cuda)
        return varlen_kernels.takes_varlen(query)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert takes(torch.bfloat16)
    assert takes(torch.float16, 256)
    assert not takes(torch.float32)
    assert not takes(torch.bfloat16, 12)
    assert not takes(torch.bfloat16, 264)
    assert not takes(torch.bfloat16, is_cuda=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert not takes(torch.bfloat16)


def test_what_a_variable_length_kernel_cannot_say_is_left_to_others() -> None:
    assert document_runs(*layout(SCATTERED, "bidirectional")) is None
    assert document_runs(*layout(ROWS, "block-causal")) is None
    assert document_runs(*layout(ROWS, "block-causal", halves=True)) is None


def test_a_batch_of_padding_alone_gives_zeros() -> None:
    inputs, blocks = layout([[PADDING_SEGMENT] * 4], "causal")
    qkv = states(inputs)
    groups = SimpleNamespace(groups=(), order=torch.zeros(0, dtype=torch.int64))
    assert not attend_in_groups(*qkv, groups, None, 0.0).any()  # type: ignore[arg-type]
    found, _ = segment_attention(torch.nn.Identity(), *qkv, None, layout=AttentionLayout(inputs, blocks))
    assert not found.any()


def test_a_compiled_model_is_not_compiled_anew_for_documents_of_other_lengths() -> None:
    counts = CompileCounter()
    module = torch.nn.Identity()

    def between(query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout) -> Tensor:
        return segment_attention(module, query * 2, key, value, None, layout=layout)[0] + 1

    attend = torch.compile(between, backend=counts)
    frames = set()
    for rows in (ROWS, [row[::-1] for row in ROWS], [[0] * 7 + [1] * 17] * 4):
        inputs, blocks = layout(rows, "bidirectional")
        query, key, value = (tensor.detach() for tensor in states(inputs))
        attend(query, key, value, AttentionLayout(inputs, blocks))
        frames.add(counts.frame_count)
    assert len(frames) == 1


@pytest.mark.parametrize("mask", ["none", "by row", "by query"])
def test_few_queries_beside_kept_keys_attend_as_many_do(mask: str) -> None:
    """Heads that share keys are read as one: each query still sees its own keys under its own mask."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 6, 4, 8), torch.randn(3, 2, 11, 8), torch.randn(3, 2, 11, 8)
    visible = None
    if mask != "none":
        visible = torch.rand(3, 4 if mask == "by query" else 1, 11) < 0.5
        visible[:, :, 0] = True
    found, _ = segment_attention(
        torch.nn.Identity(), query, key, value, None, layout=CanvasLayout(visible), scaling=0.3
    )
    of_head = torch.arange(6) // 3
    scores = torch.einsum("bhqk,bhlk->bhql", query, key[:, of_head]) * 0.3
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None], -torch.inf)
    expected = torch.einsum("bhql,bhlk->bqhk", scores.softmax(-1), value[:, of_head])
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("length", "trains", "documents", "capability", "first"),
    [
        (256, True, 1, (9, 0), True),
        (200, True, 1, (9, 0), False),
        (256, False, 1, (9, 0), False),
        (256, True, 2, (9, 0), False),
        (256, True, 1, (8, 0), False),
    ],
)
def test_whole_rows_are_trained_by_cudnn_on_hopper_where_no_tile_is_cut(
    monkeypatch: pytest.MonkeyPatch,
    length: int,
    trains: bool,
    documents: int,
    capability: tuple[int, int],
    first: bool,
) -> None:
    wanted: list[tuple[Any, bool]] = []

    def sdpa_kernel(backends: list[Any], set_priority: bool) -> AbstractContextManager[None]:
        wanted.append((backends[0], set_priority))
        return nullcontext()

    monkeypatch.setattr("torch.nn.attention.sdpa_kernel", sdpa_kernel)
    monkeypatch.setattr(attention, "takes_varlen", lambda query: True)
    monkeypatch.setattr(attention, "attend_in_runs", lambda *_: None)  # as where no kernel is right
    monkeypatch.setattr(attention, "cudnn_is_right", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    inputs, blocks = layout([[n * documents // length for n in range(length)]], "bidirectional")
    query, key, value = (each.detach().requires_grad_(trains) for each in states(inputs))
    segment_attention(torch.nn.Identity(), query, key, value, None, layout=AttentionLayout(inputs, blocks))
    assert wanted == ([(SDPBackend.CUDNN_ATTENTION, True)] if first else [])


@pytest.mark.parametrize(
    ("keys", "masked", "first"), [(256, False, True), (256, True, False), (384, False, False)]
)
def test_cudnn_reads_no_mask_and_no_kept_keys(
    monkeypatch: pytest.MonkeyPatch, keys: int, masked: bool, first: bool
) -> None:
    wanted: list[bool] = []
    monkeypatch.setattr(attention, "_cudnn_first", lambda: nullcontext(wanted.append(True)))
    monkeypatch.setattr(attention, "takes_varlen", lambda query: True)
    monkeypatch.setattr(attention, "cudnn_is_right", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    query = torch.randn(1, 2, 256, 8, requires_grad=True)
    key, value = torch.randn(2, 1, 2, keys, 8).unbind()
    visible = torch.ones(1, 256, keys, dtype=torch.bool) if masked else None
    attention.dense_attention(query, key, value, visible, None, 0.0)
    assert wanted == [True] * first


@pytest.mark.parametrize("is_right", [True, False])
def test_whole_rows_are_left_to_others_where_cudnn_computes_something_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_right: bool
) -> None:
    def attend(*arguments: Any, **named: Any) -> Tensor:
        found = scaled_dot_product_attention(*arguments, **named)
        return found if is_right else found.where(found > 0, torch.nan)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", attend)
    notices.warn_once.cache_clear()
    attention.cudnn_is_right.cache_clear()
    assert attention.cudnn_is_right(4, 16, torch.float32) is is_right
    attention.cudnn_is_right.cache_clear()
    assert ("cuDNN is left out for whole rows" in capsys.readouterr().err) is not is_right

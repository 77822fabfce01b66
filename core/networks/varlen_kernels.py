"""Which variable-length kernel reads packed documents on a GPU: the first that is there and computes right.

Milliseconds of forward and backward pass over 32,768 tokens, 14 heads of 64 over 2, on one H100 (torch 2.11):

| tokens a document | flash-attn 4 | flash-attention 2 | FlexAttention |
|---|---|---|---|
| 128 | 1.25 | 1.43 | 0.94 |
| 512 | 1.35 | 1.63 | 1.29 |
| 1024 | 1.39 | 2.16 | 2.04 |
| 4096 | 3.44 | 6.93 | 6.57 |
| 128 to 4096 | 2.10 | 3.89 | 4.06 |

flash-attn 4 (4.0.0b36) passes the check below there; it compiles itself, 10 s a mask and shape of heads, and
once more where there are more than 256 documents, or none is longer than 128.

cuDNN's, the fastest for whole rows (3.7 of 4096 tokens, see `attention`), is not among them: torch 2.11 hands
its variable-length backward pass the head size as the longest document, and what comes out is garbage.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from inspect import signature
from typing import Any
from warnings import filterwarnings

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from opendllm.core.foundation.notices import tell_once, warn_once

VarlenAttention = Callable[[Tensor, Tensor, Tensor, Tensor, int, bool, float | None], Tensor]
"""(query, key, value [T, H, K], document bounds [N + 1] int32, longest, causal, scale) -> [T, H, K]."""
AMPERE, HOPPER = (8, 0), (9, 0)
TOLERANCE = 3e-2
"""Of bfloat16 beside float32, relative to the largest number."""
TRIED, TRIED_SCALE = (40, 300, 87), 0.3
"""Tokens of the small case's documents, one of them longer than any head size; what its scores are times."""
PACKAGES = ("flash_attn", "flash_attn.cute", "flash_attn_interface")
"""Whose absence is no fault; flash-attn 2 and 4 share a name, and one may be there without the other."""


@dataclass(frozen=True)
class VarlenKernel:
    """A kernel for documents that lie one after the other.

    Attributes:
        name: for people.
        load: imports it; raises ImportError where it isn't installed.
        capability: of the GPUs that it's for, at least.
        newest: the capability that it's not for any more, or None.
    """

    name: str
    load: Callable[[], VarlenAttention]
    capability: tuple[int, int] = AMPERE
    newest: tuple[int, int] | None = None


def takes_varlen(query: Tensor) -> bool:
    """Whether the variable-length kernels compute `query` [B, H, L, K]: half precision, usual heads."""
    half = query.dtype in (torch.float16, torch.bfloat16)
    size = query.shape[-1]
    return (
        query.is_cuda
        and half
        and size % 8 == 0
        and size <= 256
        and torch.cuda.get_device_capability() >= AMPERE
    )


@cache
def kernel_for(shape: tuple[int, int, int], dtype: torch.dtype, causal: bool) -> VarlenKernel | None:
    """The first that is installed and computes heads of such a shape; None where none does.

    Each has to compute a small case as torch's plain attention does: what a new version, say, got wrong would
    be a wrong number in silence. Said once.

    Args:
        shape: query heads, key heads, head size.
        dtype: half precision.
        causal: whether each position sees itself and what is before it.
    """
    capability = torch.cuda.get_device_capability()
    for kernel in KERNELS:
        if capability < kernel.capability or (kernel.newest is not None and capability >= kernel.newest):
            continue
        try:
            attend = kernel.load()
        except Exception as error:
            if not _is_missing(error):
                warn_once(f"attention: {kernel.name} is left out, it doesn't load ({_said(error)})")
            continue
        why = mistake(attend, shape, dtype, causal)
        if not why:
            tell_once(f"attention of packed documents: {kernel.name}")
            return kernel
        warn_once(f"attention: {kernel.name} is left out, for heads of {shape[2]} it {why}")
    return None


def mistake(
    attend: VarlenAttention,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    causal: bool,
    documents: tuple[int, ...] = TRIED,
) -> str:
    """What is wrong with a kernel, by a small case's outputs and gradients; empty where nothing is.

    Args:
        attend: the kernel.
        shape: query heads, key heads, head size.
        dtype: half precision.
        causal: whether each position sees itself and what is before it.
        documents: how many tokens each has.
    """
    heads, key_heads, size = shape
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    draws = torch.Generator().manual_seed(0)

    def drawn(number: int) -> Tensor:
        return torch.randn(sum(documents), number, size, generator=draws).to(device, dtype)

    states = [drawn(heads), drawn(key_heads), drawn(key_heads)]
    slopes = drawn(heads)
    bounds = torch.tensor([0, *documents], device=device).cumsum(0).int()

    def computed(by: VarlenAttention, as_type: torch.dtype) -> list[Tensor]:
        given = [each.to(as_type).requires_grad_() for each in states]
        query, key, value = given
        output = by(query, key, value, bounds, max(documents), causal, TRIED_SCALE)
        return [output.detach(), *torch.autograd.grad(output, given, slopes.to(output.dtype))]

    with torch.enable_grad():
        wanted = computed(document_by_document, torch.float32)
        try:
            ours = computed(attend, dtype)
        except Exception as error:
            return f"fails ({_said(error)})"
    off = [
        float((one.float() - other).abs().max() / other.abs().max())
        for one, other in zip(ours, wanted, strict=True)
    ]
    if all(each <= TOLERANCE for each in off):  # which a NaN isn't
        return ""
    largest = "nan" if any(map(math.isnan, off)) else f"{max(off):.2g}"
    return f"is off by {largest} of the largest number"


def _is_missing(error: Exception) -> bool:
    """Whether it says that a kernel's package isn't there, and not that it is broken."""
    return isinstance(error, ImportError) and error.name in PACKAGES


def _said(error: Exception) -> str:
    """Its first line."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def document_by_document(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, causal: bool, scale: float | None
) -> Tensor:
    """What each kernel has to compute, by torch's plain attention; see `VarlenAttention`."""
    parts = []
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        q, k, v = (states[start:end].transpose(0, 1)[None] for states in (query, key, value))
        output = scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
        parts.append(output[0].transpose(0, 1))
    return torch.cat(parts)


@cache
def _flash_attention_3() -> VarlenAttention:
    # By its name: no package index has it, so that nothing could declare it.
    return _of_package(importlib.import_module("flash_attn_interface").flash_attn_varlen_func)


@cache
def _flash_attention_4() -> VarlenAttention:
    from flash_attn.cute import flash_attn_varlen_func

    # Of its own arguments, for each kernel that it compiles: nothing that a user could mend.
    filterwarnings("ignore", "Argument aux_data .* cannot be converted", UserWarning)
    return _of_package(flash_attn_varlen_func)


@cache
def _flash_attention_2() -> VarlenAttention:
    from flash_attn import flash_attn_varlen_func

    return _of_package(flash_attn_varlen_func)


def _of_package(function: Callable[..., Tensor | tuple[Tensor, ...]]) -> VarlenAttention:
    """All three of flash-attn's take the same names; some give the logarithms of the sums besides."""

    def attend(
        query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, causal: bool,
        scale: float | None,
    ) -> Tensor:  # fmt: skip
        found = function(
            query, key, value, cu_seqlens_q=bounds, cu_seqlens_k=bounds, max_seqlen_q=longest,
            max_seqlen_k=longest, softmax_scale=scale, causal=causal,
        )  # fmt: skip
        return found if isinstance(found, Tensor) else found[0]

    return attend


@cache
def _torchs() -> VarlenAttention:
    from torch.nn.attention.varlen import varlen_attn

    shares = "enable_gqa" in signature(varlen_attn).parameters  # from torch 2.12 on
    kernel: Callable[..., Any] = partial(varlen_attn, enable_gqa=True) if shares else varlen_attn

    def attend(
        query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, causal: bool,
        scale: float | None,
    ) -> Tensor:  # fmt: skip
        window = (-1, 0) if causal else (-1, -1)
        found: Tensor = kernel(
            query, key, value, bounds, bounds, longest, longest, scale=scale, window_size=window
        )
        return found

    return attend if shares else _with_own_heads(attend)


def _with_own_heads(attend: VarlenAttention) -> VarlenAttention:
    """For one that wants as many key heads as query heads, as torch 2.11's do."""

    def repeated(
        query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, causal: bool,
        scale: float | None,
    ) -> Tensor:  # fmt: skip
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        return attend(query, key, value, bounds, longest, causal, scale)

    return repeated


TORCHS = VarlenKernel("torch's flash-attention 2", _torchs)
KERNELS: tuple[VarlenKernel, ...] = (
    VarlenKernel("flash-attn 3", _flash_attention_3, HOPPER, newest=(10, 0)),
    VarlenKernel("flash-attn 4", _flash_attention_4, HOPPER),
    VarlenKernel("flash-attn 2", _flash_attention_2),
    TORCHS,
)
"""The preferred first."""

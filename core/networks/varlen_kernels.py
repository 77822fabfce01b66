"""Which variable-length kernel reads packed documents on a GPU: the fastest that is there and computes right.

Milliseconds of forward and backward pass over 32,768 tokens, 14 heads of 64 (`benchmarks/attention.py`):

| tokens a document | flash-attention 2 | cuDNN | FlexAttention |
|---|---|---|---|
| 1024 | 2.4 | | 1.7 |
| 4096 | 6.1 | 3.7 | 5.0 |

FlexAttention is compiled for each model, and is left to what the others can't say (see `attention`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from opendllm.core.foundation.notices import tell_once, warn_once

VarlenAttention = Callable[[Tensor, Tensor, Tensor, Tensor, int, bool, float | None], Tensor]
"""(query, key, value [T, H, K], document bounds [N + 1] int32, longest, causal, scale) -> [T, H, K]."""
AMPERE, HOPPER = (8, 0), (9, 0)
TOLERANCE = 3e-2
"""Of bfloat16 beside float32, relative to the largest number."""
_TRIED = (40, 129, 87)
"""Tokens of the documents of the small case."""


@dataclass(frozen=True)
class VarlenKernel:
    """A kernel for documents that lie one after the other.

    Attributes:
        name: for people.
        load: imports it; raises ImportError where it isn't installed.
        capability: of the GPUs that it's for, at least.
        newest: the capability that it's not for any more, or None.
        from_length: documents' mean length from which it's the fastest of those that follow it.
    """

    name: str
    load: Callable[[], VarlenAttention]
    capability: tuple[int, int] = AMPERE
    newest: tuple[int, int] | None = None
    from_length: int = 0


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


def kernel_for(query: Tensor, key: Tensor, documents: int, causal: bool) -> VarlenAttention:
    """The one for a batch.

    Args:
        query: [T, H, K], in half precision on a GPU.
        key: [T, G, K], G dividing H.
        documents: how many there are.
        causal: whether each position sees itself and what is before it.
    """
    shape = query.shape[1], key.shape[1], query.shape[2]
    found = usable(shape, query.dtype, causal)
    length = query.shape[0] // max(1, documents)
    return next(attend for kernel, attend in found if length >= kernel.from_length or kernel is found[-1][0])


@cache
def usable(
    shape: tuple[int, int, int], dtype: torch.dtype, causal: bool
) -> tuple[tuple[VarlenKernel, VarlenAttention], ...]:
    """The installed kernels that compute heads of such a shape, preferred first; the last takes any length.

    Each has to compute a small case as torch's plain attention does: what else a new cuDNN, say, got wrong
    would be a wrong number in silence.

    Args:
        shape: query heads, key heads, head size.
        dtype: of all of them.
        causal: see `kernel_for`.
    """
    capability = torch.cuda.get_device_capability()
    found: list[tuple[VarlenKernel, VarlenAttention]] = []
    for kernel in KERNELS:
        if capability < kernel.capability or (kernel.newest is not None and capability >= kernel.newest):
            continue
        try:
            attend = kernel.load()
        except ImportError:
            continue
        why = mistake(attend, shape, dtype, causal)
        if why:
            warn_once(f"attention: {kernel.name} is left out, for heads of {shape[2]} it {why}")
            continue
        found.append((kernel, attend))
        if not kernel.from_length:
            break
    if not found:
        found.append((TORCHS, TORCHS.load()))
    tell_once(f"attention of packed documents: {described([kernel for kernel, _ in found])}")
    return tuple(found)


def described(kernels: list[VarlenKernel]) -> str:
    """In words: `cuDNN from 512 tokens a document on, below torch's flash-attention 2`."""
    said = [
        f"{kernel.name} from {kernel.from_length:,} tokens a document on"
        if kernel.from_length
        else kernel.name
        for kernel in kernels
    ]
    return ", below ".join(said)


def mistake(attend: VarlenAttention, shape: tuple[int, int, int], dtype: torch.dtype, causal: bool) -> str:
    """What is wrong with a kernel, by a small case's outputs and gradients; empty where nothing is."""
    heads, key_heads, size = shape
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    draws = torch.Generator().manual_seed(0)

    def drawn(number: int) -> Tensor:
        return torch.randn(sum(_TRIED), number, size, generator=draws).to(device, dtype)

    states = [drawn(heads), drawn(key_heads), drawn(key_heads)]
    slopes = drawn(heads)
    bounds = torch.tensor([0, *_TRIED], device=device).cumsum(0).int()

    def computed(by: VarlenAttention, as_type: torch.dtype) -> list[Tensor]:
        given = [each.to(as_type).requires_grad_() for each in states]
        query, key, value = given
        output = by(query, key, value, bounds, max(_TRIED), causal, None)
        return [output.detach(), *torch.autograd.grad(output, given, slopes.to(output.dtype))]

    with torch.enable_grad():
        wanted = computed(document_by_document, torch.float32)
        try:
            ours = computed(attend, dtype)
        except Exception as error:
            return f"fails ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    off = max(
        float((one.float() - other).abs().max() / other.abs().max())
        for one, other in zip(ours, wanted, strict=True)
    )
    return "" if off <= TOLERANCE else f"is off by {off:.2g} of the largest number"


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


def _flash_attention_3() -> VarlenAttention:
    from flash_attn_interface import flash_attn_varlen_func

    return _of_package(flash_attn_varlen_func)


def _flash_attention_4() -> VarlenAttention:
    from flash_attn.cute import flash_attn_varlen_func

    return _of_package(flash_attn_varlen_func)


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


def _cudnn() -> VarlenAttention:
    if not torch.backends.cudnn.is_available():
        raise ImportError("this build of torch has no cuDNN")

    def attend(
        query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, causal: bool,
        scale: float | None,
    ) -> Tensor:  # fmt: skip
        # torch makes a plan for each number of documents and each longest one, which takes a while: so there
        # are few of each. Documents of no tokens cost nothing.
        documents = len(bounds) - 1
        bounds = pad(bounds, (0, _power_of_two(documents) - documents), value=query.shape[0])
        longest = _power_of_two(max(longest, 128))
        found = torch.ops.aten._cudnn_attention_forward(
            query, key, value, None, bounds, bounds, longest, longest, True, 0.0, causal, False, scale=scale
        )
        output: Tensor = found[0]
        return output

    return _with_own_heads(attend)


def _torchs() -> VarlenAttention:
    from torch.nn.attention.varlen import varlen_attn

    def attend(
        query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, causal: bool,
        scale: float | None,
    ) -> Tensor:  # fmt: skip
        window = (-1, 0) if causal else (-1, -1)
        found = varlen_attn(
            query, key, value, bounds, bounds, longest, longest, scale=scale, window_size=window
        )
        assert isinstance(found, Tensor)
        return found

    return _with_own_heads(attend)


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


def _power_of_two(number: int) -> int:
    """The smallest that is no less."""
    return 1 << max(0, number - 1).bit_length()


TORCHS = VarlenKernel("torch's flash-attention 2", _torchs)
KERNELS = (
    VarlenKernel("flash-attn 3", _flash_attention_3, HOPPER, newest=(10, 0)),
    VarlenKernel("flash-attn 4", _flash_attention_4, HOPPER),
    VarlenKernel("cuDNN", _cudnn, HOPPER, from_length=512),
    VarlenKernel("flash-attn 2", _flash_attention_2),
    TORCHS,
)
"""The preferred first; of those that take any length, the first is the last that is looked at."""

"""Decoding as the published code does it, to compare with: nothing is saved, nothing is skipped.

Each loop makes a full forward pass a step, projects every position onto the whole vocabulary, sorts it
for top-p, and commits row by row (ML-GSAI/LLaDA `generate`, Dream's and Open-dLLM's
`generation_utils`). Filters and confidences are computed at every position where the published code
does so: LLaDA and p2; Dream takes the masked positions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from opendllm.core.language_model import LanguageModel
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.core.toolkit.step_schedules import remaining_by_path, remaining_by_time, remaining_evenly
from opendllm.registries.backbones import DiffusionLM

StepFunction = Callable[[DiffusionLM, Tensor, Tensor, int, float, float | None], Tensor]


def full_logits(lm: DiffusionLM, canvas: Tensor) -> Tensor:
    """[B, L, V] float32."""
    return lm.project(lm.hidden_states(inputs_from_mask(canvas, None))).float()


def top_p_by_sorting(logits: Tensor, top_p: float) -> Tensor:
    """The published filter."""
    ordered, order = torch.sort(logits, descending=True)
    remove = ordered.softmax(-1).cumsum(-1) > top_p
    remove[..., 1:] = remove[..., :-1].clone()
    remove[..., 0] = False
    mask = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, order, remove)
    return logits.masked_fill(mask, torch.finfo(logits.dtype).min)


def draw(logits: Tensor, temperature: float, top_p: float | None) -> tuple[Tensor, Tensor]:
    """(probabilities after the filters, one token a position)."""
    if temperature > 0:
        logits = logits / temperature
    if top_p is not None:
        logits = top_p_by_sorting(logits, top_p)
    probabilities = logits.softmax(-1)
    if temperature == 0:
        return probabilities, probabilities.max(-1).indices
    return probabilities, torch.distributions.Categorical(probs=probabilities).sample()


def commit_surest(
    canvas: Tensor, tokens: Tensor, confidence: Tensor, masked: Tensor, counts: Tensor
) -> Tensor:
    """Row by row, the surest masks take their tokens."""
    confidence = torch.where(masked, confidence, -torch.inf)
    canvas = canvas.clone()
    for row in range(len(canvas)):
        chosen = confidence[row].topk(int(counts[row])).indices
        canvas[row, chosen] = tokens[row, chosen]
    return canvas


def low_confidence(
    lm: DiffusionLM, canvas: Tensor, editable: Tensor, left: int, temperature: float, top_p: float | None
) -> Tensor:
    """LLaDA's step."""
    logits = full_logits(lm, canvas)
    _, tokens = draw(logits, temperature, top_p)
    confidence = logits.softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
    masked = canvas == lm.mask_token_id
    return commit_surest(canvas, tokens, confidence, masked, masked.sum(-1) - left)


def entropy(
    lm: DiffusionLM, canvas: Tensor, editable: Tensor, left: int, temperature: float, top_p: float | None
) -> Tensor:
    """Dream's step."""
    masked = canvas == lm.mask_token_id
    probabilities, drawn = draw(full_logits(lm, canvas)[masked], temperature, top_p)
    certainty = (probabilities * torch.log(probabilities + 1e-10)).sum(-1)
    tokens, confidence = canvas.clone(), torch.full(canvas.shape, -torch.inf, device=canvas.device)
    tokens[masked], confidence[masked] = drawn, certainty
    return commit_surest(canvas, tokens, confidence, masked, masked.sum(-1) - left)


def entropy_everywhere(
    lm: DiffusionLM, canvas: Tensor, editable: Tensor, left: int, temperature: float, top_p: float | None
) -> Tensor:
    """The same with filters and entropies at every position, as LLaDA's and Open-dLLM's loops have them."""
    masked = canvas == lm.mask_token_id
    probabilities, tokens = draw(full_logits(lm, canvas), temperature, top_p)
    confidence = (probabilities * torch.log(probabilities + 1e-10)).sum(-1)
    return commit_surest(canvas, tokens, confidence, masked, masked.sum(-1) - left)


def p2(
    lm: DiffusionLM, canvas: Tensor, editable: Tensor, left: int, temperature: float, top_p: float | None
) -> Tensor:
    """Open-dLLM's step."""
    probabilities, tokens = draw(full_logits(lm, canvas), temperature, top_p)
    confidence = probabilities.gather(-1, tokens[..., None]).squeeze(-1)
    confidence = torch.where(editable, confidence, torch.inf)
    least = confidence.topk(left, dim=-1, largest=False).indices
    remask = torch.zeros_like(editable).scatter_(-1, least, True)
    masked = canvas == lm.mask_token_id
    return torch.where(remask, lm.mask_token_id, torch.where(masked & ~remask, tokens, canvas))


PLAIN: dict[str, tuple[StepFunction, Callable[[int, int], list[int]]]] = {
    "low-confidence": (low_confidence, remaining_evenly),
    "entropy": (entropy, remaining_by_time),
    "entropy-everywhere": (entropy_everywhere, remaining_by_time),
    "p2": (p2, remaining_by_path),
}
"""The step, and how many masks are left after each."""


@torch.no_grad()
def plain_run(
    model: LanguageModel, canvas: Tensor, name: str, steps: int, options: dict[str, Any], every: int
) -> tuple[Tensor | None, float]:
    """(the canvas, or None where only a share of the steps was run; seconds for all of them)."""
    step, plan = PLAIN[name]
    lm, masks = model.lm, int((canvas[0] == model.lm.mask_token_id).sum())
    editable = canvas == lm.mask_token_id
    remaining = plan(masks, steps)
    temperature, top_p = options.get("temperature", 0.0), options.get("top_p")
    seconds, timed = 0.0, 0
    for index in range(steps):
        if index % every:
            if every > 1:  # any tokens do: only how many masks are left matters to the time
                canvas = editable_prefix(canvas, editable, masks - remaining[index], lm.mask_token_id)
            continue
        start = now(canvas)
        canvas = step(lm, canvas, editable, remaining[index], temperature, top_p)
        seconds, timed = seconds + now(canvas) - start, timed + 1
    return (canvas if every == 1 else None), seconds * steps / timed


def editable_prefix(canvas: Tensor, editable: Tensor, written: int, mask_token_id: int) -> Tensor:
    """The canvas with its first `written` editable positions filled, and the others masked."""
    order = editable.cumsum(-1) * editable
    filled = torch.where(canvas == mask_token_id, 5, canvas)
    return torch.where(editable & (order > written), mask_token_id, filled)


def now(like: Tensor) -> float:
    """The clock, when the device has done its work."""
    if like.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()

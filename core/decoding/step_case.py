"""Small steps, which kernels are compared on with torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from opendllm.core.decoding.decode_state import DecodeState, StepDraws
from opendllm.core.decoding.plain_step import StepPlan, asked_columns, beginning, spread_proposals
from opendllm.core.decoding.proposals import Filters, SuppressedToken, propose
from opendllm.registries.samplers import Selection, SpecialTokens, Step

if TYPE_CHECKING:
    from opendllm.core.decoding.device_kernels import DeviceKernels

ROWS, LENGTH, VOCABULARY, MASK = 4, 1100, 9000, 7
SIZE = 64
Compared = tuple[str, list[Tensor], list[Tensor]]


def small_steps(kernels: DeviceKernels, device: torch.device) -> Iterator[Compared]:
    """(name, what a kernel gives, what torch gives) of each."""
    draws = torch.Generator().manual_seed(0)

    def whole(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=draws).to(device)

    state = _state(whole)
    # One row is finished, one through with its block, one at its block's last step.
    packed = torch.tensor([[1, 1, 0, 1], [0, 2, 1, 3], [4, 4, 4, 4], [0] * 4, [5] * 4, [9] * 4, [1, 1, 1, 0]])
    packed = packed.to(device)
    plan = StepPlan.unpacked(packed)
    done = torch.tensor([-1, 0, 0, -1], device=device)
    plan = replace(plan, index=packed[1], unfinished=plan.unfinished & (plan.block > done))
    unfinished, ours = kernels.begin(state, packed, done, MASK)
    begun = beginning(state, plan, MASK)
    yield "begin", [unfinished, *vars(ours).values()], [plan.unfinished, *vars(begun).values()]

    asked = whole(9, ROWS, 2 * SIZE)
    count = whole(9, ROWS)
    kernels.ask(begun.masked, asked, count, SIZE)
    columns, number = asked_columns(begun.masked, SIZE)
    yield "ask", [asked[:, :SIZE], count], [columns, number]

    logits = torch.randn(ROWS * SIZE, VOCABULARY, generator=draws).to(device, torch.bfloat16)
    logits[3] = logits[2]
    logits[4, 5], logits[5, 6] = torch.inf, torch.nan
    logits[:, 8000] = logits[:, 100]
    # Most rows have several largest ones.
    for hidden in (None, [100, 4000], [MASK]):
        tokens = None if hidden is None else torch.zeros(VOCABULARY, dtype=torch.bool, device=device)
        given = []
        if hidden is not None and tokens is not None:
            tokens[hidden] = True
            given = [SuppressedToken(each, None) for each in hidden]
        chosen = kernels.choose(logits, MASK, tokens)
        uniforms = torch.zeros(len(logits), dtype=torch.float64, device=device)
        wanted = propose(logits.clone(), uniforms, MASK, Filters(0, None, None), "model_probability", given)
        ours_then_torch = [
            [found.finite, found.tokens[found.finite], found.confidence[found.finite]]
            for found in (chosen, wanted)
        ]
        yield "choose", ours_then_torch[0], ours_then_torch[1]

    bad = [torch.zeros(ROWS, LENGTH + 1, dtype=torch.bool, device=device) for _ in range(2)]
    spread = kernels.spread(wanted, columns, number, bad[0], MASK)
    as_torch = spread_proposals(wanted, columns, number, bad[1], MASK)
    yield "spread", [*spread, bad[0][:, :-1]], [*as_torch, bad[1][:, :-1]]

    step = _step(state, plan, begun.masked, begun.editable, as_torch)
    selection = Selection(commit=whole(2, ROWS, LENGTH).bool())
    after = replace(state, taken=state.taken + plan.unfinished).after(selection, step, MASK)
    kernels.commit(state, packed, plan.unfinished, step, selection)
    yield "commit", [*vars(state).values()], [*vars(after).values()]


def _state(whole: Callable[..., Tensor]) -> DecodeState:
    """Rows of two blocks, some positions of which are masks."""
    canvas = whole(12, ROWS, LENGTH)
    block = (torch.arange(LENGTH, device=canvas.device) // 600).expand(ROWS, -1).contiguous()
    return DecodeState(
        number=whole(9, ROWS),
        tokens=canvas,
        real=whole(2, ROWS, LENGTH).bool(),
        editable=whole(3, ROWS, LENGTH) > 0,
        block_of=block,
        part_of=block.clone(),
        positions=whole(9, ROWS, LENGTH),
        confidence=whole(9, ROWS, LENGTH).float(),
        memory=whole(9, ROWS, LENGTH),
        seeds=whole(9, ROWS),
        room=whole(9, ROWS),
        origin=whole(9, ROWS, LENGTH),
        taken=whole(9, ROWS),
        committed_at=whole(9, ROWS, LENGTH),
    )


def _step(
    state: DecodeState, plan: StepPlan, masked: Tensor, editable: Tensor, proposed: tuple[Tensor, Tensor]
) -> Step:
    return Step(
        canvas=state.tokens,
        masked=masked,
        editable=editable,
        tokens=proposed[0],
        confidence=proposed[1],
        committed_confidence=state.confidence,
        memory=state.memory,
        index=plan.index,
        steps=plan.steps,
        target=plan.target,
        block=state.part_of,
        width=plan.width,
        room=state.room,
        alg_temp=0.0,
        special=SpecialTokens(MASK),
        vocab_size=VOCABULARY,
        draws=StepDraws(state.seeds, plan.number, state.positions),
    )

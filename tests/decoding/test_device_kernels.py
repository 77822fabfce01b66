"""The kernels of a step beside reading: steps through them are the same, wrong ones are found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from opendllm.core import load
from opendllm.core.decoding import device_step
from opendllm.core.decoding.decode_state import DecodeState
from opendllm.core.decoding.device_kernels import DeviceKernels, device_kernels, first_mistake
from opendllm.core.decoding.kept_steps import release_steps
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plain_step import (
    Beginning,
    StepPlan,
    asked_columns,
    beginning,
    spread_proposals,
)
from opendllm.core.decoding.proposals import Filters, Proposals, SuppressedToken, propose
from opendllm.core.language_model import LanguageModel
from opendllm.core.networks.canvas_reader import network_states
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.samplers import Selection, Step

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels of a GPU, and none is here")
M = 150
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "planned": ("low-confidence", {"steps": 7}),
    "suppressed": ("low-confidence", {"steps": 7, "logits_eos_inf": True}),
    "counted": ("confidence-threshold", {"threshold": 0.02}),
    "stopped": ("confidence-threshold", {"threshold": 0.02, "early_stop": True}),
    "revises": ("p2", {"steps": 7}),
    "drawn": ("entropy", {"steps": 7, "temperature": 0.8}),
}


class TorchKernels:
    """`DeviceKernels`, as torch computes them; counts what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.suppressed: list[Tensor | None] = []

    def begin(
        self, state: DecodeState, plan: Tensor, done: Tensor, mask_token_id: int
    ) -> tuple[Tensor, Beginning]:
        self.calls.append("begin")
        unpacked = StepPlan.unpacked(plan)
        unfinished = unpacked.unfinished & (unpacked.block > done)
        return unfinished, beginning(state, replace(unpacked, unfinished=unfinished), mask_token_id)

    def ask(self, wanted: Tensor, asked: Tensor, count: Tensor, size: int) -> None:
        self.calls.append("ask")
        columns, number = asked_columns(wanted, size)
        asked[:, :size] = columns
        count.copy_(number)

    def spread(self, *given: Any) -> tuple[Tensor, Tensor]:
        self.calls.append("spread")
        return spread_proposals(*given)

    def commit(
        self, state: DecodeState, plan: Tensor, unfinished: Tensor, step: Step, selection: Selection
    ) -> None:
        self.calls.append("commit")
        after = replace(state, taken=state.taken + unfinished).after(selection, step, step.special.mask)
        for name, value in vars(after).items():
            getattr(state, name).copy_(value)

    def choose(self, logits: Tensor, mask_token_id: int, suppressed: Tensor | None) -> Proposals:
        self.calls.append("choose")
        self.suppressed.append(suppressed)
        hidden = [] if suppressed is None else [SuppressedToken(suppressed.nonzero()[:, 0], None)]
        uniforms = torch.zeros(len(logits), dtype=torch.float64)
        given = (Filters(0, None, None), "model_probability", hidden)
        return propose(logits.clone(), uniforms, mask_token_id, *given)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def model(request: pytest.FixtureRequest, goldens: Path) -> LanguageModel:
    return load(goldens / "llada", mask_token_id=M, device="cpu", dtype=request.param)


@pytest.fixture
def kernels(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[TorchKernels]:
    """What stands for a GPU's; nothing is compiled."""
    found = TorchKernels()
    monkeypatch.setattr(device_step, "device_kernels", lambda _device: found)
    monkeypatch.setattr(type(model.lm), "_reads", lambda _lm, _compiled: network_states)
    yield found
    release_steps(model.lm)


@pytest.mark.parametrize("setting", SETTINGS)
def test_steps_through_kernels_are_the_same_steps(
    setting: str, model: LanguageModel, kernels: TorchKernels
) -> None:
    sampler, options = SETTINGS[setting]
    canvas, mask = torch.full((2, 22), M), torch.ones(2, 22, dtype=torch.int64)
    canvas[:, :8] = torch.randint(5, 140, (2, 8), generator=torch.Generator().manual_seed(0))
    canvas[1, :3], mask[1, :3] = 0, 0
    given = {"cache": "dual", "block_length": 7, **options}
    plain = model.sample(canvas, sampler, mask, **given)
    assert kernels.calls == []
    same = model.sample(canvas, sampler, mask, compile=True, **given)
    for one, other in zip(vars(plain).values(), vars(same).values(), strict=True):
        assert not isinstance(one, Tensor) or torch.equal(one, other)
    used = {"begin", "ask", "spread", "commit", "choose"}
    if setting in ("stopped", "revises"):
        used -= {"commit"}  # what they decide is more than what to commit
    if setting == "drawn" or next(model.lm.module.parameters()).dtype == torch.float32:
        used -= {"choose"}  # float32 stays what it is to the last bit
    assert set(kernels.calls) == used
    forbidden = [set() if each is None else set(each.nonzero()[:, 0].tolist()) for each in kernels.suppressed]
    assert all((model.lm.eos_token_id in each) is (setting == "suppressed") for each in forbidden)


@pytest.mark.usefixtures("kernels")
def test_steps_captured_as_graphs_have_no_kernels(model: LanguageModel) -> None:
    """Whoever compiles nothing waits for no compiler."""
    sampler = installed_plugins().samplers.get("low-confidence").build({})
    step = device_step.DeviceStep(
        model.lm, (1, 20, False), sampler, DecoderOptions(compile="graphs", steps=4)
    )
    assert step._kernels is None


def test_a_wrong_kernel_is_found_out() -> None:
    """Whichever it is; torch's own are right."""
    cpu = torch.device("cpu")
    right: Any = TorchKernels()
    assert first_mistake(right, cpu) is None

    def with_wrong(name: str, spoil: Callable[[Any], Any]) -> Any:
        found: Any = TorchKernels()
        own = getattr(found, name)
        setattr(found, name, lambda *given: spoil((given, own(*given))))
        return found

    def unmasked(both: Any) -> Any:
        unfinished, begun = both[1]
        return unfinished, replace(begun, masked=begun.editable)

    def second_best(both: Any) -> Any:
        return replace(both[1], tokens=both[1].tokens + 1)

    def surer(both: Any) -> Any:
        return replace(both[1], confidence=both[1].confidence * 1.001)

    wrong = {
        "begin": unmasked,
        "ask": lambda both: both[0][2].add_(1),
        "choose": second_best,
        "spread": lambda both: (both[1][0], both[1][1].roll(1, -1)),
        "commit": lambda both: both[0][0].taken.add_(1),
    }
    for name, spoil in wrong.items():
        assert f"`{name}`" in str(first_mistake(with_wrong(name, spoil), cpu))
    assert "`choose`" in str(first_mistake(with_wrong("choose", surer), cpu))


def test_nothing_serves_without_a_gpu() -> None:
    assert device_kernels(torch.device("cpu")) is None


@pytest.mark.gpu
@no_gpu
def test_kernels_on_a_gpu_give_what_torch_gives() -> None:
    assert first_mistake(DeviceKernels(), torch.device("cuda", 0)) is None
    assert device_kernels(torch.device("cuda", 0)) is not None

"""What is looked at after the optimizer's step: that the weights are still numbers, and that they move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from opendllm.core.foundation.notices import warn_once
from opendllm.core.foundation.process_group import summed
from opendllm.core.manifest.train_schema import Train
from opendllm.core.training.settings import learning_rate, peak_step
from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

FEW_MOVE = 0.5
"""Below this share a run without master weights is warned of."""


class NonFiniteLossError(UserError):
    """The loss, a gradient or a weight is NaN or infinite; nothing of that step is saved or logged."""


def check_untrained(held_out: float | None) -> None:
    """The model that training starts from gives numbers.

    Raises:
        NonFiniteLossError: it doesn't.
    """
    if held_out is not None and not math.isfinite(held_out):
        raise NonFiniteLossError(
            f"the held-out loss is {held_out} before the first step: the model that training starts from "
            f"gives no numbers; are its weights whole?"
        )


def check_nothing_is_lost(
    engine: DeepSpeedEngine,
    spot_check: Callable[[], float | None],
    step: int,
    measured: float | None,
    saving: bool,
) -> None:
    """After the optimizer's step, and before it is logged or saved. Every rank comes to the same answer.

    The step's own loss was that of the weights before it. Weights may be finite and still too large to
    give numbers, so those that are saved read a row or two; an average that is measured instead of them
    would hide it.

    Args:
        engine: after the step.
        spot_check: a loss of the weights as they are, see `TrainingSteps`.
        step: its number.
        measured: the held-out loss after it, where it was measured.
        saving: whether the step is to be saved.

    Raises:
        NonFiniteLossError: the weights are lost.
    """
    if measured is not None and not math.isfinite(measured):
        why = f"the held-out loss after step {step} is {measured}"
    elif saving and not _has_finite_weights(engine):
        why = f"the weights after step {step} are not finite"
    elif saving:
        found = spot_check()
        if found is None or math.isfinite(found):
            return
        why = f"the loss of the weights after step {step} is {found}"
    else:
        return
    raise NonFiniteLossError(
        f"{why}: training stopped and did not save the step; lower train.learning_rate, or set "
        f"train.gradient_clipping"
    )


@contextmanager
def warning_where_little_moves(engine: DeepSpeedEngine, train: Train, step: int) -> Iterator[None]:
    """Around the optimizer's step: without master weights a small one is rounded away in bf16.

    Looked at once, where the rate is at its peak; it costs a copy of the weights. Embeddings don't count,
    since most tokens aren't in a batch. Every rank must call this.
    """
    if train.master_weights or step != peak_step(train):
        yield
        return
    watched = _all_moving(engine.module)
    before = [share.detach().clone() for share in watched]
    yield
    counts = torch.zeros(2, dtype=torch.float64, device=engine.device)
    for old, new in zip(before, watched, strict=True):
        counts += torch.stack([(new != old).sum(), torch.tensor(new.numel(), device=new.device)]).to(counts)
    moved, of = summed(counts).tolist()
    if moved < FEW_MOVE * of:
        warn_once(
            f"train.master_weights is false, and step {step} at learning rate {learning_rate(train, step):g} "
            f"moved {moved / of:.1%} of the weights: for the others it is less than bf16 can tell apart; "
            f"raise train.learning_rate, or set train.master_weights: true"
        )


def _all_moving(module: nn.Module) -> list[Tensor]:
    """This rank's share of every trained parameter but those that are embeddings and nothing else."""
    modules = list(module.modules())
    heads = {id(found.weight) for found in modules if isinstance(found, nn.Linear)}
    embeddings = {id(found.weight) for found in modules if isinstance(found, nn.Embedding)} - heads
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [_share(parameter) for parameter in trained if id(parameter) not in embeddings]


def _has_finite_weights(engine: DeepSpeedEngine) -> bool:
    """Whether every number of every weight is finite, on all ranks. Every rank must call this."""
    lost = torch.zeros((), dtype=torch.int64, device=engine.device)
    with torch.no_grad():
        for parameter in engine.module.parameters():
            lost += (~_share(parameter).isfinite()).any().to(lost)
    return int(summed(lost)) == 0


def _share(parameter: Tensor) -> Tensor:
    """What this rank has of it: under ZeRO 3 a part, which may lie in the CPU's memory."""
    share: Tensor = parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter
    return share

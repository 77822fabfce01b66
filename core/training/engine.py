"""The DeepSpeed engine of one training run: made, saved, and brought back."""

from __future__ import annotations

import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from opendllm.core.checkpoints.files import ENGINE_FOLDER
from opendllm.core.foundation.ranks import rank
from opendllm.core.manifest.train_schema import Train
from opendllm.core.training.decoder_layers import decoder_layers
from opendllm.core.training.gradient_norm import norm_in_few_kernels
from opendllm.core.training.numbers_under_way import NumbersUnderWay
from opendllm.core.training.settings import deepspeed_config, zero_stage

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

UNIVERSAL_VERSION = 0.2
"""DeepSpeed converts only what names the format's version; ours has no patterns, since no tensor is split
but by ZeRO."""


@contextmanager
def started_engine(
    module: nn.Module, train: Train, micro_batch: int, accumulation: int, load_universal: bool = False
) -> Iterator[DeepSpeedEngine]:
    """Wrap `module` with AdamW and ZeRO as the manifest says; within a `deepspeed_environment`.

    Afterwards nothing holds on to the weights or the optimizer's state: other models are trained and
    evaluated in this process. After an error nothing is tidied up: that would wait for other ranks' work,
    and the error must be told.

    Args:
        module: its parameters that want a gradient are trained.
        train: the manifest's section.
        micro_batch: rows of one rank.
        accumulation: micro-batches a step.
        load_universal: whether a converted checkpoint will be read (see `elastic`).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed
        from deepspeed.utils import logger

        logger.setLevel(logging.ERROR)
        exact = {name: buffer.clone() for name, buffer in module.named_buffers()}
        _fetch_whole_layers(module, train)
        engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=torch.optim.AdamW(
                _parameter_groups(module, train.weight_decay),
                lr=train.learning_rate,
                betas=train.adam_betas,
                eps=train.adam_epsilon,
                fused=_on_gpu(train) or None,
            ),
            config=deepspeed_config(
                train, micro_batch, accumulation, torch.cuda.is_available(), load_universal
            ),
            dist_init_required=False,
        )
    norm_in_few_kernels(engine.optimizer)
    # In bf16 DeepSpeed casts the rotary frequencies too, which would blur far positions.
    for name, buffer in module.named_buffers():
        buffer.data = exact[name].to(buffer.device)
    yield engine
    engine.destroy()
    _forget_modules()


def _on_gpu(train: Train) -> bool:
    """Whether the optimizer's state lies there, where one kernel steps on all of it."""
    return torch.cuda.is_available() and not train.deepspeed.zero_optimization.offload_optimizer


def _fetch_whole_layers(module: nn.Module, train: Train) -> None:
    """Under ZeRO 3 a decoder layer's weights come together.

    Hooks on each of its dozen parts would take longer than a layer of a small model computes, and could not
    be compiled. Where weights are frozen, the layers' input gets a gradient all the same: by it a layer is
    fetched in time in the backward pass.
    """
    layers = decoder_layers(module)
    if zero_stage(train) < 3 or not layers:
        return
    from deepspeed.utils import set_z3_leaf_modules

    set_z3_leaf_modules(module, list({type(layer) for layer in layers}))
    if not all(parameter.requires_grad for parameter in module.parameters()):
        layers[0].register_forward_pre_hook(_wanting_a_gradient)


def _wanting_a_gradient(_layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    """A forward hook of the first layer, for its hidden states."""
    if torch.is_grad_enabled() and not arguments[0].requires_grad:
        arguments[0].requires_grad_()


def _forget_modules() -> None:
    """DeepSpeed's stage 3 keeps those it has passed through in a list of its own."""
    from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK

    FWD_MODULE_STACK.clear()


def set_learning_rate(engine: DeepSpeedEngine, rate: float) -> None:
    """For the next step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def save_engine(engine: DeepSpeedEngine, folder: Path) -> None:
    """Write the engine's state into `folder`/deepspeed. Every rank must call this."""
    engine.save_checkpoint(
        str(folder),
        tag=ENGINE_FOLDER,
        save_latest=False,
        client_state={"universal_checkpoint_info": {"universal_checkpoint_version": UNIVERSAL_VERSION}},
    )


def restore_engine(engine: DeepSpeedEngine, folder: Path) -> None:
    """Read back what `save_engine` wrote, or its converted form.

    DeepSpeed unpickles: only ever give it this run's own files.
    """
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        for group in engine.optimizer.param_groups
    ]
    engine.load_checkpoint(str(folder), tag=ENGINE_FOLDER)
    # Stage 3's universal loader gives every group the first one's settings, weight decay among them, and
    # all of them one counter of steps, which each would then advance.
    for group, own in zip(engine.optimizer.param_groups, groups, strict=True):
        group.update(own)
    fused = any(group.get("fused") for group in engine.optimizer.param_groups)
    for parameter, state in engine.basic_optimizer.state.items():
        if torch.is_tensor(state.get("step")):
            # A fused step counts where the weights are.
            state["step"] = state["step"].clone().to(parameter.device if fused else state["step"].device)


def full_weights(
    engine: DeepSpeedEngine, on_weight: Callable[[], object] = lambda: None
) -> dict[str, Tensor]:
    """The module's state dict with every partitioned weight gathered, on the first rank.

    Every rank must call this. Weights are gathered one by one: no device need hold a model that was
    partitioned because none can.

    Args:
        engine: whose module it is.
        on_weight: told on the first rank of each that is gathered.
    """
    if engine.zero_optimization_stage() < 3:
        return dict(engine.module.state_dict())
    import deepspeed

    full = {}
    for name, tensor in engine.module.state_dict(keep_vars=True).items():
        with deepspeed.zero.GatheredParameters([tensor]):
            if rank() == 0:
                full[name] = tensor.detach().cpu().clone()
                on_weight()
    return full


@contextmanager
def whole_weights(engine: DeepSpeedEngine) -> Iterator[None]:
    """Within it each rank has all weights whole, and may call the module as often as it likes, by itself.

    Under ZeRO 3 a weight is else gathered where it is read, by all ranks together. What is read here isn't
    trained. Every rank must call this.
    """
    if engine.zero_optimization_stage() < 3:
        yield
        return
    import deepspeed

    hooks = ("_forward_pre_hooks", "_forward_hooks")
    kept = [(module, name, getattr(module, name)) for module in engine.module.modules() for name in hooks]
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        for module, name, _ in kept:
            setattr(module, name, OrderedDict())  # DeepSpeed's, which let go of a weight that was read
        try:
            yield
        finally:
            for module, name, own in kept:
                setattr(module, name, own)


def take_step(engine: DeepSpeedEngine) -> NumbersUnderWay:
    """Clip, step, and clear the gradients; a device may still be busy with it afterwards.

    Returns:
        The gradients' norm before clipping, alone. Without ZeRO, DeepSpeed doesn't keep it.
    """
    if engine.zero_optimization_stage() == 0:
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        under_way = NumbersUnderWay(torch.nn.utils.get_total_norm(gradients)[None])
        engine.step()
        return under_way
    engine.step()
    early: NumbersUnderWay | None = getattr(engine.optimizer, "norm_under_way", None)
    if early is not None:
        return early
    kept: Tensor | float = engine.get_global_grad_norm()
    return NumbersUnderWay(torch.as_tensor(kept)[None])


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms don't."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim >= 2]
    vectors = [parameter for parameter in trained if parameter.ndim < 2]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]

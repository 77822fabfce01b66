"""Low-rank adapters, through peft."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from opendllm.core.manifest.train_schema import Lora
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.errors import UserError, first_line

ADAPTER_FOLDER = "adapter"
INSTALL = "pip install 'open-dllm[lora]'"
_A, _B, _BASE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer."


class Adapters:
    """The adapters of a model whose other weights stay as they are."""

    def __init__(self, lm: DiffusionLM, settings: Lora, base: str | None) -> None:
        """Put adapters into `lm`; they start as a change of nothing.

        Their random halves come from torch's global generator.

        Args:
            lm: changed in place; only the adapters want a gradient afterwards.
            settings: the manifest's section.
            base: the checkpoint that they are adapters of, for who reads them with peft; None where the
                weights beside them are drawn here, and only the merged model is of use.

        Raises:
            UserError: peft is not installed, `targets` match no layer, one that is not linear, or one whose
                weights are another one's too.
        """
        try:
            from peft import LoraConfig, TaskType, inject_adapter_in_model
            from peft.tuners.lora import LoraLayer
        except ImportError as error:
            raise UserError(f"train.lora needs peft: {INSTALL}") from error
        targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
        self._config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=targets,
            base_model_name_or_path=base,
            task_type=TaskType.CAUSAL_LM,
        )
        owners: dict[Tensor, list[str]] = {}
        for name, parameter in lm.network.named_parameters(remove_duplicate=False):
            owners.setdefault(parameter, []).append(name.rpartition(".")[0])
        layers = [name for name, module in lm.network.named_modules() if isinstance(module, nn.Linear)]
        shown = ", ".join(layers[:8]) + (", ..." if len(layers) > 8 else "")
        for target in [] if isinstance(targets, str) else targets:  # peft is content if one of them is there
            if not any(f".{name}".endswith(f".{target}") for name, _ in lm.network.named_modules()):
                raise UserError(
                    f"train.lora.targets: no layer's name ends in {target!r}. The linear layers are {shown}"
                )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is refused below, and peft's own affairs
                inject_adapter_in_model(self._config, lm.network)
        except ValueError as error:
            raise UserError(
                f"train.lora.targets: {first_line(error)} The linear layers are {shown}"
            ) from error
        for name, module in lm.network.named_modules():
            if not isinstance(module, LoraLayer):
                continue
            layer = module.get_base_layer()
            if not isinstance(layer, nn.Linear):
                raise UserError(f"train.lora.targets: {name} is not a linear layer")
            others = [owner for owner in owners[layer.weight] if owner != name]
            if others:
                # Merged, the adapter would change both; loaded by peft, only one.
                raise UserError(
                    f"train.lora.targets: {name} has its weights in common with {', '.join(others)}, so no "
                    f"adapter can be its own: leave it out"
                )
        self._scaling = settings.alpha / settings.rank
        self._prefix = next(name for name, module in lm.module.named_modules() if module is lm.network)

    @contextmanager
    def switched_off(self, lm: DiffusionLM) -> Iterator[None]:
        """The model as it was without them, which costs no memory: their product is scaled by 0."""
        from peft.tuners.lora import LoraLayer

        layers = [module for module in lm.network.modules() if isinstance(module, LoraLayer)]
        for layer in layers:
            layer.set_scale("default", 0.0)
        try:
            yield
        finally:
            for layer in layers:
                layer.set_scale("default", 1.0)

    def merged(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of the model without adapters: W + alpha / rank B A, under its own names."""
        found = {}
        for key, tensor in weights.items():
            if key.endswith((_A, _B)):
                continue
            owner, base, kind = key.rpartition(_BASE)
            if base and kind == "weight":
                change = weights[owner + _B].float() @ weights[owner + _A].float()
                tensor = (tensor.float() + self._scaling * change).to(tensor.dtype)
            found[key.replace(_BASE, ".")] = tensor
        return found

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write `folder`/adapter as peft does, for `PeftModel.from_pretrained`.

        Args:
            folder: the checkpoint's.
            weights: a full state dict of the module, adapters and all.
        """
        target = folder / ADAPTER_FOLDER
        target.mkdir()
        self._config.save_pretrained(str(target))
        tensors = {
            self._published(key): tensor.detach().cpu().contiguous()
            for key, tensor in weights.items()
            if key.endswith((_A, _B))
        }
        save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})

    def _published(self, key: str) -> str:
        inner = key.removeprefix(f"{self._prefix}.") if self._prefix else key
        return f"base_model.model.{inner.replace('.default.', '.')}"

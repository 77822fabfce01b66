"""Checkpoints as the model `opendllm` of lm-evaluation-harness: to import this registers it.

lm-eval knows no entry points for models, so its command has to import this first, which
`python -m opendllm.core.harness` does and otherwise is that command. Imports lm-eval's registry, no torch.
"""

from lm_eval.api.registry import model_registry

MODEL = "opendllm"
"""The model's name in lm-eval."""

if MODEL not in model_registry:
    model_registry.register(MODEL, target="opendllm.core.harness.lm_eval_model:OpenDllm")

"""A random model with a tokenizer and a chat template, as a run writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from opendllm.core.experiment import run_experiment
from opendllm.core.manifest.experiment_manifest import experiment_of
from opendllm.registries.discovery import installed_plugins

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
TEMPLATE = TURNS + "{% if add_generation_prompt %}<assistant>{% endif %}"


def tiny_manifest(folder: Path) -> dict[str, Any]:
    """Of a model that is built and not trained, whose texts are written below `folder`."""
    (folder / "train.py").write_text("def f(a):\n    return a\n" * 40)
    (folder / "held_out.py").write_text("def g(a):\n    return a + 1\n")
    texts = {"train": str(folder / "train.py"), "held_out": str(folder / "held_out.py")}
    return {
        "name": "tiny",
        "output": str(folder / "run"),
        "device": "cpu",
        "model": {"backbone": {"name": "llada"}},
        "data": {
            "corpus": {"name": "text-files", "options": texts},
            "tokenizer": {"train": {"vocab_size": 262}},
            "sequence_length": 256,
        },
    }


def save_tiny_checkpoint(folder: Path) -> Path:
    """Write one below `folder`, in a second; gives its model folder."""
    experiment = experiment_of(tiny_manifest(folder), "a test", "untrained", installed_plugins())
    run_experiment(experiment, ["train"])
    [model] = (folder / "run").rglob("model")
    weights, generator = load_file(model / "model.safetensors"), torch.Generator().manual_seed(0)
    for tensor in weights.values():  # large ones, so that it writes something else after every text
        if tensor.ndim == 2:
            tensor.normal_(std=0.3, generator=generator)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    return model

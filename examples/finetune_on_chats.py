"""Supervised fine-tuning on one's own chat records.

    python examples/finetune_on_chats.py runs/quickstart/llada my-chats.jsonl

A line of the file is a chat, `{"messages": [{"role": "user", "content": ...}, {"role": "assistant", ...}]}`;
system prompts, several turns and tool calls are read too. Without a file some sums are learnt. Prompts are
read and never masked. Writes a manifest, so that it can be changed and run again, and runs it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from opendllm.core.checkpoints.families import backbone_of
from opendllm.core.checkpoints.files import model_folder
from opendllm.core.checkpoints.loading import load_tokenizer
from opendllm.core.checkpoints.pretrained import fetch
from opendllm.core.experiment import run_experiment
from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.registries.discovery import installed_plugins

MANIFEST = Path("finetune-on-chats.yaml")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""For tokenizers without a chat template of their own."""


def with_template(model: Path) -> Path:
    """The model's folder, or a copy of it that has a chat template where it has none."""
    tokenizer = load_tokenizer(model)
    if tokenizer is not None and tokenizer.chat_template is not None:
        return model
    copy = Path("with-chat-template")
    shutil.copytree(model, copy, dirs_exist_ok=True)
    (copy / "chat_template.jinja").write_text(TEMPLATE)
    return copy


def write_sums(path: Path) -> Path:
    """Two hundred chats about sums."""
    chats = [
        [
            {"role": "user", "content": f"What is {number} plus {number % 7}?"},
            {"role": "assistant", "content": f"It is {number + number % 7}."},
        ]
        for number in range(200)
    ]
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return path


def main(checkpoint: str, chats: str | None = None, *, steps: int = 20) -> Path:
    """Fine-tune for so many steps; the run's folder, whose `finetuned` is the new checkpoint."""
    base = with_template(model_folder(fetch(checkpoint)))
    family = backbone_of(installed_plugins(), base, None)
    records = Path(chats) if chats is not None else write_sums(Path("sums.jsonl"))
    manifest = {
        "name": "finetune-on-chats",
        "model": {"backbone": {"name": family.name, "options": {"pretrained": str(base.absolute())}}},
        "data": {
            "corpus": {
                "name": "jsonl",
                "options": {"train": str(records.absolute()), "messages_field": "messages"},
            },
            "chat": True,
            "packed": False,  # each chat in a row of its own, as LLaDA was fine-tuned
            "sequence_length": 64,
        },
        "train": {
            "objective": {"name": "llada", "options": {"form": "sft"}},
            "steps": steps,
            "global_batch_size": 8,
            "learning_rate": 1e-3,
        },
        "variants": {"finetuned": {}},
    }
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n")  # JSON is YAML
    return run_experiment(read_experiment(MANIFEST, [], installed_plugins()))


if __name__ == "__main__":
    main(sys.argv[1], *sys.argv[2:3])

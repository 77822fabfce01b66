"""LoRA on a published checkpoint: what is evaluated, what was trained and what peft loads are one model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from opendllm.core.checkpoints.families import backbone_of
from opendllm.core.checkpoints.loading import load_model
from opendllm.registries.discovery import installed_plugins

from .conftest import END, Platform, logits, one_line

MANIFEST = """
name: lora
model: {{backbone: {{name: causal-lm, options: {{pretrained: autoregressive, attention: causal}}}}}}
data:
  corpus: {{name: text-files, options: {{train: texts/a*.py, held_out: texts/h*.py}}}}
  sequence_length: 32
  tokenizer: {{path: autoregressive, mask_token: "{mask}"}}
train:
  objective: {{name: ar}}
  steps: 3
  global_batch_size: 4
  learning_rate: 0.01
  lora: {{rank: 2{targets}}}
  held_out: {{rows: 2, draws: 1}}
"""


@pytest.fixture
def workspace(autoregressive: Path) -> Path:
    folder = autoregressive.parent
    (folder / "texts").mkdir()
    for name in ("a1", "a2", "h1"):
        lines = [f"def {name}_{number}(a):\n    return a + {number}\n" for number in range(40)]
        (folder / "texts" / f"{name}.py").write_text("".join(lines))
    return folder


def write(folder: Path, mask: str, targets: str = "") -> None:
    (folder / "lora.yaml").write_text(MANIFEST.format(mask=mask, targets=targets))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_finds_the_base_and_computes_what_is_evaluated(workspace: Path, platform: Platform) -> None:
    from peft import AutoPeftModelForCausalLM

    write(workspace, END)
    done = platform("run", "lora.yaml", cwd=workspace)
    assert done.returncode == 0, done.stderr
    step = workspace / "runs" / "lora" / "default" / "checkpoints" / "step-3"
    config = json.loads((step / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(workspace / "autoregressive")
    tokens = torch.arange(40, 60)[None]
    theirs = AutoPeftModelForCausalLM.from_pretrained(str(step / "adapter")).eval()
    with torch.no_grad():
        expected = theirs(tokens).logits
        with theirs.disable_adapter():
            base = theirs(tokens).logits
    merged = load_model(step, backbone_of(installed_plugins(), step), torch.device("cpu"))
    ours = logits(merged, tokens)
    assert torch.allclose(ours[:, 1:], expected[:, :-1], atol=1e-4)
    assert not torch.allclose(base, expected, atol=1e-2), "the control"


@pytest.mark.slow
def test_rows_that_adapters_cannot_carry_are_refused(workspace: Path, platform: Platform) -> None:
    write(workspace, "<|mask|>")
    said = one_line(platform("run", "lora.yaml", cwd=workspace))
    assert "has a vocabulary of 290, and is grown to 291 here" in said
    assert "data.tokenizer.mask_token" in said
    assert not (workspace / "runs" / "lora" / "default" / "checkpoints").exists()


@pytest.mark.slow
def test_a_tied_head_is_refused(workspace: Path, platform: Platform) -> None:
    write(workspace, END, ", targets: [q_proj, lm_head]")
    said = one_line(platform("run", "lora.yaml", cwd=workspace))
    assert "lm_head has its weights in common with model.embed_tokens" in said

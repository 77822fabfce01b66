"""The golden tests hold the vectors that OPENDLLM_GOLDENS names, number by number."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def another_token(tokens: list[Any]) -> None:
    """Change the last of them, however deep."""
    if isinstance(tokens[-1], list):
        another_token(tokens[-1])
    else:
        tokens[-1] = (tokens[-1] + 1) % 100


def another_float(content: dict[str, Any], key: str) -> None:
    content[key] += 1e-3


def scaled(numbers: list[float]) -> None:
    """Change the first of them by one part in fifty."""
    numbers[0] *= 1.02


CHANGES: dict[str, dict[str, Callable[[dict[str, Any]], None]]] = {
    "open-dcoder": {
        "test_aligned_logits[open-dcoder]": lambda e: another_token(e["forward"]["aligned_logits_argmax"]),
        "test_open_dcoder_loss_of_packed_documents[open-dcoder]": lambda e: another_float(
            e["loss"], "open_dcoder_head_path"
        ),
        "test_sample[open-dcoder-samples-1-p2]": lambda e: another_token(e["samples"][1]["history"][3]),
    },
    "llada": {
        "test_llada_pretraining_loss[llada]": lambda e: another_float(e["loss"], "llada_pretrain"),
        "test_sample[llada-samples-4-low_confidence]": lambda e: another_token(e["samples"][4]["sequences"]),
        "test_fast_dllm[llada-fast_dllm-7-dual]": lambda e: another_token(e["fast_dllm"][7]["sequences"]),
        "test_left_padded_sample[llada]": lambda e: another_token(e["padded_sample"]["sequences"]),
    },
    "sdar": {
        "test_logits_and_every_argmax[sdar]": lambda e: another_token(
            e["forward"][0]["aligned_logits_argmax"]
        ),
        "test_filters_of_block_diffusion[sdar]": lambda e: scaled(
            e["filters"]["cases"][3]["confidence_evaluation"]
        ),
        "test_sdar_sample[sdar-samples-15-low_confidence_dynamic]": lambda e: another_token(
            e["samples"][15]["sequences"]
        ),
        "test_prompts_are_kept_where_sdar_overwrites_them[sdar-quirks-0-low_confidence_static]": (
            lambda e: another_token(e["quirks"][0]["prompts"])
        ),
        "test_sdar_rollout[sdar-rollouts-6]": lambda e: another_token(e["rollouts"][6]["step_map"]),
        "test_trace_rl[sdar-trace_rl-3]": lambda e: another_float(
            e["trace_rl"][3]["losses"][2], "policy_loss"
        ),
        "test_returns_and_advantages_of_values[sdar-trace_rl_value-1]": lambda e: scaled(
            e["trace_rl_value"][1]["rewards"]
        ),
        "test_dllm_rls_fine_tuning_loss[sft_trace-sdar]": lambda e: another_float(
            e["loss"]["sft_trace"], "loss"
        ),
    },
    "policy": {
        "test_coupled_grpo[policy-coupled_grpo-1]": lambda e: another_float(
            e["coupled_grpo"][1]["gradient"]["l2_norm_by_parameter"], "model.layers.1.self_attn.q_proj.bias"
        ),
        "test_diffu_grpo[policy-diffu_grpo-3]": lambda e: another_float(e["diffu_grpo"][3], "loss"),
        "test_dllms_grpo[policy-dllm_grpo-2]": lambda e: another_token(e["dllm_grpo"][2]["clipped"][0]),
        "test_dllm_rl_on_dream[policy-dllm_rl-1]": lambda e: another_float(e["dllm_rl"][1], "kl_loss"),
        "test_advantages[policy]": lambda e: scaled(e["advantages"]["groups"][1]["z_scored_population_std"]),
        "test_one_python_block[policy]": lambda e: another_float(
            e["rewards"]["code_format_python"][36], "reward"
        ),
        "test_reasoning_and_answer[policy]": lambda e: another_float(
            e["rewards"]["reasoning_answer"][13], "xml_count"
        ),
        "test_boxed_results[policy]": lambda e: another_float(e["rewards"]["math"][18], "format_dllm"),
        "test_overlong_answers[policy]": lambda e: another_token(e["rewards"]["soft_overlong"]["rewards"]),
    },
    "llada2": {
        "test_llada2_sample[llada2-samples-10-llada21_generate]": lambda e: another_token(
            e["samples"][10]["edit_count"]
        ),
        "test_llada2_sample[llada2-samples-22-llada20_generate]": lambda e: another_token(
            e["samples"][22]["forward_count"]
        ),
        "test_llada2_loss[llada2-loss-5]": lambda e: scaled(e["loss"][5]["confidence_loss"]),
    },
    "fast-dllm-v2": {
        "test_fast_dllm_v2_sample[fast-dllm-v2-samples-1]": lambda e: another_token(
            e["samples"][1]["forward_count"]
        ),
        "test_fast_dllm_v2_first_token_likelihoods[fast-dllm-v2]": lambda e: another_float(
            e["first_token_log_likelihood"][1], "log_likelihood"
        ),
        "test_fast_dllm_v2_loss_of_both_views[fast-dllm-v2]": lambda e: another_float(
            e["loss"], "fast_dllm_v2_divided_by_num_items"
        ),
    },
    "llada-moe": {
        "test_logits_and_every_argmax[llada-moe]": lambda e: scaled(
            e["forward"]["router_row0"][1]["weights"][0]
        ),
    },
    "uniform-noise": {
        "test_duo[cosine-cosine-0.999-vocab_12-uniform-noise]": lambda e: scaled(
            e["vocab_12"]["loss"]["duo_cosine_float64"][2]
        ),
        "test_udlm[vocab_160-uniform-noise]": lambda e: scaled(
            e["vocab_160"]["loss"]["udlm_float64"]["recon_loss"][1]
        ),
        "test_gidd[vocab_12-uniform-noise]": lambda e: scaled(
            e["vocab_12"]["loss"]["gidd"][2]["dynamic"]["loss"][0]
        ),
        "test_the_bounds_integral[uniform-noise]": lambda e: scaled(
            e["toy_bound"]["families"][5]["denoisers"][1]["closed_form_integral"]
        ),
    },
}
"""By folder: a change of one number, and the test that has to notice it."""


@pytest.mark.slow
def test_every_changed_number_is_noticed_and_nothing_else(
    repository: Path, goldens: Path, tmp_path: Path
) -> None:
    for name, changes in CHANGES.items():
        shutil.copytree(goldens / name, tmp_path / name)
        path = tmp_path / name / "expected.json"
        expected = json.loads(path.read_text())
        for change in changes.values():
            change(expected)
        path.write_text(json.dumps(expected))
    folders = ("tests/backbones", "tests/decoding", "tests/objectives", "tests/rewards")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "golden", "-p", "no:cacheprovider", *folders],
        cwd=repository,
        env={**os.environ, "OPENDLLM_GOLDENS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    failed = {
        line.split("::")[1].split()[0] for line in done.stdout.splitlines() if line.startswith("FAILED")
    }
    assert failed == {test for changes in CHANGES.values() for test in changes}
    assert f"no dream in {tmp_path}" in done.stdout  # which isn't there

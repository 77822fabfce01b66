"""One variant's training, from its manifest to its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from opendllm.core.checkpoints.files import steps
from opendllm.core.checkpoints.loading import torch_device
from opendllm.core.data.prepared import PreparedData, prepare
from opendllm.core.data.rows import PackedRows
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.core.training.checkpoints import save_untrained
from opendllm.core.training.processes import join_process_group
from opendllm.core.training.progress import training_progress
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.corpora import Split
from opendllm.registries.discovery import Plugins


def train_variant(
    variant: Variant, plugins: Plugins, folder: Path, data_folder: Path, provenance: dict[str, Any]
) -> None:
    """Train a variant, or go on where it stopped; nothing is done where it is finished.

    Args:
        variant: what to train; without a `train` section its untrained model is saved.
        plugins: what is installed.
        folder: the variant's.
        data_folder: where prepared data is kept.
        provenance: travels with every checkpoint.

    Raises:
        UserError: see `train` and `prepare`.
    """
    manifest = variant.manifest
    last_step = manifest.train.steps if manifest.train else 0
    found = steps(folder)
    if found and found[-1][0] >= last_step:
        return
    device = torch_device(manifest.device)
    corpus = plugins.corpora.get(manifest.data.corpus.name).build(manifest.data.corpus.options)
    prepared = prepare(manifest.data, corpus, data_folder)
    lm = _build(variant, plugins, prepared)
    lm.module.to(device)
    if manifest.train is None:
        save_untrained(lm, prepared.tokenizer, folder, provenance)
        return
    join_process_group(device)
    objective, schedule = manifest.train.objective, manifest.train.noise_schedule
    with training_progress(variant.name, last_step) as on_step:
        train(
            TrainingRun(
                settings=manifest.train,
                seed=manifest.seed,
                lm=lm,
                tokenizer=prepared.tokenizer,
                objective=plugins.objectives.get(objective.name).build(objective.options),
                schedule=plugins.noise_schedules.get(schedule.name).build(schedule.options),
                train_rows=_rows(prepared, "train", manifest.data.sequence_length, manifest.seed),
                held_out_rows=_rows(prepared, "held-out", manifest.data.sequence_length, 0),
                folder=folder,
                provenance=provenance,
                on_step=on_step,
            )
        )


def _build(variant: Variant, plugins: Plugins, prepared: PreparedData) -> DiffusionLM:
    choice = variant.manifest.model.backbone
    backbone = plugins.backbones.get(choice.name).build(choice.options)
    torch.manual_seed(variant.manifest.seed)
    tokenizer = prepared.tokenizer
    return backbone.build(Vocabulary(len(tokenizer), tokenizer.mask_token_id, tokenizer.eos_token_id))


def _rows(prepared: PreparedData, split: Split, length: int, seed: int) -> PackedRows:
    return PackedRows(
        prepared.tokens[split], prepared.packing[split], length, prepared.tokenizer.eos_token_id, seed
    )

"""One variant's training, from its manifest to its last checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from opendllm.core.checkpoints.families import read_config
from opendllm.core.checkpoints.files import MODEL_FOLDER, provenance_of, steps
from opendllm.core.checkpoints.loading import load_checkpoint, load_model, stop_token_ids_of, torch_device
from opendllm.core.checkpoints.pretrained import PRETRAINED_KEY, fetch
from opendllm.core.checkpoints.tokenizer_files import id_count, ids_without_token
from opendllm.core.data.prepared import PreparedData, prepare_all, read_prepared
from opendllm.core.data.rows import MixedRows, PackedRows, Rows
from opendllm.core.data.sources import LOOKING_AT_CORPORA, changed_corpora, fingerprints
from opendllm.core.foundation.atomic_files import integrity_error
from opendllm.core.foundation.json_objects import digest
from opendllm.core.foundation.process_group import join_process_group, text_from_first
from opendllm.core.foundation.ranks import is_first_process, rank, started_by_launcher, world_size
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.core.manifest.schema import Data, Manifest, TokenizerChoice
from opendllm.core.manifest.variant_plugins import TrainingPlugins, VariantPlugins
from opendllm.core.networks.transformers_backbone import VOCABULARY_KEYS
from opendllm.core.progress.progress import Progress
from opendllm.core.training.checkpoints import save_untrained
from opendllm.core.training.documents import DocumentTraining
from opendllm.core.training.method import TrainingMethod
from opendllm.core.training.progress import training_progress
from opendllm.core.training.reinforcement.run_problems import problems_digest, run_problems
from opendllm.core.training.reinforcement.start import reward_training
from opendllm.core.training.resuming import check_same_data, remove_left_overs
from opendllm.core.training.settings import batch_shape
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.corpora import Corpus, Split
from opendllm.registries.errors import UserError
from opendllm.registries.objectives import Objective

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def train_variant(
    variant: Variant, folder: Path, data_folder: Path, provenance: dict[str, Any], progress: Progress
) -> None:
    """Train a variant, or go on where it stopped; nothing is done where it is finished on the same texts.

    Args:
        variant: what to train; without a `train` section its untrained model is saved.
        folder: the variant's.
        data_folder: where prepared data is kept.
        provenance: travels with every checkpoint.
        progress: told what is being done.

    Raises:
        UserError: see `train` and `prepare_all`; or it is finished, and its corpora have changed since.
    """
    manifest, plugins = variant.manifest, variant.plugins
    pretrained = plugins.backbone.options.pretrained
    if manifest.train is None and pretrained is not None:
        return
    data, corpora = manifest.data, plugins.built_corpora()
    if started_by_launcher():
        with progress.activity("waiting for the other processes"):
            join_process_group(torch_device(manifest.device))
    last_step = manifest.train.steps if manifest.train else 0
    finished = _finished(folder, last_step)
    with progress.activity(LOOKING_AT_CORPORA) if data is not None else nullcontext():
        read = fingerprints(data, corpora) if data is not None and is_first_process() else {}
    origin: dict[str, Any] = {"corpora": json.loads(text_from_first(json.dumps(read)))}
    if finished is not None and not _changed(finished, origin["corpora"]):
        return
    device = torch_device(manifest.device)
    if manifest.train is not None:
        # What can be wrong with numbers is said before anything takes time.
        batch_shape(manifest.train, world_size())
        MixedRows.shares(data.weights() if data is not None else (1.0,))
    problems = run_problems(variant) if plugins.rewards is not None else None
    parts: list[PreparedData] = []
    if data is not None:
        tokenizer = data.tokenizer or TokenizerChoice(path=pretrained)
        parts = _prepared_by_first(manifest, tokenizer, corpora, data_folder, progress)
        origin["data"] = _digest(parts)
    if problems is not None:
        origin["problems"] = problems_digest(problems[0])
    if finished is not None:
        check_same_data(finished, origin)
        return
    _check_prompts(plugins, parts)
    with progress.activity("loading the model"):
        lm, own_tokenizer = _starting_model(variant, parts[0].tokenizer if parts else None, device)
    if manifest.train is None or plugins.training is None:
        save_untrained(lm, own_tokenizer, folder, {**provenance, **origin})
        return
    lm.noise = plugins.training.noise
    if problems is None:
        assert data is not None  # what is to be learnt
        if data.sequence_length > lm.context_length:
            raise UserError(
                f"data.sequence_length is {data.sequence_length}, the model's context {lm.context_length}: "
                f"it would learn positions that it is never decoded or scored at; shorten the rows"
            )
        method: TrainingMethod = _of_documents(plugins.training, parts, data, manifest.seed)
    else:
        method = reward_training(variant, lm, own_tokenizer, problems)
    join_process_group(device)
    with training_progress(progress, last_step) as on_step:
        train(
            TrainingRun(
                settings=manifest.train,
                seed=manifest.seed,
                lm=lm,
                tokenizer=own_tokenizer,
                method=method,
                folder=folder,
                provenance={**provenance, **origin},
                on_step=on_step,
                pretrained=pretrained,
                progress=progress,
            )
        )


def _of_documents(
    training: TrainingPlugins, parts: Sequence[PreparedData], data: Data, seed: int
) -> DocumentTraining:
    objective = training.objective.build()
    assert isinstance(objective, Objective)  # the manifest's checks see to it
    return DocumentTraining(
        objective=objective,
        schedule=training.noise_schedule.build(),
        train_rows=_rows(parts, "train", data, seed),
        held_out_rows=_rows(parts, "held-out", data, 0),
    )


def _finished(folder: Path, last_step: int) -> Path | None:
    """The last checkpoint, where nothing is left to train."""
    found = steps(folder)
    if not found or found[-1][0] < last_step or integrity_error(found[-1][1], below=f"{MODEL_FOLDER}/"):
        return None
    if is_first_process():
        remove_left_overs(folder)
    return found[-1][1]


def _changed(checkpoint: Path, corpora: Mapping[str, str]) -> bool:
    """Whether they aren't known to be what the checkpoint was trained on."""
    return bool(changed_corpora(provenance_of(checkpoint).get("corpora", {}), corpora))


def _prepared_by_first(
    manifest: Manifest,
    tokenizer: TokenizerChoice,
    corpora: Sequence[Corpus],
    folder: Path,
    progress: Progress,
) -> list[PreparedData]:
    """The first process prepares, the others read what it made: a corpus may look different from there."""
    parts: list[PreparedData] = []
    if rank() == 0:
        with progress.activity("preparing data", unit="documents") as task:
            assert manifest.data is not None
            bos = manifest.local_model.add_bos_token

            counted: dict[str, tuple[int, int]] = {}

            def on_batch(split: str, documents: int, tokens: int) -> None:
                counted[split] = documents, tokens
                task.update(sum(d for d, _ in counted.values()), tokens=sum(t for _, t in counted.values()))

            parts = prepare_all(manifest.data, tokenizer, corpora, folder, on_batch, bos)
    names = text_from_first("\n".join(part.folder.name for part in parts)).splitlines()
    return parts or [read_prepared(folder / name) for name in names]


def _starting_model(
    variant: Variant, tokenizer: PreTrainedTokenizerFast | None, device: torch.device
) -> tuple[DiffusionLM, PreTrainedTokenizerFast]:
    """Built with the manifest's seed, or the pretrained checkpoint, in float32; with its tokenizer.

    Args:
        variant: to be trained.
        tokenizer: the data's; None for the pretrained checkpoint's own.
        device: where the weights go.
    """
    backbone = variant.plugins.backbone
    pretrained = backbone.options.pretrained
    if pretrained is not None and tokenizer is None:
        folder = fetch(pretrained, said_as=PRETRAINED_KEY)
        found = load_checkpoint(folder, backbone, device, torch.float32)
        if found.tokenizer is None:
            raise UserError(f"{folder} has no tokenizer: name one as data.tokenizer, or put its files there")
        return found.lm, found.tokenizer
    assert tokenizer is not None
    if pretrained is not None:
        folder = fetch(pretrained, said_as=PRETRAINED_KEY)
        lm = load_model(folder, backbone, device, torch.float32, tokenizer.mask_token_id, id_count(tokenizer))
        _check_adapters_suffice(variant, folder, lm)
        lm.eos_token_id = tokenizer.eos_token_id  # which ends the documents that it is trained on
        lm.stop_token_ids = stop_token_ids_of(folder, tokenizer)
    else:
        family = backbone.build()
        torch.manual_seed(variant.manifest.seed)
        lm = family.build(Vocabulary(id_count(tokenizer), tokenizer.mask_token_id, tokenizer.eos_token_id))
        lm.module.to(device)
    lm.ids_without_token = ids_without_token(tokenizer, lm)
    return lm, tokenizer


def _check_adapters_suffice(variant: Variant, folder: Path, lm: DiffusionLM) -> None:
    """Rows that the checkpoint lacks would be in no adapter, and nothing would train them.

    Raises:
        UserError: it was grown, and only adapters are trained.
    """
    train = variant.manifest.train
    if train is None or train.lora is None:
        return
    config = read_config(folder)
    rows = max(int(config.get(key) or 0) for key in VOCABULARY_KEYS)
    if rows and lm.vocab_size > rows:
        raise UserError(
            f"train.lora: {folder} has a vocabulary of {rows}, and is grown to {lm.vocab_size} here: "
            f"adapters neither train nor carry new rows. Name a token that it has and doesn't use as "
            f"data.tokenizer.mask_token, or train whole matrices"
        )


def _rows(parts: Sequence[PreparedData], split: Split, data: Data, seed: int) -> Rows:
    eos = parts[0].tokenizer.eos_token_id
    rows = [
        PackedRows(part.tokens[split], part.packing[split], data.sequence_length, eos, seed, not data.packed)
        for part in parts
    ]
    return rows[0] if len(rows) == 1 else MixedRows(rows, data.weights(), seed)


def _digest(parts: Sequence[PreparedData]) -> str:
    """Of what is trained on; a mixture's weights are in the training digest."""
    return parts[0].digest if len(parts) == 1 else digest([part.digest for part in parts])


def _check_prompts(plugins: VariantPlugins, parts: Sequence[PreparedData]) -> None:
    if plugins.training is None or not plugins.training.objective.options.needs_prompts():
        return
    objective = plugins.training.objective
    given = objective.options.model_dump(exclude_unset=True)
    for corpus, part in zip(plugins.corpora, parts, strict=True):
        if not part.prompted:
            raise UserError(
                f"train.objective: {objective.name} with options {given} learns answers, and corpus "
                f"{corpus.name} has texts without a prompt: name its fields of prompts and responses, or of "
                f"chats, or choose another form"
            )

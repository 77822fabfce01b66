"""From a manifest's `train.rl` section to what is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opendllm.core.checkpoints.text_codec import codec_of
from opendllm.core.decoding.decoder import check_options
from opendllm.core.manifest.checks import decoder_options
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.core.training.reinforcement.answers import Writer
from opendllm.core.training.reinforcement.keeping import refuse_keeping_none
from opendllm.core.training.reinforcement.reward_training import RewardTraining
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.benchmarks import CodeExecution
from opendllm.registries.options import PolicyObjectiveOptions
from opendllm.registries.policies import PolicyObjective
from opendllm.registries.problems import Problem
from opendllm.registries.rewards import RewardContext

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def reward_training(
    variant: Variant,
    lm: DiffusionLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: tuple[Sequence[Problem], Sequence[Problem]],
) -> RewardTraining:
    """What a variant learns.

    Args:
        variant: with an `rl` section.
        lm: the model, with its starting weights.
        tokenizer: its own.
        problems: those that are learnt from, and those that are held out.

    Raises:
        UserError: an option doesn't go with the checkpoint or the rewards, or a problem can't be put to it.
    """
    manifest, plugins = variant.manifest, variant.plugins
    assert manifest.train is not None
    rl, rewards, training = manifest.train.rl, plugins.rewards, plugins.training
    assert rl is not None
    assert rewards is not None
    assert training is not None
    options = training.objective.options
    assert isinstance(options, PolicyObjectiveOptions)
    objective = training.objective.build()
    assert isinstance(objective, PolicyObjective)
    refuse_keeping_none(objective, rewards.rewards, rl.group_size)
    decoder, sampler = decoder_options(rl.rollout), rewards.sampler.build()
    check_options(lm, sampler, decoder)
    codec = codec_of(tokenizer, [lm.mask_token_id, *lm.stops], manifest.local_model.add_bos_token)
    writer = Writer(lm, tokenizer, codec, sampler, decoder, rl.rollout.chat, rl.rollout.batch_size)
    writer.refuse_unfit([*problems[0], *problems[1]])
    return RewardTraining(
        settings=rl,
        objective=objective,
        needs_reference=options.needs_reference,
        writer=writer,
        problems=problems[0],
        held_out=problems[1],
        rewards=rewards.rewards,
        context=RewardContext(
            CodeExecution(manifest.isolation) if manifest.allow_code_execution else None,
            writer.longest([*problems[0], *problems[1]]),
            manifest.seed,
        ),
    )

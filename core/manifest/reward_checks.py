"""What doesn't go together in a manifest that learns from rewards, or should and doesn't."""

from __future__ import annotations

from collections.abc import Iterator

from opendllm.core.manifest.reward_schema import Reference, RewardLearning
from opendllm.core.manifest.schema import Manifest
from opendllm.core.manifest.sources import KeyPath
from opendllm.core.manifest.variant_plugins import RewardPlugins
from opendllm.registries.options import ObjectiveOptions, PolicyObjectiveOptions, chat_issue

AT: KeyPath = ("train", "rl")


def kind_issues(manifest: Manifest, name: str, options: ObjectiveOptions) -> Iterator[tuple[KeyPath, str]]:
    """(where, what): rewards are for policy objectives, documents for the others.

    Args:
        manifest: one that trains.
        name: its objective's.
        options: its objective's.
    """
    assert manifest.train is not None
    of_rewards = isinstance(options, PolicyObjectiveOptions)
    if of_rewards and manifest.train.rl is None:
        yield (
            ("train", "objective", "name"),
            f"{name!r} learns from rewards: say in train.rl from which problems and rewards, or choose an "
            f"objective of documents",
        )
    elif not of_rewards and manifest.train.rl is not None:
        yield (
            ("train", "objective", "name"),
            f"{name!r} learns documents, and train.rl is for policy objectives such as coupled-grpo: choose "
            f"one, or leave rl out",
        )


def reward_issues(
    manifest: Manifest, options: ObjectiveOptions, plugins: RewardPlugins
) -> Iterator[tuple[KeyPath, str]]:
    """(where, what) else.

    Args:
        manifest: one that learns from rewards.
        options: its objective's.
        plugins: of its `rl` section.
    """
    assert manifest.train is not None
    rl = manifest.train.rl
    assert rl is not None
    yield from _rewards(manifest, rl, plugins)
    yield from _draws(rl, plugins)
    needs = isinstance(options, PolicyObjectiveOptions) and options.needs_reference
    if rl.reference != Reference() and not needs:
        yield (*AT, "reference"), "has no effect: the objective's options ask for no reference model"
    if rl.held_out is not None and rl.held_out.problems == rl.problems:
        yield (*AT, "held_out", "problems"), "are those that are trained on: hold others out"


def _rewards(manifest: Manifest, rl: RewardLearning, plugins: RewardPlugins) -> Iterator[tuple[KeyPath, str]]:
    labels = [chosen.called for chosen in rl.rewards]
    for index, reward in enumerate(plugins.rewards):
        at: KeyPath = (*AT, "rewards", index)
        if reward.plugin.options.executes_code and not manifest.allow_code_execution:
            yield (
                (*at, "reward", "name"),
                f"{reward.plugin.name!r} runs what the model writes: set allow_code_execution: true",
            )
        issue = chat_issue(reward.plugin.options) if rl.rollout.chat else None
        if issue is not None:
            yield (*at, "reward", "options"), f"{issue}, or let there be none: `rollout: {{chat: false}}`"
        if reward.weight == 0:
            yield (*at, "weight"), "is 0, so the reward changes nothing: leave it out, or give it a weight"
        if labels[index] in labels[:index]:
            yield at, f"{labels[index]!r} is there twice: give each a `label`"
        if labels[index] in ("deviation", "seconds"):
            yield at, f"is called {labels[index]!r}, as a column of train.jsonl is: give it another `label`"
    if rl.held_out is not None and rl.held_out.reward is not None and rl.held_out.reward not in labels:
        yield (
            (*AT, "held_out", "reward"),
            f"{rl.held_out.reward!r} is none of the rewards: name one of {', '.join(labels)}",
        )


def _draws(rl: RewardLearning, plugins: RewardPlugins) -> Iterator[tuple[KeyPath, str]]:
    """A sampler that draws nothing gives a prompt the same answer every time."""
    rollout, without_effect = rl.rollout, plugins.sampler.options.without_effect
    draws_tokens = rollout.temperature > 0 or "temperature" in without_effect
    draws_order = rollout.alg_temp > 0 and "alg_temp" not in without_effect
    if not draws_tokens and not draws_order:
        yield (
            (*AT, "rollout", "temperature"),
            f"at temperature 0 all {rl.group_size} answers to a prompt would be the same, and nothing could "
            f"be learnt: set a temperature above 0",
        )

"""The hooks of a plugin package, one an extension point.

A plugin module implements those it needs and calls `register` once for each plugin it brings:

    from opendllm.registries import hookimpl

    @hookimpl
    def register_samplers(register):
        register("my-sampler", options=MyOptions, target="my_package.sampler:MySampler", summary="...")
"""

from typing import Protocol

import pluggy

from opendllm.registries.options import PluginOptions

ENTRY_POINT_GROUP = "opendllm"

hookspec = pluggy.HookspecMarker(ENTRY_POINT_GROUP)
hookimpl = pluggy.HookimplMarker(ENTRY_POINT_GROUP)


class Register(Protocol):
    """What a hook is given."""

    def __call__(self, name: str, *, options: type[PluginOptions], target: str, summary: str) -> None:
        """Add one plugin.

        Args:
            name: what a manifest calls it: lower-case letters, digits and dashes.
            options: its options model, checked when a manifest is read.
            target: "module:attribute" of the implementation, imported on first use and called with
                an instance of `options`.
            summary: one line that says what it does.
        """


@hookspec
def register_noise_schedules(register: Register) -> None:
    """Noise schedules: how the chance that a token survives falls with time."""


@hookspec
def register_objectives(register: Register) -> None:
    """Objectives: how clean tokens are corrupted and the model's answers become a loss."""


@hookspec
def register_samplers(register: Register) -> None:
    """Samplers: which positions are committed, and which are masked again, at each step."""


@hookspec
def register_backbones(register: Register) -> None:
    """Backbones: families of models, built from scratch or loaded from their checkpoints."""


@hookspec
def register_corpora(register: Register) -> None:
    """Corpora: where documents come from."""


@hookspec
def register_benchmarks(register: Register) -> None:
    """Benchmarks: what a model is asked, and how its answers score."""


@hookspec
def register_rewards(register: Register) -> None:
    """Rewards: what an answer to a problem is worth, for reinforcement learning."""

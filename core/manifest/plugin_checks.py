"""The plugins that a manifest names: found, their options checked, and whether all go together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from opendllm.core.checkpoints.families import attention_of, noise_of
from opendllm.core.decoding.settings import check_destination, check_effect, check_reach
from opendllm.core.manifest.chat_checks import chat_issues
from opendllm.core.manifest.checks import (
    Issue,
    ManifestError,
    decoder_options,
    dotted,
    generation_of,
    issues_of,
    said_at,
)
from opendllm.core.manifest.noise_checks import noise_issues
from opendllm.core.manifest.reward_checks import kind_issues, reward_issues
from opendllm.core.manifest.reward_schema import Problems, Rollout
from opendllm.core.manifest.schema import PLUGIN_KEYS, Generate, Manifest
from opendllm.core.manifest.section import PluginChoice
from opendllm.core.manifest.sources import KeyPath, Source
from opendllm.core.manifest.variant_plugins import (
    EvaluationPlugins,
    RewardPlugins,
    TrainingPlugins,
    VariantPlugins,
)
from opendllm.core.rewards.weighing import WeightedReward
from opendllm.registries.backbones import Backbone
from opendllm.registries.benchmarks import Benchmark
from opendllm.registries.corpora import Corpus
from opendllm.registries.discovery import Plugins
from opendllm.registries.errors import PluginError, UserError
from opendllm.registries.noise_schedules import Destination
from opendllm.registries.objectives import Objective
from opendllm.registries.options import (
    AttentionKind,
    BackboneOptions,
    ObjectiveOptions,
    PluginOptions,
    RewardOptions,
    SamplerOptions,
    noise_destination,
    only_asks_likelihoods,
)
from opendllm.registries.registry import ChosenPlugin, Registry
from opendllm.registries.samplers import Sampler

ContractT = TypeVar("ContractT")
OptionsT = TypeVar("OptionsT", bound=PluginOptions)


def resolve_plugins(manifest: Manifest, source: Source, plugins: Plugins) -> VariantPlugins:
    """Find every plugin that a manifest names whose model is one of this machine.

    Raises:
        ManifestError: one isn't there, doesn't take its options, or doesn't go with the others.
    """
    resolver = Resolver(manifest, source, plugins)
    backbone = resolver.plugin(
        plugins.backbones, BackboneOptions, manifest.local_model.backbone, ("model", "backbone")
    )
    corpora = resolver.corpora()
    objective = schedule = None
    if manifest.train is not None:
        objective = resolver.plugin(
            plugins.objectives, ObjectiveOptions, manifest.train.objective, ("train", "objective")
        )
        schedule = resolver.plugin(
            plugins.noise_schedules, PluginOptions, manifest.train.noise_schedule, ("train", "noise_schedule")
        )
    if schedule is not None:
        resolver.destination = noise_destination(schedule.options)
    if backbone is not None:
        resolver.decoded_model(backbone)
    benchmarks = [
        resolver.plugin(plugins.benchmarks, PluginOptions, entry.benchmark, ("evaluate", index, "benchmark"))
        for index, entry in enumerate(manifest.evaluate)
    ]
    resolver.decodes = not all(chosen and only_asks_likelihoods(chosen.options) for chosen in benchmarks)
    sampler = resolver.sampler(manifest.generate, ("generate",))
    rewards = resolver.rewards()
    samplers = [
        resolver.sampler(generation_of(manifest, index), ("evaluate", index, "generate"))
        if entry.generate is not None
        else sampler
        for index, entry in enumerate(manifest.evaluate)
    ]
    issues = resolver.issues
    issues.extend(chat_issues(manifest, source, benchmarks))
    training = TrainingPlugins(objective, schedule) if objective and schedule else None
    if objective is not None:
        about = list(kind_issues(manifest, objective.name, objective.options))
        if rewards is not None and not about:
            about += reward_issues(manifest, objective.options, rewards)
        issues.extend(Issue(source.location(path), dotted(path), message) for path, message in about)
    if backbone is not None:
        issues.extend(_data_issues(manifest, source, backbone.options))
        issues.extend(_loading_issues(manifest, source, backbone.options))
        issues.extend(_attention_issues(manifest, source, backbone.options, objective))
        if training is not None:
            schedules = plugins.noise_schedules
            issues.extend(noise_issues(manifest, source, backbone.options, training, benchmarks, schedules))
    if issues:
        raise ManifestError(issues)
    assert backbone is not None  # or there would be an issue; so it is with all that may be None here
    assert sampler is not None
    return VariantPlugins(
        backbone,
        tuple(filter(None, corpora)),
        training,
        sampler,
        tuple(
            EvaluationPlugins(benchmark, own)
            for benchmark, own in zip(benchmarks, samplers, strict=True)
            if benchmark and own
        ),
        rewards,
    )


def unknown_plugins(source: Source, plugins: Plugins) -> Iterator[Issue]:
    """The names of plugins that aren't installed, of a manifest whose structure is wrong elsewhere."""
    for path, name in _chosen_names(source.data, ()):
        try:
            plugins.of_kind(PLUGIN_KEYS[str(path[-2])]).get(name)
        except PluginError as error:
            yield Issue(source.location(path), dotted(path), str(error))


def _chosen_names(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Where a plugin is chosen, by which name."""
    children = enumerate(node) if isinstance(node, list) else node.items() if isinstance(node, dict) else ()
    for key, child in children:
        at = (*path, key)
        if key in PLUGIN_KEYS and isinstance(child, dict) and isinstance(child.get("name"), str):
            yield (*at, "name"), child["name"]
        elif key not in PLUGIN_KEYS:
            yield from _chosen_names(child, at)


@dataclass
class Resolver:
    """Looks plugins up one by one, and collects what is wrong with them.

    Attributes:
        destination: of the noise that the evaluated model undoes; None where only its files can tell.
        attention: of the evaluated model; None where only its files can tell.
        time_conditioning: whether it is known that it has to be told the time.
        decodes: whether some benchmark has texts written: else the backbone's own sampler is never used.
    """

    manifest: Manifest
    source: Source
    plugins: Plugins
    destination: Destination | None = None
    attention: AttentionKind | None = None
    time_conditioning: bool = False
    decodes: bool = True
    issues: list[Issue] = field(default_factory=list)

    def plugin(
        self, registry: Registry[ContractT], base: type[OptionsT], choice: PluginChoice, path: KeyPath
    ) -> ChosenPlugin[ContractT, OptionsT] | None:
        """The plugin of a choice; None where there is an issue with it.

        Args:
            registry: of its kind.
            base: what the options of that kind derive from.
            choice: its name and options.
            path: where the manifest chooses it.
        """
        try:
            registration = registry.get(choice.name)
        except PluginError as error:
            at = (*path, "name")
            self.issues.append(Issue(self.source.location(at), dotted(at), str(error)))
            return None
        try:
            options = registration.options.model_validate(choice.options)
        except ValidationError as error:
            self.issues.extend(issues_of(error, self.source, registration.options, (*path, "options")))
            return None
        assert isinstance(options, base)  # the registry takes no others of this kind
        return ChosenPlugin(registration, options)

    def decoded_model(self, backbone: ChosenPlugin[Backbone, BackboneOptions]) -> None:
        """Note what is known of the model that is decoded; the hub's files are asked when it is loaded."""
        pretrained, trained = backbone.options.pretrained, self.manifest.train is not None
        if pretrained is None:
            self.attention = backbone.options.attention
            self.destination = self.destination if trained else "mask"  # of a model that nobody has trained
            return
        folder = Path(pretrained).expanduser()
        if trained or not folder.is_dir():
            return
        with suppress(UserError):  # which says when it is loaded what is wrong with it
            noise, self.attention = noise_of(folder), attention_of(backbone, folder)
            self.destination, self.time_conditioning = noise.destination, noise.time_conditioning

    def corpora(self) -> list[ChosenPlugin[Corpus, PluginOptions] | None]:
        """In the order of `Data.corpora`."""
        data = self.manifest.data
        if data is None:
            return []
        paths: list[KeyPath] = [("data", "corpus")]
        if data.corpus is None:
            paths = [("data", "mixture", index, "corpus") for index in range(len(data.mixture))]
        return [
            self.plugin(self.plugins.corpora, PluginOptions, choice, path)
            for choice, path in zip(data.corpora(), paths, strict=True)
        ]

    def rewards(self) -> RewardPlugins | None:
        """What the `train.rl` section names; None where there is none, or an issue with it."""
        rl = self.manifest.train.rl if self.manifest.train is not None else None
        if rl is None:
            return None
        at: KeyPath = ("train", "rl")
        found = [
            (
                self.plugin(
                    self.plugins.rewards, RewardOptions, each.reward, (*at, "rewards", index, "reward")
                ),
                each,
            )
            for index, each in enumerate(rl.rewards)
        ]
        rewards = tuple(
            WeightedReward(plugin, each.called, each.weight) for plugin, each in found if plugin is not None
        )
        decodes, self.decodes = self.decodes, True
        sampler = self.sampler(rl.rollout, (*at, "rollout"))
        self.decodes = decodes
        problems = self._benchmark_of(rl.problems, (*at, "problems"))
        held_out = None
        if rl.held_out is not None:
            held_out = self._benchmark_of(rl.held_out.problems, (*at, "held_out", "problems"))
        if sampler is None or len(rewards) < len(rl.rewards):
            return None
        return RewardPlugins(problems, rewards, sampler, held_out)

    def _benchmark_of(
        self, problems: Problems, path: KeyPath
    ) -> ChosenPlugin[Benchmark, PluginOptions] | None:
        if problems.benchmark is None:
            return None
        return self.plugin(self.plugins.benchmarks, PluginOptions, problems.benchmark, (*path, "benchmark"))

    def sampler(
        self, generate: Generate | Rollout, path: KeyPath
    ) -> ChosenPlugin[Sampler, SamplerOptions] | None:
        """The sampler of a `generate` section at `path`, and whether the section's settings reach it."""
        choice = generate.sampler or self._default_sampler()
        if choice is None:
            return None
        chosen = self.plugin(self.plugins.samplers, SamplerOptions, choice, (*path, "sampler"))
        if chosen is not None:
            try:
                decoder = decoder_options(generate)
                if self.destination is not None and (self.decodes or self._names_sampler(path)):
                    check_destination(chosen.registration, self.destination)
                if self.attention is not None and self.decodes:
                    check_reach(decoder, self.attention, self.time_conditioning)
                check_effect(decoder, chosen.registration)
            except UserError as error:
                self.issues.append(Issue(self.source.location(path), dotted(path), str(error)))
        return chosen

    def _names_sampler(self, path: KeyPath) -> bool:
        """Whether the manifest itself does, in a `generate` section at `path` or in the general one."""
        return any(said_at(self.source.data, (*at, "sampler")) is not None for at in (path, ("generate",)))

    def _default_sampler(self) -> PluginChoice | None:
        """The sampler of the backbone's authors; None where the backbone is unknown."""
        name = self.manifest.local_model.backbone.name
        try:
            options = self.plugins.backbones.get(name).options
        except PluginError:
            return None
        return PluginChoice(name=options.default_sampler) if issubclass(options, BackboneOptions) else None


def _data_issues(manifest: Manifest, source: Source, backbone: BackboneOptions) -> Iterator[Issue]:
    """A model that is trained or built needs data; only a pretrained one brings a tokenizer."""
    if manifest.data is None:
        learns_documents = manifest.train is not None and manifest.train.rl is None
        if learns_documents or backbone.pretrained is None:
            yield Issue(source.location(("data",)), "data", "is missing")
    elif manifest.data.tokenizer is None and backbone.pretrained is None:
        yield Issue(source.location(("data", "tokenizer")), "data.tokenizer", "is missing")


def _loading_issues(manifest: Manifest, source: Source, backbone: BackboneOptions) -> Iterator[Issue]:
    """Spread and 8-bit models are loaded to be evaluated."""
    for name in ("device_map", "load_in_8bit"):
        at: KeyPath = ("model", "backbone", "options", name)
        if getattr(backbone, name) and backbone.pretrained is None:
            yield Issue(source.location(at), dotted(at), "has no effect without `pretrained`")
        elif getattr(backbone, name) and manifest.train is not None:
            yield Issue(source.location(at), dotted(at), "is for evaluation; training cannot use it")


def _attention_issues(
    manifest: Manifest,
    source: Source,
    backbone: BackboneOptions,
    objective: ChosenPlugin[Objective, ObjectiveOptions] | None,
) -> Iterator[Issue]:
    at: KeyPath = ("model", "backbone", "options", "attention")
    blocks, length = backbone.attention == "block-causal", backbone.block_length is not None
    if (length and not blocks) or (blocks and not (length or backbone.knows_block_length)):
        yield Issue(
            source.location(at), dotted(at), "`attention: block-causal` and `block_length` go together"
        )
    if manifest.train is None or objective is None:
        return
    if objective.options.trains != backbone.attention:
        yield Issue(
            source.location(("train", "objective", "name")),
            "train.objective",
            f"{objective.name!r} trains {objective.options.trains} models, and the backbone's "
            f"attention is {backbone.attention}: set model.backbone.options.attention",
        )

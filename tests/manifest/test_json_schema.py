"""What `platform schema` tells an editor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from opendllm.core.manifest.json_schema import manifest_schema
from opendllm.registries import PluginOptions
from opendllm.registries.discovery import Plugins, installed_plugins
from opendllm.registries.extension_points import EXTENSION_POINTS
from opendllm.registries.registry import Provenance, Registration


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return manifest_schema(installed_plugins())


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> Any:
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def load(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def test_it_accepts_every_manifest_in_experiments(validator: Any, repository: Path) -> None:
    for path in sorted((repository / "experiments").glob("*.yaml")):
        assert not [error.message for error in validator.iter_errors(load(path.read_text()))]


@pytest.mark.parametrize(
    "text",
    [
        "{extends: base.yaml, train: {steps: 3}}",
        "{extends: base.yaml, train: null, generate: {temperature: null}}",
        "{data: {sequence_length: 64}, variants: {a: {data: {corpus: {name: python-stdlib}}}}}",
        "{variants: {a: null, b: {train: null}, c: {generate: {steps: null, sampler: null}}}}",
        "{variants: {a: {model: {backbone: {options: {attention: causal}}}}}}",
        "{seeds: [0, 1], variants: {a: {}}}",
        "{generate: {steps: {grid: [8, 16]}, sampler: {name: remdm, options: {eta: {grid: [0.1, 0.2]}}}}}",
        "{train: {precision: bf16, master_weights: false, compile: true, activation_checkpointing: true}}",
        "{train: {deepspeed: {zero_optimization: {offload_optimizer: true, offload_parameters: true}}}}",
        "{train: {checkpoint: {every: 10, keep: 2, keep_every: 100, keep_best: 1}, trackers: [wandb]}}",
        "{train: {lora: {rank: 4, alpha: 8, dropout: 0.1, targets: [q_proj]}}}",
        "{train: {lora: {targets: all-linear}}, variants: {a: {train: {lora: null}}}}",
        "{train: {freeze: [embed_tokens], ema: {decay: 0.999, evaluated: false}}}",
        "{launch: {nodes: 2, processes_per_node: 8, rendezvous: {endpoint: 'a:1', timeout: 9}}}",
        "{launch: {environment: {NCCL_DEBUG: WARN}, slurm: {partition: a, account: b}}}",
        "{launch: {slurm: {time: '1:00', options: {mem: 1}}}}",
    ],
)
def test_it_accepts_what_is_completed_elsewhere(validator: Any, text: str) -> None:
    assert not [error.message for error in validator.iter_errors(load(text))]


@pytest.mark.parametrize(
    "text",
    [
        "{nmae: a}",
        "{train: {stesp: 3}}",
        "{train: {steps: 0}}",
        "{train: {deepspeed: {zero_optimization: {stage: 7}}}}",
        "{data: {tokenizer: {train: {vocabsize: 300}}}}",
        "{model: {backbone: {name: open-dcodr}}}",
        "{model: {backbone: {name: open-dcoder, options: {prest: nano}}}}",
        "{model: {backbone: {name: open-dcoder, options: {preset: giant}}}}",
        "{evaluate: [{benchmark: {name: perplexity, options: {document: 1}}}]}",
        "{evaluate: [{benchmark: {options: {}}}]}",
        "{evaluate: [{label: a}]}",
        "{evaluate: [{benchmark: {name: perplexity}, generate: {sampler: {name: p3}}}]}",
        "{variants: {a: {trian: {}}}}",
        "{variants: {a: {train: {stesp: 3}}}}",
        "{variants: {a: {generate: {sampler: {name: p2, options: {eta: 1}}}}}}",
        "{variants: {a: {generate: {sampler: {options: {no_sampler_has_this: 1}}}}}}",
        "{variants: {a: {name: other}}}",
        "{variants: {a: {seeds: [1]}}}",
        "{variants: [a]}",
        "{variants: {a: {launch: {nodes: 2}}}}",
        "{launch: {nodes: 0}}",
        "{launch: {rendezvous: {endpoint: no-port}}}",
        "{launch: {environment: {NCCL_DEBUG: [1]}}}",
        "{launch: {slurm: {partitoin: a}}}",
        "{train: {lora: {rank: 0}}}",
        "{train: {ema: {decay: 1}}}",
        "{train: {trackers: [mlflow]}}",
        "{train: {checkpoint: {keep_best: -1}}}",
        "{train: {master_weights: maybe}}",
    ],
)
def test_it_refuses_what_no_manifest_may_say(validator: Any, text: str) -> None:
    assert not validator.is_valid(load(text))


def test_it_knows_every_installed_plugin_and_explains_its_options(schema: dict[str, Any]) -> None:
    for kind in EXTENSION_POINTS:
        for registration in installed_plugins().of_kind(kind):
            options = schema["$defs"][f"options_{kind}_{registration.name}"]
            assert set(options.get("properties", {})) == set(registration.options.model_fields)


class Train(BaseModel):
    """A stranger's nested model, named like a section of the manifest."""

    colour: str = "red"


class StrangersOptions(PluginOptions):
    """With a nested model."""

    train: Train = Train()


def test_a_strangers_nested_options_do_not_replace_the_manifests_own_sections() -> None:
    plugins = Plugins()
    for kind in EXTENSION_POINTS:
        for registration in installed_plugins().of_kind(kind):
            plugins.of_kind(kind).add(registration)
    theirs = Registration[Any](
        "corpora", "theirs", StrangersOptions, "json:loads", "", Provenance("stranger", "1")
    )
    plugins.corpora.add(theirs)
    validator = jsonschema.Draft202012Validator(manifest_schema(plugins))
    assert validator.is_valid({"train": {"steps": 3}})
    corpus = {"name": "theirs", "options": {"train": {"colour": "blue"}}}
    assert validator.is_valid({"data": {"corpus": corpus}})
    corpus["options"] = {"train": {"colour": 3}}
    assert not validator.is_valid({"data": {"corpus": corpus}})

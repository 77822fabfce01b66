"""`platform plan`: what it prints, how fast, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.cli.main import main
from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.core.planning.hardware import Hardware
from opendllm.core.planning.plan import plan as make_plan
from opendllm.registries.backbones import Backbone
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.options import BackboneOptions
from opendllm.registries.registry import ChosenPlugin, Provenance, Registration

from ..tiny_checkpoint import save_tiny_checkpoint

REPOSITORY = Path(__file__).parents[2]
AFTER_A_RUN = "rl-functions"
"""Goes on from what another experiment has trained: until then nobody knows its sizes."""
EXPERIMENTS = sorted(path for path in (REPOSITORY / "experiments").glob("*.yaml") if path.stem != AFTER_A_RUN)
PRETRAINING = REPOSITORY / "experiments" / "open-dcoder-0.5b-pretraining.yaml"
Answer = Callable[..., Any]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Answer:
    """Run `platform plan` in this process: (exit code, standard output, standard error)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["platform", "plan", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def whole(plan: Answer) -> Answer:
    """The JSON that it prints."""

    def run(*arguments: str | Path) -> dict[str, Any]:
        code, output, errors = plan(*arguments, "--json")
        assert code == 0, errors
        content: dict[str, Any] = json.loads(output)
        return content

    return run


@pytest.fixture
def planned(whole: Answer) -> Answer:
    """What it says of each variant."""

    def run(*arguments: str | Path) -> dict[str, Any]:
        variants: dict[str, Any] = whole(*arguments)["variants"]
        return variants

    return run


def test_every_experiment_is_planned_without_network_and_models() -> None:
    """Samplers are asked for their plans, which takes torch; where nothing is evaluated nothing does."""
    script = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise SystemExit('network')\n"
        "socket.socket.connect = refuse\n"
        "from opendllm.core.cli.main import main\n"
        "heavy = {'torch', 'transformers', 'datasets', 'deepspeed', 'huggingface_hub'}\n"
        "for number, path in enumerate(sys.argv[1:]):\n"
        "    sys.argv = ['platform', 'plan', path]\n"
        "    try: main()\n"
        "    except SystemExit as left: assert left.code == 0, (path, left.code)\n"
        "    if number == 0: print('imported', sorted(heavy & set(sys.modules)))\n"
        "print('imported', sorted(heavy & set(sys.modules)))\n"
    )
    assert len(EXPERIMENTS) >= 5
    paths = [PRETRAINING, *EXPERIMENTS]
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    imported = [line for line in result.stdout.splitlines() if line.startswith("imported")]
    assert imported == ["imported []", "imported ['torch']"]
    assert result.stdout.count("parameters") >= len(paths)
    assert "unknown" not in result.stdout


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("open-dcoder-0.5b-pretraining", 494_032_768),
        ("open-dcoder-0.5b-evaluation", 494_032_768),
        ("llada-8b-evaluation", 8_015_581_184),
        ("dream-7b-evaluation", 7_615_616_512),
    ],
)
def test_published_recipes_have_the_published_sizes(planned: Answer, name: str, parameters: int) -> None:
    [found] = planned(REPOSITORY / "experiments" / f"{name}.yaml").values()
    assert found["parameters"] == parameters
    assert (found["training"] is None) == name.endswith("evaluation")


def test_published_pretraining_reads_a_million_million_tokens(planned: Answer) -> None:
    [found] = planned(PRETRAINING).values()
    training = found["training"]
    assert training["tokens"] == 476837 * 512 * 4096
    assert training["tokens"] == pytest.approx(1e12, rel=1e-5)
    # 6 N D with the head's share at half the positions, plus attention over 4096 tokens
    blocks = 494_032_768 - 151936 * 896
    attention = 4 * 4096 * 896 * 24
    assert training["flops"] == pytest.approx(
        3 * training["tokens"] * (2 * blocks + 151936 * 896 + attention), rel=1e-9
    )
    [compiled] = planned(PRETRAINING, "--set", "train.compile=true").values()
    hours = training["flops"] / (989e12 * 0.4) / 3600
    assert compiled["training"]["seconds"] / 3600 == pytest.approx(hours)


H100_80GB_AT_4096 = [("true", 107_600, 40.3), ("false", 79_100, 52.7)]
"""Whether compiled, tokens a second and GiB: 0.5B, 8 rows, vocabulary 151,936 (benchmarks/training.py)."""


@pytest.mark.parametrize(("compiled", "speed", "memory"), H100_80GB_AT_4096)
def test_time_and_memory_are_within_15_percent_of_what_was_measured(
    planned: Answer, compiled: str, speed: float, memory: float
) -> None:
    settings = ("global_batch_size=8", "micro_batch_size=8", f"compile={compiled}")
    overrides = [part for setting in settings for part in ("--set", f"train.{setting}")]
    [found] = planned(PRETRAINING, *overrides).values()
    training = found["training"]
    parts = ("weights", "gradients", "optimizer", "activations")
    assert training["tokens"] / training["seconds"] == pytest.approx(speed, rel=0.15)
    assert sum(training[part] for part in parts) / 2**30 == pytest.approx(memory, rel=0.15)


def test_what_is_computed_again_takes_time_and_attention_has_no_frozen_weights(planned: Answer) -> None:
    def training(*settings: str) -> dict[str, float]:
        overrides = [part for setting in settings for part in ("--set", f"train.{setting}")]
        [found] = planned(PRETRAINING, *overrides).values()
        return dict(found["training"])

    plain, again = training(), training("activation_checkpointing=true")
    assert again["seconds"] == pytest.approx(4 / 3 * plain["seconds"])
    assert again["flops"] == plain["flops"]
    attention = 3 * plain["tokens"] * 4 * 4096 * 896 * 24
    wanted = attention + 2 / 3 * (plain["flops"] - attention)
    assert training("lora={rank: 8}")["flops"] == pytest.approx(wanted)


def test_a_row_that_is_read_twice_costs_twice(planned: Answer) -> None:
    """UDLM's model reads each clean row too, unless it leaves the reconstruction out."""

    def flops(**options: str) -> float:
        uniform = "train.noise_schedule={name: linear, options: {destination: uniform}}"
        chosen = ["train.objective={name: udlm}", uniform, "generate.sampler={name: uniform-ancestral}"]
        chosen += [f"train.objective.options.{key}={value}" for key, value in options.items()]
        settings = [part for each in chosen for part in ("--set", each)]
        [found] = planned(PRETRAINING, *settings).values()
        return float(found["training"]["flops"])

    assert flops() == pytest.approx(2 * flops(zero_recon_loss="true"))


def test_time_falls_with_devices_peak_and_utilisation(planned: Answer) -> None:
    def seconds(*arguments: str) -> float:
        [found] = planned(PRETRAINING, *arguments).values()
        return float(found["training"]["seconds"])

    alone = seconds()
    assert seconds("--devices", "8") == pytest.approx(alone / 8)
    assert seconds("--peak-tflops", "494.5") == pytest.approx(alone * 2)
    assert seconds("--utilisation", "0.2") == pytest.approx(alone * 2)


@pytest.mark.parametrize(("stage", "parts"), [(0, (1, 1, 1)), (1, (1, 1, 8)), (2, (1, 8, 8)), (3, (8, 8, 8))])
@pytest.mark.parametrize(
    ("precision", "master", "number", "kept"),
    [("bf16", "true", 2, 12), ("bf16", "false", 2, 6), ("fp32", "true", 4, 8)],
)
def test_zero_stages_share_what_they_partition(
    planned: Answer,
    stage: int,
    parts: tuple[int, int, int],
    precision: str,
    master: str,
    number: int,
    kept: int,
) -> None:
    weights, gradients, optimizer = parts
    [found] = planned(
        PRETRAINING, "--devices", "8", "--set", f"train.deepspeed.zero_optimization.stage={stage}",
        "--set", f"train.precision={precision}", "--set", f"train.master_weights={master}",
    ).values()  # fmt: skip
    if precision == "bf16":
        optimizer = 8  # is never without ZeRO
    size, training = found["parameters"], found["training"]
    assert training["weights"] == -(-size * number // weights)
    assert training["gradients"] == -(-size * number // gradients)
    assert training["optimizer"] == -(-size * kept // optimizer)
    assert training["checkpoint"] == size * (2 * number + kept)
    assert training["memory"] == sum(
        training[part] for part in ("weights", "gradients", "optimizer", "activations")
    )
    assert training["activations"] > 0


def test_set_changes_what_is_planned(planned: Answer) -> None:
    steps = planned(PRETRAINING, "--set", "train.steps=10")["default"]["training"]
    assert steps["tokens"] == 10 * 512 * 4096
    larger = planned(
        PRETRAINING, "--set", "model.backbone={name: dream, options: {pretrained: a/b, preset: 7b}}",
        "--set", "train.objective={name: dream}",
    )  # fmt: skip
    assert larger["default"]["parameters"] == 7_615_616_512


def test_smaller_micro_batches_need_less_memory(planned: Answer) -> None:
    def activations(rows: int) -> int:
        [found] = planned(PRETRAINING, "--set", f"train.micro_batch_size={rows}").values()
        return int(found["training"]["activations"])

    # The layers' part; a chunk of logits and the head's gradient are the same for all.
    assert activations(8) - activations(4) == 2 * (activations(4) - activations(2)) > 0


def test_memory_that_is_offloaded_or_computed_again_is_not_counted(planned: Answer) -> None:
    def training(*settings: str) -> dict[str, int]:
        overrides = [part for setting in settings for part in ("--set", f"train.{setting}")]
        [found] = planned(PRETRAINING, *overrides).values()
        return dict(found["training"])

    zero = "deepspeed.zero_optimization={stage: 3, offload_optimizer: true, offload_parameters: true}"
    assert (training(zero)["weights"], training(zero)["optimizer"]) == (0, 0)
    assert training("activation_checkpointing=true")["activations"] < training()["activations"]


def test_adapters_want_gradients_and_moments_their_base_does_not(planned: Answer) -> None:
    def training(*overrides: str) -> dict[str, float]:
        [found] = planned(PRETRAINING, *overrides).values()
        return dict(found["training"])

    whole, adapted = training(), training("--set", "train.lora={rank: 16}")
    assert adapted["weights"] == whole["weights"]
    for part in ("gradients", "optimizer"):
        assert adapted[part] / adapted["gradients"] == whole[part] / whole["gradients"]
        assert adapted[part] < whole[part] / 50
    assert adapted["flops"] < whole["flops"]


def test_every_variant_is_planned(planned: Answer) -> None:
    found = planned(REPOSITORY / "experiments" / "quickstart.yaml")
    assert list(found) == ["open-dcoder", "llada", "dream", "autoregressive", "untrained"]
    assert found["untrained"]["training"] is None
    assert found["llada"]["architecture"]["vocab_size"] == 320


def test_the_text_names_every_quantity(plan: Answer) -> None:
    code, output, _ = plan(PRETRAINING, "--devices", "8")
    assert code == 0
    words = [
        "default",
        "494,032,768",
        "tokens",
        "operations",
        "weights",
        "gradients",
        "optimizer",
        "checkpoint",
        "peak",
    ]
    assert [word for word in words if word not in output] == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--devices", "7"], "global_batch_size 512 does not divide by 7 processes"),
        (["--devices", "0"], "--devices"),
        (["--utilisation", "1.5"], "--utilisation"),
        (["--set", "train.steps=0"], "train.steps"),
        (["--set", "model.backbone.options.preset=9b"], "model.backbone.options.preset"),
        (["--set", "model.backbone.options={pretrained: broken}"], "config.json"),
        (["--set", "model.backbone.name=lada"], "no plugin backbones/lada: did you mean"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    plan: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "qwen2"}')
    code, output, errors = plan(PRETRAINING, *arguments)
    assert (code, output) == (2, "")
    [line] = errors.splitlines()
    assert expected in line


def test_a_backbone_that_tells_no_sizes_is_planned_as_unknown(plan: Answer) -> None:
    code, output, _ = plan(PRETRAINING, "--set", "model.backbone.options.preset=nano")
    assert code == 0
    assert "unknown" in output
    assert "cannot tell its sizes from {'pretrained': 'Qwen/Qwen2.5-Coder-0.5B', 'preset': 'nano'}" in output
    code, output, _ = plan(PRETRAINING, "--set", "model.backbone.options.preset=nano", "--json")
    [found] = json.loads(output)["variants"].values()
    assert (code, found["parameters"], found["training"]) == (0, None, None)


class OwnSizes:
    """No `Architecture`, and enough all the same."""

    parameters = 1000
    embedding_parameters = 100

    def training_flops(self, tokens: int, length: int, scored_share: float = 1.0) -> float:
        return 6.0 * self.parameters * tokens


class OwnSizesOptions(BackboneOptions):
    def architecture(self, vocab_size: int | None) -> OwnSizes:
        return OwnSizes()


class NoSizesOptions(BackboneOptions):
    width: int = 8


@pytest.mark.parametrize("options", [OwnSizesOptions, NoSizesOptions])
def test_a_strangers_backbone_is_planned_as_far_as_it_tells(options: type[BackboneOptions]) -> None:
    [variant, *_] = read_experiment(PRETRAINING, [], installed_plugins()).variants
    registration: Registration[Backbone] = Registration(
        "backbones", "mine", options, "json:loads", "mine", Provenance("stranger", "0.1")
    )
    plugins = replace(variant.plugins, own_backbone=ChosenPlugin(registration, options()))
    found = make_plan(replace(variant, plugins=plugins), Hardware(1))
    if options is NoSizesOptions:
        assert found.training is None
        assert found.unknown == "backbone 'mine' has no `architecture` in its options, which says its sizes"
        return
    assert found.training is not None
    assert found.training.flops == 6000.0 * found.training.tokens
    assert found.training.activations is None


def test_a_run_variant_is_planned_as_run_takes_it(
    whole: Answer, plan: Answer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its last checkpoint; of a folder without one nothing is known, and no time is said."""
    model = save_tiny_checkpoint(tmp_path)
    capsys.readouterr()  # what training it has said
    variant = next(folder for folder in model.parents if folder.parent == tmp_path / "run")
    manifest = tmp_path / "evaluated.yaml"
    manifest.write_text(
        f"name: evaluated\nmodel: {{backbone: {{name: llada, options: {{pretrained: {variant}}}}}}}\n"
        "evaluate: [{benchmark: {name: synthetic-functions}}]\nallow_code_execution: true\n"
        "generate: {max_new_tokens: 8, steps: 4}\n"
    )
    [found] = whole(manifest)["variants"].values()
    assert found["parameters"] > 0
    shutil.rmtree(variant / "checkpoints")
    code, output, _ = plan(manifest)
    assert code == 0
    assert f"{variant} holds no checkpoint yet: run its manifest first" in output
    assert "time          not known" in output
    assert " 0 s" not in output

"""What `plan` says of benchmarks, of what variants share, and of what a device can't hold."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.cli.main import main
from opendllm.core.cli.plan_lines import duration, size
from opendllm.core.manifest.experiment_manifest import Experiment, read_experiment
from opendllm.core.planning.advice import advice
from opendllm.core.planning.cpu_speed import this_cpu
from opendllm.core.planning.devices import GIB, KNOWN, Device, Gpu, counted
from opendllm.core.planning.experiment_plan import plan_experiment
from opendllm.core.planning.hardware import Hardware
from opendllm.core.planning.plan import plan
from opendllm.core.planning.request_sizes import requests_of, tokens_of
from opendllm.registries.benchmarks import Benchmark
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.options import BenchmarkOptions
from opendllm.registries.planned_requests import PlannedLikelihoods, PlannedTexts
from opendllm.registries.registry import ChosenPlugin, Provenance, Registration

REPOSITORY = Path(__file__).parents[2]
H100 = Hardware(1)
SMALL: dict[str, Any] = {
    "name": "small",
    "model": {"backbone": {"name": "llada", "options": {"preset": "nano"}}},
    "data": {
        "corpus": {"name": "python-stdlib"},
        "tokenizer": {"train": {"vocab_size": 320}},
        "sequence_length": 128,
    },
    "train": {"objective": {"name": "llada"}, "steps": 10, "global_batch_size": 4},
    "generate": {"sampler": {"name": "low-confidence"}, "max_new_tokens": 32},
    "evaluate": [
        {"benchmark": {"name": "perplexity"}},
        {"benchmark": {"name": "stdlib-infilling", "options": {"problems": 6, "fixed_lengths": [8]}}},
    ],
}


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """A file of SMALL with other sections."""

    def write(**sections: Any) -> Path:
        path = tmp_path / "small.yaml"
        content = {key: value for key, value in {**SMALL, **sections}.items() if value is not None}
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `platform plan` prints, on a machine without a GPU."""
    monkeypatch.setattr("opendllm.core.cli.plan_command.gpus_here", list)

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["platform", "plan", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code
        return capsys.readouterr().out

    return run


def experiment(path: Path) -> Experiment:
    return read_experiment(path, [], installed_plugins())


def published(name: str, variant: str) -> Any:
    found = experiment(REPOSITORY / "experiments" / f"{name}.yaml")
    return next(each for each in found.variants if each.name == variant)


AFTER_A_RUN = "rl-functions"
"""Goes on from what another experiment has trained: until then nobody knows its sizes."""


def test_every_benchmark_of_the_experiments_is_counted() -> None:
    for path in sorted((REPOSITORY / "experiments").glob("*.yaml")):
        if path.stem == AFTER_A_RUN:
            continue
        for variant in experiment(path).variants:
            for each in plan(variant, H100).evaluations:
                assert not each.unknown, (path, variant.name, each)
                assert each.requests > 0
                assert each.forward_passes >= each.requests
                assert each.flops > 0
                assert each.seconds > 0
                assert (each.memory or 0) > each.weights > 0


def test_humaneval_takes_its_164_tasks_times_samples_times_steps() -> None:
    found = {each.label: each for each in plan(published("seed-table", "llada-8b-stated"), H100).evaluations}
    humaneval = found["humaneval"]
    assert humaneval.requests == 164 * 10
    assert humaneval.forward_passes == 164 * 10 * 128
    assert humaneval.batch == 64
    assert humaneval.weights == 2 * 8_015_581_184
    assert humaneval.keys_values == 0
    assert not humaneval.at_most
    # each pass reads a prompt of about 451 characters and its 128 masks; 2 N a token at least
    blocks = 8_015_581_184 - 2 * 126_464 * 4096
    assert humaneval.flops > 2 * blocks * humaneval.forward_passes * (100 + 128)
    assert humaneval.flops < 2 * 8_015_581_184 * humaneval.forward_passes * (200 + 128)


def test_published_sizes_are_what_the_benchmark_asks(manifest: Callable[..., Path]) -> None:
    variant = experiment(manifest()).variants[0]
    for index in range(2):
        told = requests_of(variant, index, ask=False)
        asked = requests_of(variant, index, ask=True)
        assert told is not None
        assert asked is not None
        at_most = [isinstance(each, PlannedLikelihoods) and each.at_most for each in told]
        counts = [(one.count, other.count) for one, other in zip(told, asked, strict=True)]
        assert all(
            real == said or (bound and real < said)
            for (said, real), bound in zip(counts, at_most, strict=True)
        )
        last, real_last = told[-1], asked[-1]
    assert isinstance(last, PlannedTexts)
    assert isinstance(real_last, PlannedTexts)
    assert last.length == real_last.length == 8
    assert last.left == pytest.approx(real_last.left, rel=0.5)


def test_a_file_of_problems_is_counted_itself(tmp_path: Path, manifest: Callable[..., Path]) -> None:
    problem = {"task_id": "T/0", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": " pass\n"}
    lines = [{**problem, "task_id": f"T/{number}", "test": "def check(f): pass"} for number in range(3)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    benchmark = {"name": "humaneval", "options": {"problems": "own.jsonl"}}
    variant = experiment(manifest(evaluate=[{"benchmark": benchmark, "samples_per_task": 2}])).variants[0]
    [found] = plan(variant, H100).evaluations
    assert (found.requests, found.forward_passes) == (6, 6 * 32)


class StrangersOptions(BenchmarkOptions):
    """Says nothing of what it asks."""


def test_what_nobody_can_know_is_unknown_and_in_no_sum(manifest: Callable[..., Path]) -> None:
    variant = experiment(manifest()).variants[0]
    registration: Registration[Benchmark] = Registration(
        "benchmarks", "mine", StrangersOptions, "json:loads", "mine", Provenance("stranger", "0.1")
    )
    own = replace(variant.plugins.evaluations[0], benchmark=ChosenPlugin(registration, StrangersOptions()))
    plugins = replace(variant.plugins, evaluations=(own, variant.plugins.evaluations[1]))
    found = plan_experiment([replace(variant, plugins=plugins)], H100)
    unknown, known = found.variants["default"].evaluations
    assert unknown.memory is None
    assert "--ask-benchmarks" in unknown.unknown
    assert found.total.unknown == ("default: perplexity",)
    training = found.variants["default"].training
    assert training is not None
    assert found.total.seconds == pytest.approx(training.seconds + known.seconds)


@pytest.mark.parametrize("answer", [["many"], None])
def test_a_benchmark_that_fails_to_say_is_named_and_the_others_are_planned(
    answer: list[str] | None, manifest: Callable[..., Path]
) -> None:
    class Failing(BenchmarkOptions):
        def planned_requests(self) -> Any:
            return answer or 1 // 0

    variant = experiment(manifest()).variants[0]
    registration: Registration[Benchmark] = Registration(
        "benchmarks", "mine", Failing, "json:loads", "mine", Provenance("stranger", "0.1")
    )
    own = replace(variant.plugins.evaluations[0], benchmark=ChosenPlugin(registration, Failing()))
    plugins = replace(variant.plugins, evaluations=(own, variant.plugins.evaluations[1]))
    first, second = plan(replace(variant, plugins=plugins), H100).evaluations
    assert "stranger" in first.unknown
    assert "planned_requests" in first.unknown
    assert second.requests == 12


def test_a_sampler_without_a_plan_is_unknown_not_free(
    manifest: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from opendllm.registries.samplers import Sampler, Selection, Step

    class Unsure(Sampler):
        plans = True

        def remaining_masks(self, masks: int, steps: int) -> list[int]:
            return [1]

        def select(self, step: Step) -> Selection:
            return Selection()

    monkeypatch.setattr(ChosenPlugin, "build", lambda _: Unsure())
    [_, infilling] = plan(experiment(manifest()).variants[0], H100).evaluations
    assert "remaining_masks gave 1 numbers" in infilling.unknown
    assert infilling.memory is None


def test_lm_eval_is_counted_when_it_is_asked(
    tmp_path: Path, printed: Callable[..., str], manifest: Callable[..., Path]
) -> None:
    (tmp_path / "tasks").mkdir()
    rows = [{"question": f"{n} + 1 =", "answer": f" {n + 1}"} for n in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "sums", "dataset_path": "json", "test_split": "test", "output_type": "loglikelihood",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (tmp_path / "tasks" / "sums.yaml").write_text(json.dumps(task))
    entry = {
        "benchmark": {"name": "lm-eval", "options": {"task": "sums", "folder": "tasks"}},
        "label": "sums",
    }
    path = manifest(evaluate=[entry])
    assert "sums: unknown, benchmark 'lm-eval' doesn't say what it asks: --ask-benchmarks" in printed(path)
    content = json.loads(printed(path, "--ask-benchmarks", "--json"))
    found = content["variants"]["default"]["evaluations"]["sums"]
    assert found["requests"] == 5
    # 16 draws; and whether the model would write it, a token a pass, as far as it goes
    assert found["at_most"]
    assert found["forward_passes"] == 5 * (16 + tokens_of(2, 320))


def test_a_grid_is_trained_once_and_its_likelihoods_are_estimated_once(
    printed: Callable[..., str], manifest: Callable[..., Path]
) -> None:
    generate = {"sampler": {"name": "low-confidence"}, "max_new_tokens": 32, "steps": {"grid": [8, 16, 32]}}
    path = manifest(variants={"llada": {"generate": generate}})
    content = json.loads(printed(path, "--json"))
    first, *others = content["variants"].values()
    assert [each["trained_in"] for each in others] == ["llada-steps-8"] * 2
    assert [each["training"] for each in others] == [None] * 2
    assert [each["evaluations"]["perplexity"]["answered_in"] for each in others] == ["llada-steps-8"] * 2
    passes = [each["evaluations"]["stdlib-infilling"]["forward_passes"] for each in (first, *others)]
    assert passes[0] <= passes[1] <= passes[2]
    infilling = [each["evaluations"]["stdlib-infilling"]["seconds"] for each in (first, *others)]
    once = first["training"]["seconds"] + first["evaluations"]["perplexity"]["seconds"] + sum(infilling)
    assert content["total"]["seconds"] == pytest.approx(once)
    assert content["total"]["disk"] == first["training"]["checkpoint"]
    output = printed(path)
    assert output.count("trained in llada-steps-8") == 2
    assert output.count("perplexity: answered in llada-steps-8") == 2


def test_without_a_gpu_it_says_what_this_machine_takes(
    printed: Callable[..., str], manifest: Callable[..., Path]
) -> None:
    output = printed(manifest())
    assert "device: H100, assumed" in output
    assert "GFLOP/s of float32 matrix products" in output
    assert output.count("on one H100") == 4
    assert output.count("s on this machine") == 4
    assert "1 devices" not in output
    content = json.loads(printed(manifest(), "--json"))
    here = content["variants"]["default"]["on_this_machine"]
    assert here["fits"] is True
    assert here["training_seconds"] > 0
    assert all(seconds > 0 for seconds in here["evaluation_seconds"].values())
    assert content["total"]["on_this_machine"]["seconds"] > content["total"]["seconds"]


def test_a_gpu_of_this_machine_is_planned_for_known_or_not(
    printed: Callable[..., str], manifest: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_gpu(name: str) -> None:
        monkeypatch.setattr("opendllm.core.cli.plan_command.gpus_here", lambda: [Gpu(name, 20 * GIB, "1")])

    with_gpu("NVIDIA H200")
    known = printed(manifest())
    assert "device: H200, as in this machine; this machine: 1 x NVIDIA H200 (20 GiB)" in known
    assert "on one H200" in known
    assert "on this machine" not in known
    with_gpu("Some 9090")
    unknown = printed(REPOSITORY / "experiments" / "llada2-evaluation.yaml")
    assert "device: Some 9090, as fast as an H100, for all that is known" in unknown
    assert "more than the 20.0 GiB of an Some 9090" not in unknown
    assert "more than the 20.0 GiB of one Some 9090" in unknown
    assert "on this machine" in printed(manifest(device="cpu"))


def test_what_this_machine_cannot_hold_is_not_timed_on_it(
    printed: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "opendllm.core.cli.plan_command.this_cpu",
        lambda: Device("2 CPU cores", {"bf16": 1e11, "fp32": 1e11}, 1e10, 8 * GIB, is_gpu=False),
    )
    output = printed(REPOSITORY / "experiments" / "llada-8b-evaluation.yaml")
    assert output.count("not on this machine: ") == 3
    assert "of its 8 GiB" in output
    assert "about" not in output.split("total")[1]


def test_the_cpu_is_measured() -> None:
    found = this_cpu()
    assert found.operations["fp32"] > 1e8
    assert found.bandwidth > 1e7
    assert found.memory > GIB / 2
    assert (found.is_gpu, found.kind) == (False, "cpu")


def test_flash_does_not_fit_one_h100_and_fits_three() -> None:
    variant = published("llada2-evaluation", "llada2.0-flash")
    entries = [entry.model_copy(update={"batch_size": 32}) for entry in variant.manifest.evaluate]
    variant = replace(variant, manifest=variant.manifest.model_copy(update={"evaluate": tuple(entries)}))
    found = plan(variant, H100)
    [line] = advice(variant, found, H100)
    assert found.evaluations[0].weights == 2 * 102_889_697_280
    assert "more than the 79.0 GiB of one H100" in line
    assert "device_map: auto over 3 x H100" in line
    assert "load_in_8bit" not in line  # half of 206 GB is still too much
    spread = replace(
        variant.plugins.backbone,
        options=variant.plugins.backbone.options.model_copy(update={"device_map": "auto"}),
    )
    changed = replace(variant, plugins=replace(variant.plugins, own_backbone=spread))
    three = Hardware(3)
    several = plan(changed, three)
    assert max(each.memory or 0 for each in several.evaluations) < 79 * GIB
    assert advice(changed, several, three) == []
    # the layers are on different devices, so that more of them make it no faster
    assert several.evaluations[0].seconds == pytest.approx(found.evaluations[0].seconds)
    alone = advice(changed, plan(changed, H100), H100)
    assert "device_map: auto over 3 x H100" in alone[0]


def test_a_mini_fits_and_eight_devices_share_its_problems() -> None:
    variant = published("llada2-evaluation", "llada2.0-mini")
    one, eight = plan(variant, H100), plan(variant, Hardware(8))
    assert advice(variant, one, H100) == []
    assert one.evaluations[0].weights == eight.evaluations[0].weights
    assert eight.evaluations[0].seconds < one.evaluations[0].seconds


def test_an_automatic_batch_is_what_fits_the_device() -> None:
    variant = published("sdar-evaluation", "sdar-8b")
    assert {entry.batch_size for entry in variant.manifest.evaluate} == {"auto"}
    small = Hardware(1, replace(H100.device, memory=24 * GIB))
    large, fewer = plan(variant, H100).evaluations[0], plan(variant, small).evaluations[0]
    assert large.batch == 64
    assert 1 < fewer.batch < 64
    assert (fewer.memory or 0) <= 24 * GIB
    cpu = Device("CPU", {"fp32": 1e11, "bf16": 1e11}, 1e10, 64 * GIB, is_gpu=False)
    assert plan(variant, Hardware(1, cpu)).evaluations[0].batch == 32


def test_a_batch_that_is_too_large_is_told_one_that_fits() -> None:
    variant = published("sdar-evaluation", "sdar-8b")
    entries = [entry.model_copy(update={"batch_size": 512}) for entry in variant.manifest.evaluate]
    large = replace(variant, manifest=variant.manifest.model_copy(update={"evaluate": tuple(entries)}))
    [line] = advice(large, plan(large, H100), H100)
    batch = int(line.rpartition("batch_size: ")[2].split()[0])
    fits = [entry.model_copy(update={"batch_size": batch}) for entry in variant.manifest.evaluate]
    smaller = replace(variant, manifest=variant.manifest.model_copy(update={"evaluate": tuple(fits)}))
    assert 32 <= batch < 512
    assert advice(smaller, plan(smaller, H100), H100) == []


def test_a_training_that_is_too_large_is_told_options_that_make_it_fit(
    printed: Callable[..., str],
) -> None:
    path = REPOSITORY / "experiments" / "block-conversion.yaml"
    whole = ["--set", "train.activation_checkpointing=false"]
    enough = [*whole, "--set", "train.micro_batch_size=1"]
    tight = [*whole, "--set", "train.micro_batch_size=8", "--set", "data.sequence_length=8192"]
    assert "too large" in printed(path, *tight)
    line = next(each for each in printed(path, *tight).splitlines() if "too large   " in each)
    assert "with micro_batch_size: 1" in line
    assert "activation_checkpointing: true" in printed(path, *enough, "--set", "data.sequence_length=32768")
    large = printed(
        REPOSITORY / "experiments" / "open-dcoder-0.5b-pretraining.yaml",
        "--set", "model.backbone={name: dream, options: {pretrained: a/b, preset: 7b}}",
        "--set", "train.objective={name: dream}", "--set", "train.precision=fp32", "--devices", "8",
        "--set", "train.master_weights=true", "--set", "train.deepspeed.zero_optimization.stage=0",
    )  # fmt: skip
    assert "with micro_batch_size: 1, ZeRO stage 1, ZeRO stage 2" in large


def test_a_published_checkpoint_is_downloaded_once(printed: Callable[..., str]) -> None:
    content = json.loads(printed(REPOSITORY / "experiments" / "seed-table.yaml", "--json"))
    downloads = [each["download"] for each in content["variants"].values()]
    assert downloads[0] == downloads[1] == {"fredzzp/open-dcoder-0.5B": 2 * 494_032_768}
    distinct = {name: bytes_ for each in downloads for name, bytes_ in each.items()}
    assert content["total"]["download"] == sum(distinct.values())


def test_text_and_json_hold_the_same(printed: Callable[..., str], manifest: Callable[..., Path]) -> None:
    text, content = printed(manifest()), json.loads(printed(manifest(), "--json"))
    found = content["variants"]["default"]
    for each in found["evaluations"].values():
        assert f"{each['forward_passes']:,} forward passes of a row, {each['flops']:.3g} operations" in text
        assert f"{duration(each['seconds'])} on one H100" in text
    most = max(found["evaluations"].values(), key=lambda each: each["memory"])
    assert f"keys and values {size(most['keys_values'])}, logits {size(most['logits'])}" in text
    assert f"{size(content['total']['disk'])} of checkpoints" in text


def test_perplexity_without_data_is_unknown_where_only_the_checkpoint_says_how_long() -> None:
    variant = published("llada-8b-evaluation", "default")
    without = replace(variant, manifest=variant.manifest.model_copy(update={"data": None}))
    assert "data.sequence_length" in plan(without, H100).evaluations[0].unknown


@pytest.mark.parametrize(("number", "said"), [(1, "1 GPU"), (0, "0 GPUs"), (1200, "1,200 GPUs")])
def test_one_is_no_plural(number: int, said: str) -> None:
    assert counted(number, "GPU") == said


def test_every_known_device_has_all_figures() -> None:
    for device in KNOWN.values():
        assert set(device.operations) == {"fp32", "bf16"}
        assert device.bandwidth > 5e11
        assert 40 * GIB < device.memory < 150 * GIB


@pytest.mark.parametrize(
    ("asked", "kind"), [(PlannedTexts(1, 2.0), PlannedTexts), (PlannedLikelihoods(1), PlannedLikelihoods)]
)
def test_a_strangers_benchmark_can_say_what_it_asks(
    asked: PlannedTexts | PlannedLikelihoods, kind: type, manifest: Callable[..., Path]
) -> None:
    class Telling(BenchmarkOptions):
        def planned_requests(self) -> Sequence[PlannedTexts | PlannedLikelihoods]:
            return [asked]

    variant = experiment(manifest(evaluate=SMALL["evaluate"][:1])).variants[0]
    registration: Registration[Benchmark] = Registration(
        "benchmarks", "mine", Telling, "json:loads", "mine", Provenance("stranger", "0.1")
    )
    own = replace(variant.plugins.evaluations[0], benchmark=ChosenPlugin(registration, Telling()))
    found = plan(replace(variant, plugins=replace(variant.plugins, evaluations=(own,))), H100)
    assert found.evaluations[0].requests == 1
    assert found.evaluations[0].forward_passes == (32 if kind is PlannedTexts else 16)

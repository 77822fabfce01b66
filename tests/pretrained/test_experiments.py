"""Whole experiments on pretrained folders, through the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from opendllm.core import load
from opendllm.core.cli.main import main

from .conftest import Platform, Stock, edit_config, one_line, train_tokenizer

CORPUS = {"name": "text-files", "options": {"train": "corpus/train*.py", "held_out": "corpus/held*.py"}}
PRETRAINED = {"backbone": {"name": "causal-lm", "options": {"pretrained": "given", "pad_vocabulary_to": 8}}}
BLOCKS: dict[str, Any] = {
    "backbone": {"name": "llada", "options": {"attention": "block-causal", "block_length": 8}}
}
PERPLEXITY = {"benchmark": {"name": "perplexity"}, "likelihood_draws": 1}
INFILLING = {"benchmark": {"name": "stdlib-infilling", "options": {"fixed_lengths": [4]}}}
BASE: dict[str, Any] = {
    "name": "tiny",
    "device": "cpu",
    "model": PRETRAINED,
    "data": {"corpus": CORPUS, "sequence_length": 32},
    "train": {
        "objective": {"name": "mdlm"},
        "steps": 2,
        "global_batch_size": 2,
        "held_out": {"rows": 2, "draws": 1},
    },
    "generate": {"steps": 2, "max_new_tokens": 4},
    "evaluate": [PERPLEXITY, {**PERPLEXITY, "label": "by-chance", "likelihood_estimator": "mdlm"}, INFILLING],
}
VARIANTS = {
    "continued": {},
    "blocks": {
        "model": {"backbone": {**BLOCKS["backbone"], "options": {**BLOCKS["backbone"]["options"],
                                                                 "pretrained": None,
                                                                 "pad_vocabulary_to": None}}},
        "data": {"tokenizer": {"train": {"vocab_size": 300}}},
        "train": {"objective": {"name": "bd3lm"}},
    },
}  # fmt: skip


def write(folder: Path, **changes: Any) -> Path:
    """tiny.yaml; None removes a section."""
    content = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    with (folder / "tiny.yaml").open("w") as file:
        YAML().dump(json.loads(json.dumps(content)), file)
    return folder


@pytest.fixture(scope="module")
def here(stock: Stock, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus and a tiny autoregressive checkpoint whose config.json names another EOS."""
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "corpus").mkdir()
    for name in ("train_1", "train_2", "held_1", "held_2"):
        lines = [f"def {name}_{n}(a, b={n}):\n    return a + b * {n}\n" for n in range(9)]
        (folder / "corpus" / f"{name}.py").write_text("\n".join(lines))
    stock(folder / "given", tie_word_embeddings=True, vocab_size=290)
    train_tokenizer(folder / "given")
    edit_config(folder / "given", eos_token_id=[3, 0])
    return folder


@pytest.fixture(scope="module")
def trained(here: Path, platform: Platform) -> Path:
    """The run of both variants."""
    write(here, variants=VARIANTS)
    result = platform("run", "tiny.yaml", "--limit", "2", cwd=here)
    assert result.returncode == 0, result.stderr
    return here / "runs" / "tiny"


def metrics(variant: Path, label: str) -> dict[str, float]:
    result = json.loads((variant / "results" / f"{label}.json").read_text())
    return {name: metric["value"] for name, metric in result["metrics"].items()}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_steps_are_trained_and_evaluated(trained: Path, variant: str) -> None:
    lines = [json.loads(line) for line in (trained / variant / "train.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    for label in ("perplexity", "by-chance"):
        assert 1 < metrics(trained / variant, label)["perplexity"] < 10**6
    assert 0 <= metrics(trained / variant, "stdlib-infilling")["token_accuracy_oracle"] <= 1
    assert metrics(trained / variant, "perplexity") != metrics(trained / variant, "by-chance")


@pytest.mark.slow
def test_continued_pretraining_brings_a_mask_token_and_the_tokenizers_eos(trained: Path, here: Path) -> None:
    model = load(trained / "continued", device="cpu")
    assert model.tokenizer is not None
    assert (len(model.tokenizer), model.tokenizer.mask_token_id, model.lm.mask_token_id) == (291, 290, 290)
    assert model.lm.vocab_size == 296
    assert model.lm.eos_token_id == model.tokenizer.eos_token_id == 0
    assert (model.lm.logit_shift, model.lm.attention.kind) == (True, "bidirectional")
    before = load(here / "given", backbone="causal-lm", mask_token_id=3, device="cpu").lm.module.state_dict()
    after = model.lm.module.state_dict()
    norm = "network.model.norm.weight"
    assert 0 < (after[norm] - before[norm]).abs().max() < 0.01  # it started where the checkpoint was


@pytest.mark.slow
def test_block_diffusion_keeps_its_blocks(trained: Path) -> None:
    lm = load(trained / "blocks", device="cpu").lm
    assert (lm.attention.kind, lm.attention.block_length) == ("block-causal", 8)


@pytest.mark.slow
def test_a_pretrained_folder_is_evaluated_as_it_is(
    here: Path, tmp_path: Path, platform: Platform, run_here: Callable[[Path], str]
) -> None:
    (tmp_path / "given").symlink_to(here / "given")
    edit = {"evaluate": [INFILLING, PERPLEXITY], "train": None, "data": None}
    write(tmp_path, **edit)
    assert "names a mask token: give mask_token_id" in run_here(tmp_path)
    model = {"backbone": {"name": "llada", "options": {"pretrained": "model"}}}
    ready = build_llada(tmp_path / "model")
    write(tmp_path, **edit, model=model)
    result = platform("run", "tiny.yaml", "--limit", "2", cwd=tmp_path)
    assert "this benchmark reads held-out documents: give the manifest a `data` section" in one_line(result)
    variant = tmp_path / "runs" / "tiny" / "default"
    assert metrics(variant, "stdlib-infilling")
    assert not (variant / "checkpoints").exists()
    assert ready == sorted(path.name for path in (tmp_path / "model").iterdir())


def build_llada(folder: Path) -> list[str]:
    from opendllm.core.data.tokenizers import load_tokenizer
    from opendllm.registries.backbones import Vocabulary
    from opendllm.registries.discovery import installed_plugins

    folder.mkdir()
    train_tokenizer(folder)
    load_tokenizer(str(folder)).save_pretrained(folder)
    lm = installed_plugins().backbones.get("llada").build().build(Vocabulary(291, 290, 0))
    lm.save(folder, lm.module.state_dict())
    return sorted(path.name for path in folder.iterdir())


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"model": {"backbone": {"name": "llada"}}, "data": None}, "tiny.yaml:1:1: data: is missing"),
    ({"data": None}, "data: is missing"),
    ({"model": {"backbone": {"name": "llada"}}}, "data.tokenizer: is missing"),
    ({"model": BLOCKS}, "'mdlm' trains bidirectional models, and the backbone's attention is block-causal"),
    ({"train": {**BASE["train"], "objective": {"name": "bd3lm"}}}, "'bd3lm' trains block-causal models"),
    (
        {"model": {"backbone": {"name": "llada", "options": {"attention": "block-causal"}}}},
        "`attention: block-causal` and `block_length` go together",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), MISTAKES)
def test_a_manifest_that_cannot_run_is_refused(
    tmp_path: Path, refused: Callable[[Path], str], changes: dict[str, Any], expected: str
) -> None:
    assert expected in refused(write(tmp_path, **changes) / "tiny.yaml")


@pytest.fixture
def refused() -> Callable[[Path], str]:
    from opendllm.core.manifest.checks import ManifestError
    from opendllm.core.manifest.experiment_manifest import read_experiment
    from opendllm.registries.discovery import installed_plugins

    def run(path: Path) -> str:
        with pytest.raises(ManifestError) as caught:
            read_experiment(path, [], installed_plugins())
        return str(caught.value)

    return run


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], str]:
    """Run the manifest of a folder in this process; what it was refused with."""

    def run(folder: Path) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.argv", ["platform", "run", "tiny.yaml"])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return str(line)

    return run


@pytest.mark.slow
def test_a_shifted_family_can_be_block_causal(here: Path, platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "corpus").symlink_to(here / "corpus")
    options = BLOCKS["backbone"]["options"]
    write(
        tmp_path,
        model={"backbone": {"name": "open-dcoder", "options": options}},
        data={**BASE["data"], "tokenizer": {"train": {"vocab_size": 300}}},
        train={**BASE["train"], "objective": {"name": "bd3lm"}},
        evaluate=[INFILLING],
    )
    result = platform("run", "tiny.yaml", "--limit", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lm = load(tmp_path / "runs" / "tiny" / "default", device="cpu").lm
    assert (lm.logit_shift, lm.attention.kind, lm.attention.block_length) == (True, "block-causal", 8)

"""What a checkpoint's folder says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from opendllm.core.checkpoints.files import model_folder, provenance_of, steps_wanted
from opendllm.registries.errors import UserError


@pytest.mark.parametrize("content", [None, "{", "[1]", "\udc80"], ids=["missing", "cut", "list", "no UTF-8"])
def test_a_provenance_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "provenance.json"
    if content is not None:
        path.write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError, match=f"^{path} [^\n]+$"):
        provenance_of(tmp_path)
    assert steps_wanted(tmp_path) == 0


def test_one_with_letters_of_any_alphabet_is_read(tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_bytes('{"manifest": {"name": "ü", "train": {"steps": 7}}}'.encode())
    assert provenance_of(tmp_path)["manifest"]["name"] == "ü"
    assert steps_wanted(tmp_path) == 7


def test_a_file_and_a_folder_of_runs_are_told_from_a_model_that_is_incomplete(tmp_path: Path) -> None:
    variant = tmp_path / "runs" / "first" / "llada"
    variant.mkdir(parents=True)
    (variant / "variant.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.touch()
    with pytest.raises(UserError, match=f"is a file: give its folder, {tmp_path}$"):
        model_folder(weights)
    with pytest.raises(UserError, match=f"holds whole runs: name a variant of one, as in {variant}$"):
        model_folder(tmp_path / "runs")
    with pytest.raises(UserError, match=f"is a whole run: name one of its variants, as in {variant}$"):
        model_folder(tmp_path / "runs" / "first")


@pytest.mark.parametrize("beside_weights", [True, False])
def test_adapters_are_never_left_out_without_a_word(beside_weights: bool, tmp_path: Path) -> None:
    """transformers reads them with the model that lies beside them: that one alone is another model."""
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "GSAI-ML/LLaDA-8B-Base"}')
    (tmp_path / "adapter_model.safetensors").touch()
    if beside_weights:
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"adapters \(LoRA\) of GSAI-ML/LLaDA-8B-Base.* merge them"):
        model_folder(tmp_path)


def test_a_runs_own_adapters_lie_beside_the_model_that_has_them(tmp_path: Path) -> None:
    for name in ("model/config.json", "adapter/adapter_config.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
    assert model_folder(tmp_path) == tmp_path / "model"
    with pytest.raises(UserError, match=f"adapters alone: give {tmp_path},"):
        model_folder(tmp_path / "adapter")

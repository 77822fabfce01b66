"""What pytest brings for plugin authors, and what a model says to somebody who holds it wrongly."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
import torch

from opendllm.core.language_model import LanguageModel
from opendllm.core.testing.tiny_model import byte_tokenizer, tiny_language_model
from opendllm.registries.deprecations import DeprecatedWarning, warn_deprecated
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import AttentionPattern

AUTHORS_TEST = """
def test_fixtures(tiny_model, tiny_tokenizer, table_lm):
    [text] = tiny_model.generate(["ab"], max_new_tokens=4)
    assert isinstance(text, str)
    assert tiny_tokenizer.decode(tiny_tokenizer("é x").input_ids) == "é x"
    assert table_lm.vocab_size == 12
"""


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny_language_model()


def test_fixtures_come_with_a_light_import(tmp_path: Path, repository: Path) -> None:
    """pytest loads the plugin in every project: nothing heavy before a fixture is asked for."""
    entry_points = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["entry-points"]
    module = entry_points["pytest11"]["opendllm"]
    heavy = (
        f"import {module}, sys; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    (tmp_path / "test_mine.py").write_text(AUTHORS_TEST)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", module, "-p", "no:cacheprovider", "-c", "/dev/null"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # installed, it would come twice
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout


def test_the_tokenizer_gives_every_text_back() -> None:
    text = "def f(x):\n\treturn 'é' + \"日本\"  # 🙂\x00"
    tokenizer = byte_tokenizer()
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_tiny_model_is_the_same_every_time(model: LanguageModel) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = tiny_language_model()
    assert torch.equal(torch.get_rng_state(), state)
    ids = torch.tensor([[2, 3, 4]])
    assert torch.equal(model.logits(ids), again.logits(ids))


def test_a_model_says_what_it_is(model: LanguageModel) -> None:
    said = repr(model)
    assert said.startswith("LanguageModel(TransformersLM, ")
    assert "bidirectional attention, vocab_size=258, " in said
    assert said.endswith("default_sampler='ancestral')")


@pytest.mark.parametrize("given", [[1, 2], [[1, 2]], "text", None])
def test_token_ids_that_are_no_tensor_are_refused(model: LanguageModel, given: object) -> None:
    with pytest.raises(UserError, match="input_ids is a torch tensor, int64") as caught:
        model.logits(given)  # type: ignore[arg-type]
    assert f"a {type(given).__name__} was given: write torch.tensor([[1, 2]])" in str(caught.value)


def test_how_much_is_infilled_goes_by_one_name(model: LanguageModel) -> None:
    gaps = [("a", "b")]
    wanted = model.infill(gaps, max_new_tokens=3)
    assert model.infill(gaps, 3) == wanted
    warn_deprecated.cache_clear()
    with pytest.warns(DeprecatedWarning, match="middle_tokens is deprecated: write infill"):
        assert model.infill(gaps, middle_tokens=3) == wanted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.infill(gaps, middle_tokens=3) == wanted
    with pytest.raises(UserError, match="give it once, as max_new_tokens"):
        model.infill(gaps, 3, middle_tokens=3)
    with pytest.raises(UserError, match="max_new_tokens is 0: write at least one token"):
        model.infill(gaps, 0)
    with pytest.raises(UserError, match=r"gap 1 is 'x': give \(prefix, suffix\) of each"):
        model.infill([*gaps, "x"], 3)  # type: ignore[list-item]


def test_a_causal_model_reads_no_suffix(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_language_model()
    monkeypatch.setattr(model.lm, "attention", AttentionPattern("causal"))
    with pytest.raises(UserError, match="writes from left to right and reads no suffix: leave it out"):
        model.infill([("a", "b")], 3)

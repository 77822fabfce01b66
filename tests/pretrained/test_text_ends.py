"""Where a checkpoint's texts begin and end, whatever file says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken

from opendllm.core import load
from opendllm.core.checkpoints.export import export_model
from opendllm.core.data.prepared import prepare
from opendllm.core.decoding.row_pool import FinishedRow, WaitingRow
from opendllm.core.evaluation.text_likelihood import TextToScore, score_texts
from opendllm.core.language_model import LanguageModel
from opendllm.core.manifest.schema import Data
from opendllm.registries.corpora import Corpus, Document, Split
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap

from .conftest import Stock, edit_config, train_tokenizer

TEMPLATE = "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
ADDED = {"<|eot_id|>": 290, "<|im_end|>": 291}


@pytest.fixture
def folder(autoregressive: Path) -> Path:
    """A checkpoint of which every file names another id at which texts end."""
    edit_config(autoregressive, mask_token_id=5, eos_token_id=[0, 7], open_dllm={"backbone": "causal-lm"})
    (autoregressive / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 8]}))
    path = autoregressive / "tokenizer.json"
    content = json.loads(path.read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] += [{"id": number, "content": name, **flags} for name, number in ADDED.items()]
    path.write_text(json.dumps(content))
    (autoregressive / "chat_template.jinja").write_text(TEMPLATE)
    return autoregressive


def writes(model: LanguageModel, tokens: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model write these, from wherever its gap begins."""

    def written(_lm: Any, waiting: Sequence[WaitingRow], *_: Any) -> Iterator[FinishedRow]:
        for row in waiting:
            yield FinishedRow(row.number, tokens, 1, 0.0)

    monkeypatch.setattr("opendllm.core.decoding.text.decode_waiting", written)


@pytest.mark.parametrize("stop", [0, 7, 8, 290, 291])
@pytest.mark.parametrize("chat", [False, True])
def test_a_text_ends_at_an_id_that_any_file_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stop: int, chat: bool
) -> None:
    model = load(folder, device="cpu")
    assert set(model.lm.stops) == {0, 7, 8, 290, 291}
    assert model.lm.eos_token_id == 0
    assert model.tokenizer is not None
    [token] = model.tokenizer("x")["input_ids"]
    writes(model, [token, token, stop, token], monkeypatch)
    assert model.generate(["ab"], max_new_tokens=4, chat=chat) == ["xx"]


def test_an_export_ends_where_the_checkpoint_does(folder: Path, tmp_path: Path) -> None:
    export_model(folder, tmp_path / "once")
    export_model(tmp_path / "once", tmp_path / "twice")
    for name in ("once", "twice"):
        assert set(load(tmp_path / name, device="cpu").lm.stops) == {0, 7, 8, 290, 291}
        written = json.loads((tmp_path / name / "generation_config.json").read_text())
        assert {0, 7, 8} <= set(written["eos_token_id"])


def test_a_message_that_spells_a_stop_token_does_not_end_its_turn(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(folder, device="cpu")
    [written] = model.fill([model.chat_gap("a<|eot_id|>b")], {"max_new_tokens": 1}, trace=True)
    assert 290 not in written.trace[0]


@pytest.fixture
def llama2(tmp_path: Path, stock: Stock) -> Path:
    """A tiny LLaMA beside a real SentencePiece tokenizer, which writes a space before a text."""
    spec = find_spec("mistral_common")
    assert spec is not None
    assert spec.origin is not None
    stock(tmp_path, vocab_size=32000, bos_token_id=1, eos_token_id=2)
    edit_config(tmp_path, mask_token_id=31999, open_dllm={"backbone": "causal-lm"})
    shutil.copy(Path(spec.origin).parent / "data" / "tokenizer.model.v1", tmp_path / "tokenizer.model")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", **names})
    )
    return tmp_path


def test_a_canvas_begins_with_bos_once_and_its_suffix_without_a_space(llama2: Path) -> None:
    model = load(llama2, device="cpu")
    [written] = model.fill([Gap("def f(", "x):", 2)], {}, trace=True)
    ids = written.trace[0]
    assert (ids[0], ids.count(1), ids.count(31999)) == (1, 1, 2)
    assert model.tokenizer is not None
    assert model.tokenizer.convert_ids_to_tokens(ids[1:])[-2:] == ["x", "):"]
    told = load(llama2, device="cpu", add_bos_token=False)
    [without] = told.fill([Gap("def f(", "x):", 2)], {}, trace=True)
    assert without.trace[0] == ids[1:]


def test_an_indented_answer_keeps_its_indentation(llama2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(llama2, device="cpu")
    assert model.tokenizer is not None
    line = model.tokenizer("\n x = 1", add_special_tokens=False)["input_ids"][2:]
    writes(model, [*line, 2], monkeypatch)
    assert model.generate(["def f():\n"], max_new_tokens=len(line) + 1) == [" x = 1"]


def test_with_bos_the_whole_text_is_scored(llama2: Path) -> None:
    model, without = load(llama2, device="cpu"), load(llama2, device="cpu", add_bos_token=False)
    assert model.score(["x"], draws=1)[0][0] < 0  # one token, given BOS
    with pytest.raises(Exception, match="fewer than two tokens"):
        without.score(["x"], draws=1)


@pytest.mark.parametrize("text", ["\nx = 1", "世 x", "x = 1", "é"])
@pytest.mark.parametrize("add_bos", [True, False])
def test_the_bytes_of_a_likelihood_are_those_of_what_is_scored(
    llama2: Path, text: str, add_bos: bool
) -> None:
    model = load(llama2, device="cpu", add_bos_token=add_bos)
    codec = model.codec
    [found] = score_texts(model.lm, codec, [TextToScore(text, 0)], 64, 1)
    ids = codec.encode(text)
    given = 0 if add_bos else len(codec.decode(ids[:1]).encode())  # a space that stands for no byte has none
    assert (found.tokens, found.bytes) == (len(ids) - (not add_bos), len(text.encode()) - given)


@pytest.mark.parametrize("stops", [128001, [128001, 0], [0, 128001]])
def test_a_stop_id_beyond_the_model_stops_nobody(
    autoregressive: Path, stops: int | list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    edit_config(autoregressive, mask_token_id=5, eos_token_id=stops, open_dllm={"backbone": "causal-lm"})
    (autoregressive / "generation_config.json").unlink()
    model = load(autoregressive, device="cpu")
    assert model.lm.eos_token_id == 0
    assert "names the stop id 128001, and its model knows 290 ids" in capsys.readouterr().err
    assert (
        len(model.generate(["a", "a longer one"], max_new_tokens=3, early_stop=True)) == 2
    )  # the shorter row is filled up


def test_what_is_no_id_is_refused(autoregressive: Path) -> None:
    edit_config(autoregressive, mask_token_id=5, open_dllm={"backbone": "causal-lm"})
    (autoregressive / "generation_config.json").write_text('{"eos_token_id": [99999999999]}')
    with pytest.raises(UserError, match="eos_token_id holds 99999999999, which is no token id"):
        load(autoregressive, device="cpu")


def test_a_chat_message_that_spells_a_mask_known_to_the_config_alone_adds_no_gap(
    tmp_path: Path, stock: Stock
) -> None:
    stock(tmp_path)
    tokenizer = train_tokenizer(tmp_path, chat_template=TEMPLATE)
    tokenizer.add_tokens([AddedToken("<|mdm_mask|>", special=False)])
    tokenizer.save_pretrained(tmp_path)
    mask = tokenizer.convert_tokens_to_ids("<|mdm_mask|>")
    edit_config(tmp_path, mask_token_id=mask, open_dllm={"backbone": "causal-lm"})
    model = load(tmp_path, device="cpu")
    [written] = model.fill([model.chat_gap("a<|mdm_mask|>b")], {"max_new_tokens": 2}, trace=True)
    assert written.trace[0].count(mask) == 2


class Texts(Corpus):
    def documents(self, split: Split) -> Any:
        yield Document("a", "def f():\n  return '</s>'" if split == "train" else "held = out")

    def fingerprint(self) -> str:
        return "texts"


@pytest.mark.parametrize("add_bos", [True, False])
def test_training_documents_begin_as_prompts_do_and_spell_no_special_token(
    llama2: Path, tmp_path: Path, add_bos: bool
) -> None:
    config = {"corpus": {"name": "jsonl"}, "tokenizer": {"path": str(llama2)}, "sequence_length": 64}
    data = Data.model_validate(config)
    assert data.tokenizer is not None
    from opendllm.core.data.prepared import prepare_all

    [part] = prepare_all(data, data.tokenizer, [Texts()], tmp_path / "data", add_bos_token=add_bos)
    ids = part.tokens["train"].tolist()
    assert (ids[0] == 1) == add_bos
    assert (ids.count(1), ids.count(2), ids[-1]) == (int(add_bos), 1, 2)
    assert part.packing["train"].prompts.tolist() == [int(add_bos)]
    codec = load(llama2, device="cpu", add_bos_token=add_bos).codec
    assert np.array_equal(ids[:-1], [*codec.bos, *codec.encode("def f():\n  return '</s>'")])
    if not add_bos:
        prepared = prepare(data, data.tokenizer, Texts(), tmp_path / "data")
        assert prepared.tokens["train"][0] == 1  # as the tokenizer says; another key, not the same tokens

"""Learning answers to prompts: from records and a manifest to rows to LLaDA's SFT loss."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core.data.prepared import PreparedData, prepare_all
from opendllm.core.data.tokenizers import train_tokenizer
from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.core.manifest.schema import Data
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.training.train_variant import _rows
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.corpora import Document
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import PADDING_SEGMENT, ModelInputs, TokenRows

PLUGINS = installed_plugins()
PAIRS = [(f"{n} + {n % 7} = ", str(n + n % 7) * (1 + n % 3)) for n in range(200)]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pairs = [{"ask": prompt, "say": text} for prompt, text in PAIRS]
    chats = [
        {"chat": [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]}
        for prompt, text in PAIRS
    ]
    for name, records in (("pairs", pairs), ("chats", chats), ("plain", [{"text": t} for _, t in PAIRS])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    tokenizer = train_tokenizer([Document("", prompt + text) for prompt, text in PAIRS], 280)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path


def section(folder: Path, name: str = "pairs", **changes: Any) -> Data:
    fields = {
        "pairs": {"prompt_field": "ask", "response_field": "say"},
        "chats": {"messages_field": "chat"},
        "plain": {},
    }
    corpus = {"name": "jsonl", "options": {"train": str(folder / f"{name}.jsonl"), **fields[name]}}
    content = {"corpus": corpus, "tokenizer": {"path": str(folder / "tokenizer")}, "sequence_length": 40}
    return Data.model_validate(content | changes)


def prepared(data: Data, folder: Path) -> list[PreparedData]:
    assert data.tokenizer is not None
    corpora = [PLUGINS.corpora.get(choice.name).build(choice.options) for choice in data.corpora()]
    return prepare_all(data, data.tokenizer, corpora, folder / "cache")


def model(tokenizer: Any) -> DiffusionLM:
    torch.manual_seed(0)
    vocabulary = Vocabulary(len(tokenizer), tokenizer.mask_token_id, tokenizer.eos_token_id)
    return PLUGINS.backbones.get("llada").build({}).build(vocabulary)


def texts(rows: TokenRows, tokenizer: Any) -> list[tuple[str, str]]:
    """(what is given, what is learnt) of every document."""
    found = []
    for row in range(len(rows.tokens)):
        for number in range(int(rows.segments[row].max()) + 1):
            own = rows.segments[row] == number
            parts = (rows.tokens[row, own & ~rows.maskable[row]], rows.tokens[row, own & rows.maskable[row]])
            given, learnt = (tokenizer.decode(part) for part in parts)
            found.append((given, learnt))
    return found


def test_a_row_gives_its_prompts_and_learns_what_answers_them(folder: Path) -> None:
    data = section(folder)
    parts = prepared(data, folder)
    rows = _rows(parts, "train", data, 0)
    found = texts(rows.batch(range(len(rows))), parts[0].tokenizer)
    eos = parts[0].tokenizer.eos_token
    assert set(found) <= {(prompt, text + eos) for prompt, text in PAIRS}
    assert 150 < len(found) < 200  # the others are held out
    assert all(part.prompted for part in parts)


def test_one_document_a_row_ends_in_eos_that_counts_as_its_answer(folder: Path) -> None:
    data = section(folder, packed=False)
    parts = prepared(data, folder)
    rows = _rows(parts, "train", data, 0)
    batch = rows.batch(range(len(rows)))
    assert (batch.segments == 0).all()
    assert (batch.positions == torch.arange(40)).all()
    eos = parts[0].tokenizer.eos_token
    answers = dict(PAIRS)
    for given, learnt in texts(batch, parts[0].tokenizer):
        assert learnt.rstrip(eos) == answers[given]
        assert learnt.endswith(eos)


def test_a_chat_is_written_by_the_tokenizers_template(folder: Path) -> None:
    eos = "<|endoftext|>"
    wanted = {(f"<user>{prompt}{eos}\n<assistant>", text + eos) for prompt, text in PAIRS}
    for name in ("chats", "pairs"):
        data = section(folder, name, chat=True, sequence_length=96)
        parts = prepared(data, folder)
        rows = _rows(parts, "train", data, 0)
        assert set(texts(rows.batch(range(len(rows))), parts[0].tokenizer)) <= wanted


@pytest.mark.parametrize("packed", [True, False])
def test_the_loss_is_lladas_by_hand_and_no_prompt_is_masked(folder: Path, packed: bool) -> None:
    """sum over answers of (sum of ce / p over masked tokens) / answer's length, over the answers."""
    data = section(folder, packed=packed)
    parts = prepared(data, folder)
    rows = _rows(parts, "train", data, 0).batch(range(6))
    objective = PLUGINS.objectives.get("llada").build({"form": "sft"})
    schedule, noise = PLUGINS.noise_schedules.get("linear").build(), AddressedNoise(0, rows, 6)
    lm = model(parts[0].tokenizer)
    masking = objective.mask(rows, noise, schedule)
    corruption = objective.corrupt(masking, schedule, lm.mask_token_id)
    total = lm.module(
        corruption.inputs,
        corruption.targets,
        corruption.scored,
        lambda nll, chosen: objective.loss_sum(nll, corruption.part(chosen)),
    )

    hidden = corruption.inputs.tokens == lm.mask_token_id
    assert hidden.any()
    assert not (hidden & ~rows.maskable).any()
    by_hand, answers = 0.0, 0
    for row in range(6):
        probability = float(0.999 * noise.per_row("time")[row] + 0.001)
        for number in range(int(rows.segments[row].max()) + 1):
            own = rows.segments[row] == number
            tokens, noisy = rows.tokens[row, own][None], corruption.inputs.tokens[row, own][None]
            alone = ModelInputs(noisy, torch.zeros_like(noisy), torch.arange(noisy.shape[1])[None])
            with torch.no_grad():
                logits = lm.project(lm.hidden_states(alone))[0].double()
            ce = -logits.log_softmax(-1).gather(1, tokens[0, :, None]).squeeze(1)
            length = int(rows.maskable[row, own].sum())
            by_hand += float((ce * hidden[row, own]).sum()) / probability / length
            answers += 1
    assert answers == (6 if not packed else int((rows.segments.amax(1) + 1).sum()))
    assert float(corruption.count) == answers
    assert float(total.detach()) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("name", ["llada", "mdlm", "open-dcoder", "dream"])
def test_with_another_objective_a_prompt_is_read_and_not_learnt(folder: Path, name: str) -> None:
    data = section(folder)
    rows = _rows(prepared(data, folder), "train", data, 0).batch(range(6))
    schedule, noise = PLUGINS.noise_schedules.get("linear").build(), AddressedNoise(0, rows, 6)
    objective = PLUGINS.objectives.get(name).build({})
    corruption = objective.corrupt(objective.mask(rows, noise, schedule), schedule, 1)
    given = (rows.segments != PADDING_SEGMENT) & ~rows.maskable
    assert given.any()
    assert torch.equal(corruption.inputs.tokens[given], rows.tokens[given])
    assert not (corruption.scored & given).any()
    assert corruption.scored.any()


MANIFEST = """
name: answers
model: {{backbone: {{name: llada}}}}
data:
  corpus: {{name: jsonl, options: {{train: {name}.jsonl{fields}}}}}
  tokenizer: {{path: tokenizer}}
  sequence_length: 40
train:
  objective: {{name: llada, options: {{form: sft}}}}
  steps: 2
  global_batch_size: 4
  held_out: {{rows: 2}}
"""


def manifest(folder: Path, name: str, fields: str = "") -> Path:
    path = folder / "answers.yaml"
    path.write_text(MANIFEST.format(name=name, fields=fields))
    return path


@pytest.mark.slow
def test_a_manifest_trains_on_answers(
    folder: Path, platform: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    path = manifest(folder, "pairs", ", prompt_field: ask, response_field: say")
    done = platform("run", path, "--only", "train", cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (folder / "runs" / "answers" / "default" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]


@pytest.mark.slow
def test_answers_cannot_be_learnt_from_texts_without_prompts(
    folder: Path, platform: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = platform("run", manifest(folder, "plain"), cwd=folder)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert "corpus jsonl has texts without a prompt: name its fields of prompts and responses" in last


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("chats", {}, r"chats.jsonl:\d+:1: is a chat: set data.chat"),
        ("plain", {"chat": True}, r"plain.jsonl:\d+: has no prompt, so it is no chat: leave data.chat out"),
        ("pairs", {"sequence_length": 8, "chat": True}, "no train prompt leaves room for an answer"),
    ],
)
def test_records_that_do_not_go_with_the_manifest_are_named(
    folder: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepared(section(folder, name, **changes), folder)


def test_a_manifest_names_one_corpus_or_a_mixture(folder: Path) -> None:
    path = manifest(folder, "pairs", ", prompt_field: ask, response_field: say")
    text = path.read_text()
    corpus = "{name: jsonl, options: {train: plain.jsonl}}"
    path.write_text(text.replace("  tokenizer:", f"  mixture: [{{corpus: {corpus}}}]\n  tokenizer:"))
    with pytest.raises(UserError, match="give either `corpus` or `mixture`"):
        read_experiment(path, [], PLUGINS)
    path.write_text(text.replace("  corpus: ", "  mixture:\n  - weight: 0\n    corpus: "))
    with pytest.raises(UserError, match=r"answers.yaml:\d+:\d+: data.mixture.0.weight: .*greater than 0"):
        read_experiment(path, [], PLUGINS)
    path.write_text(text.replace("  corpus: ", "  mixture:\n  - corpus: ").replace("ask", "ask, heldout: x"))
    with pytest.raises(UserError, match=r"data.mixture.0.corpus.options.heldout: unknown key; did you mean"):
        read_experiment(path, [], PLUGINS)


@pytest.mark.slow
def test_a_manifest_trains_on_a_mixture(
    folder: Path, platform: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    parts = [
        {"weight": 3, "corpus": {"name": "jsonl", "options": {"train": "plain.jsonl"}}},
        {"corpus": {"name": "text-files", "options": {"train": "*.jsonl", "held_out": "chats.jsonl"}}},
    ]
    text = MANIFEST.format(name="plain", fields="").replace(", options: {form: sft}", "")
    lines = [line for line in text.splitlines() if not line.startswith("  corpus")]
    lines.insert(lines.index("data:") + 1, f"  mixture: {json.dumps(parts)}")
    (folder / "mixture.yaml").write_text("\n".join(lines) + "\nevaluate: [{benchmark: {name: perplexity}}]\n")
    done = platform("run", "mixture.yaml", "--limit", "4", cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    run = folder / "runs" / "answers"
    assert len(list((run / "data").glob("tokens-*"))) == 2
    answers = (run / "default" / "samples" / "perplexity.jsonl").read_text().splitlines()
    assert len(answers) == 4


@pytest.mark.slow
def test_a_weight_that_would_never_be_read_is_refused_before_anything_is_prepared(
    folder: Path, platform: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    path = manifest(folder, "plain")
    parts = "[{corpus: {name: jsonl, options: {train: plain.jsonl}}, weight: 1}, "
    parts += "{corpus: {name: jsonl, options: {train: plain.jsonl}}, weight: 1.0e-9}]"
    path.write_text(
        path.read_text().replace(
            "  corpus: {name: jsonl, options: {train: plain.jsonl}}", f"  mixture: {parts}"
        )
    )
    done = platform("run", path, cwd=folder)
    assert done.returncode == 2
    assert "a weight in data.mixture is below 1/1000" in done.stderr
    assert not (folder / "runs" / "answers" / "data").exists()


def test_a_prompt_that_is_empty_is_a_prompt(folder: Path) -> None:
    pairs = [{"ask": "" if n % 9 == 0 else prompt, "say": text} for n, (prompt, text) in enumerate(PAIRS)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    data = section(folder)
    parts = prepared(data, folder)
    assert parts[0].prompted
    rows = _rows(parts, "train", data, 0)
    found = texts(rows.batch(range(len(rows))), parts[0].tokenizer)
    assert any(given == "" for given, _ in found)
    assert not prepared(section(folder, "plain"), folder)[0].prompted

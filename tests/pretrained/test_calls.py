"""What the Python API is given in another form than it reads is refused, never read as something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from opendllm.core import load
from opendllm.core.language_model import LanguageModel
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import PADDING_SEGMENT

Golden = Callable[[str], LanguageModel]
TOKENS = torch.arange(2, 26).view(2, 12)
HIDDEN = (torch.arange(24).view(2, 12) * 7 % 5) < 2
CHANCE = torch.tensor([[0.3], [0.6]])


@pytest.fixture
def model(golden_model: Golden) -> LanguageModel:
    return golden_model("llada")


def test_any_dtype_may_say_what_is_padding(model: LanguageModel) -> None:
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[0, :5] = 0
    alone = model.logits(TOKENS[:1, 5:])[0]
    for dtype in (torch.int64, torch.bool, torch.float32, torch.bfloat16):
        torch.testing.assert_close(model.logits(TOKENS, mask.to(dtype))[0, 5:], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("lowest", [-torch.inf, torch.finfo(torch.float32).min, -1e4])
def test_a_mask_that_is_added_to_scores_is_not_read_the_other_way_round(
    lowest: float, model: LanguageModel
) -> None:
    mask = torch.zeros(2, 12)
    mask[0, :5] = lowest
    for call in (model.logits, model.sample):
        with pytest.raises(UserError, match="other numbers than 0 and 1"):
            call(TOKENS, attention_mask=mask)
    mask[0] = 0
    with pytest.raises(UserError, match="row 0 of input_ids has no tokens"):
        model.logits(TOKENS, mask)


@pytest.mark.parametrize("mask", ["full", [[1] * 12] * 2, torch.ones(12), torch.ones(2, 1, 12, 12)])
def test_a_mask_of_another_form_is_refused(mask: Any, model: LanguageModel) -> None:
    with pytest.raises(UserError, match="attention_mask"):
        model.logits(TOKENS, mask)


def test_masks_that_are_called_padding_are_not_left_unwritten(model: LanguageModel) -> None:
    """As a mask of the prompt alone has it."""
    canvas = TOKENS.clone()
    canvas[:, 6:] = model.lm.mask_token_id
    with pytest.raises(UserError, match="calls all masks of the canvas padding"):
        model.sample(canvas, attention_mask=canvas != model.lm.mask_token_id)
    ends = torch.arange(12) < torch.tensor([[12], [9]])
    written = model.sample(canvas, attention_mask=ends).tokens
    assert not (written[ends] == model.lm.mask_token_id).any()
    canvas[0, 6:] = 7  # nothing to write in it, and masks for padding
    canvas[0, 10:] = model.lm.mask_token_id
    ends = torch.arange(12) < torch.tensor([[10], [12]])
    assert torch.equal(model.sample(canvas, attention_mask=ends).tokens[0], canvas[0])


def test_noise_is_given_as_masks_or_as_noisy_tokens(model: LanguageModel) -> None:
    wanted = model.loss(TOKENS, HIDDEN, CHANCE)
    noisy = TOKENS.masked_fill(HIDDEN, model.lm.mask_token_id)
    assert model.loss(TOKENS, noisy, CHANCE) == wanted
    total, count = model.loss(TOKENS, HIDDEN, CHANCE.expand(2, 12).double())
    assert (float(total), float(count)) == pytest.approx((float(wanted[0]), float(wanted[1])))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_a_mask_of_numbers_is_not_read_as_noisy_tokens(dtype: torch.dtype, model: LanguageModel) -> None:
    with pytest.raises(UserError, match="masked"):
        model.loss(TOKENS, HIDDEN.to(dtype), CHANCE)


def test_masks_among_clean_tokens_are_refused(model: LanguageModel) -> None:
    noisy = TOKENS.masked_fill(HIDDEN, model.lm.mask_token_id)
    with pytest.raises(UserError, match="tokens holds the mask token"):
        model.loss(noisy, HIDDEN, CHANCE)


@pytest.mark.parametrize(
    "chance",
    [
        torch.tensor([0.3, 0.6]),
        torch.full((12,), 0.5),
        torch.full((2, 12), 1.5),
        torch.full((2, 12), -0.5),
        torch.full((2, 12), torch.nan),
        torch.zeros(2, 12),
        torch.ones(2, 12, dtype=torch.int64),
        0.5,
    ],
)
def test_what_is_no_chance_of_each_token_is_refused(chance: Any, model: LanguageModel) -> None:
    with pytest.raises(UserError, match="mask_probability"):
        model.loss(TOKENS, HIDDEN, chance)


def test_documents_are_numbered_position_by_position(model: LanguageModel) -> None:
    padded = torch.where(torch.arange(12) < 6, 0, -1).expand(2, 12)
    with pytest.raises(UserError, match="masked hides padding"):
        model.loss(TOKENS, HIDDEN, CHANCE, segments=padded)
    with pytest.raises(UserError, match="segments is int64"):
        model.loss(TOKENS, HIDDEN, CHANCE, segments=torch.zeros(12, dtype=torch.int64))


def test_a_losss_options_are_checked_in_one_line(model: LanguageModel) -> None:
    with pytest.raises(UserError, match="option fomr: unknown key; did you mean 'form'"):
        model.loss(TOKENS, HIDDEN, CHANCE, fomr="sft")
    with pytest.raises(UserError, match="tokens is int64"):
        model.loss(TOKENS.masked_fill(HIDDEN, -100), HIDDEN, CHANCE)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda lm: lm.generate("def"), "prompts is a list of texts, not one text"),
        (lambda lm: lm.generate([None]), "number 0 is a NoneType"),
        (lambda lm: lm.generate([b"def"]), "number 0 is a bytes"),
        (lambda lm: lm.score("def f(x):"), "texts is a list of texts, not one text"),
        (lambda lm: lm.score(["def f(x):"], draws=0), "draws is 0"),
        (lambda lm: lm.score(["def f(x):"], estimator="elbo"), "none of llada, mdlm"),
        (lambda lm: lm.infill([("a", 1)], 4), "gap 0 is"),
        (lambda lm: lm.infill([("a", "b")], [4]), "max_new_tokens is"),
        (lambda lm: lm.infill([("a", "b")], 0), "max_new_tokens is 0"),
        (lambda lm: lm.sample(TOKENS, seed=1.5), r"seed 1\.5 is no whole number"),
        (lambda lm: lm.sample(TOKENS, seed="a"), "seed 'a' is no whole number"),
        (lambda lm: lm.sample(TOKENS, seed=2**63), "no signed integer of 64 bits"),
        (lambda lm: lm.generate(["a"], batch_size="auto"), "batch_size is 'auto'"),
        (lambda lm: lm.logits(torch.zeros(1, 0, dtype=torch.int64)), "no tokens"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    call: Callable[[LanguageModel], object], said: str, model: LanguageModel
) -> None:
    with pytest.raises(UserError, match=said):
        call(model)


def test_no_number_is_given_of_what_the_context_has_no_room_for(model: LanguageModel) -> None:
    length = model.lm.context_length
    assert model.logits(torch.zeros(1, length, dtype=torch.int64)).shape[1] == length
    with pytest.raises(UserError, match=f"input_ids has {length + 1} tokens, more than .* {length}"):
        model.logits(torch.zeros(1, length + 1, dtype=torch.int64))


def test_a_tensor_of_seeds_is_one_a_row(model: LanguageModel) -> None:
    canvas = torch.full((2, 8), model.lm.mask_token_id)
    canvas[:, 0] = 5
    each = model.sample(canvas, temperature=1.0, seed=cast(Any, torch.tensor([3, 4]))).tokens
    assert torch.equal(each, model.sample(canvas, temperature=1.0, seed=[3, 4]).tokens)


@pytest.mark.parametrize("seed", [np.int64(5), torch.tensor(5)], ids=["numpy", "torch"])
def test_one_seed_is_one_in_any_form(seed: Any, model: LanguageModel) -> None:
    canvas = torch.full((2, 8), model.lm.mask_token_id)
    canvas[:, 0] = 5
    wanted = model.sample(canvas, temperature=1.0, seed=5).tokens
    assert torch.equal(model.sample(canvas, temperature=1.0, seed=seed).tokens, wanted)


def test_texts_may_come_one_after_the_other_and_counts_from_numpy(autoregressive: Path) -> None:
    writer = load(autoregressive, backbone="causal-lm", mask_token_id=289)
    texts = ["def f(x):", "x = 1"]
    options: dict[str, Any] = {"max_new_tokens": 4, "steps": 4}
    wanted = writer.generate(texts, **options)
    assert writer.generate(iter(texts), batch_size=np.int64(1), **options) == wanted  # type: ignore[arg-type]
    pairs = [(text, "\n") for text in texts]
    filled = writer.infill(iter(pairs), np.int64(4), steps=4)  # type: ignore[arg-type]
    assert filled == writer.infill(pairs, 4, steps=4)
    assert writer.score(iter(texts), draws=np.int64(2)) == writer.score(texts, draws=2)  # type: ignore[arg-type]


def test_padding_of_masks_is_no_clean_token(model: LanguageModel) -> None:
    segments = torch.zeros_like(TOKENS)
    segments[:, 10:] = PADDING_SEGMENT
    hidden = HIDDEN & (segments == 0)
    padded = TOKENS.masked_fill(segments != 0, model.lm.mask_token_id)
    wanted = model.loss(TOKENS, hidden, CHANCE, segments=segments)
    for loss in (
        model.loss(padded, hidden, CHANCE, segments=segments),
        model.loss(padded, hidden, CHANCE, segments=segments.int()),
    ):
        assert torch.equal(torch.stack(loss), torch.stack(wanted))


@pytest.mark.parametrize(
    ("options", "said"), [({"dtype": "bf16"}, "torch dtype"), ({"device": "mps"}, "'mps'")]
)
def test_where_and_in_what_nothing_is_computed(options: dict[str, Any], said: str, goldens: Path) -> None:
    with pytest.raises(UserError, match=said):
        load(goldens / "llada", **options)


@pytest.fixture(params=[torch.bfloat16, torch.float64], ids=str)
def other_default(request: pytest.FixtureRequest) -> Iterator[None]:
    """torch's default dtype, as scripts set it before they load a model and leave it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def plain_answers(model: LanguageModel) -> dict[str, Any]:
    return answers(model)


def answers(model: LanguageModel) -> dict[str, Any]:
    canvas = torch.full((2, 250), model.lm.mask_token_id)
    canvas[:, :12] = TOKENS
    calls: dict[str, dict[str, Any]] = {
        "maskgit-plus": {"steps": 7},
        "p2": {"temperature": 1.0, "top_p": 0.8, "steps": 5},
        "low-confidence": {"block_length": 119, "cache": "dual", "steps": 6},
        "ancestral": {"temperature": 1.0, "steps": 5},
    }
    found: dict[str, Any] = {
        sampler: model.sample(canvas, sampler=sampler, **options).tokens.tolist()
        for sampler, options in calls.items()
    }
    return {**found, "loss": [float(each) for each in model.loss(TOKENS, HIDDEN, CHANCE)]}


def test_nothing_hangs_on_torchs_default_dtype(
    model: LanguageModel, plain_answers: dict[str, Any], other_default: None
) -> None:
    assert answers(model) == plain_answers

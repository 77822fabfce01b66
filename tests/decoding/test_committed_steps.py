"""At which of its row's steps each token was written last: what policy optimisation groups tokens by."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.settings import sort_options
from opendllm.core.decoding.text import SeededGap, write
from opendllm.core.language_model import LanguageModel
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.gaps import Gap

from .id_codec import ID_CODEC, spelt
from .samplers_by_noise import OF_MASKS, with_effect

M = 150
CANVAS = torch.tensor([[5, 9, 31, *[M] * 9], [7, M, 8, 9, M, 10, 11, *[M] * 5]])
OPTIONS = {"temperature": 0.9, "steps": 6, "early_stop": True}


@pytest.mark.parametrize("name", OF_MASKS)
def test_the_last_step_that_wrote_a_token_is_told(
    name: str, golden_model: Callable[[str], LanguageModel]
) -> None:
    """As the trace has it, for tokens that were masked again, written over, put in or left to an EOS, too."""
    model = golden_model("llada")
    options = {**OPTIONS, **({"expand_token_id": 44} if name == "dreamon" else {})}
    decoded = model.sample(CANVAS, name, seed=3, trace=True, **with_effect(name, **options))
    for row in range(len(CANVAS)):
        wanted: dict[int, int] = {}
        before: dict[int, int] = {}
        last_taken = 0
        for number, snapshot in enumerate(decoded.snapshots):
            now = dict(zip(snapshot.origin[row].tolist(), snapshot.tokens[row].tolist(), strict=True))
            for origin, token in now.items():
                if number and origin >= 0 and before.get(origin) != token:
                    wanted[origin], last_taken = number, number
            before = now
        real = decoded.real[row]
        ours = decoded.committed_at[row][real].tolist()
        assert ours == [wanted.get(origin, 0) for origin in decoded.origin[row][real].tolist()]
        assert max(ours) == last_taken
        assert (decoded.committed_at[row][decoded.written[row]] > 0).all()


@pytest.mark.parametrize("name", ["p2", "low-confidence", "confidence-threshold", "entropy-bounded", "remdm"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_rows_that_take_anothers_place_count_their_own_steps(
    name: str, batch_size: int, golden_model: Callable[[str], LanguageModel]
) -> None:
    model, registration = golden_model("llada"), installed_plugins().samplers.get(name)
    prompts = [[5, 9, 31], [7, 8], [11, 12, 13, 14], [3]]
    decoder, own = sort_options(with_effect(name, max_new_tokens=7, temperature=0.9, steps=5), registration)
    gaps = [SeededGap(Gap(spelt(prompt)), number) for number, prompt in enumerate(prompts)]
    found = dict(write(model.lm, ID_CODEC, gaps, registration.build(own), decoder, batch_size))
    for number, prompt in enumerate(prompts):
        canvas = torch.tensor([[*prompt, *[M] * 7]])
        alone = decode(model.lm, canvas, None, registration.build(own), decoder, torch.tensor([number]))
        assert list(found[number].tokens) == alone.tokens[0, len(prompt) :].tolist()
        assert list(found[number].committed_at) == alone.committed_at[0, len(prompt) :].tolist()

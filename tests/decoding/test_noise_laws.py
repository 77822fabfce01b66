"""Samplers beyond masks against the exact law of what they write, on models that are tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.language_model import LanguageModel
from opendllm.core.toolkit.posteriors import level_at, no_noise, reverse_posterior
from opendllm.plugins.samplers import UniformAncestralOptions
from opendllm.plugins.samplers.uniform_ancestral import UniformAncestral
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.registry import ChosenPlugin
from opendllm.registries.trained_noise import TrainedNoise

MASK, SIZE = 0, 4  # of `written_model`
DRAWS = 6000
Make = Callable[..., LanguageModel]


def noise_of(name: str, **options: Any) -> TrainedNoise:
    registration = installed_plugins().noise_schedules.get(name)
    return TrainedNoise(ChosenPlugin(registration, registration.options.model_validate(options)))


UNIFORM = {"loglinear": {"destination": "uniform"}}
MIXTURE = {"gidd": {"p_uniform": 0.3}}


def table(seed: int = 0) -> Tensor:
    """[V, V, V] logits of two positions' tokens: those of the first, then those of the second follow."""
    return torch.randn(SIZE, SIZE, 2, SIZE, generator=torch.Generator().manual_seed(seed))


def tabular(make: Make, noise: TrainedNoise, seed: int = 0) -> LanguageModel:
    """Logits of each of two positions, by the tokens of both."""
    logits = table(seed)

    def answer(inputs: Any) -> Tensor:
        first, second = inputs.tokens[:, 0], inputs.tokens[:, -1]
        return logits[first, second][:, [0, 1]] if inputs.tokens.shape[1] == 2 else torch.zeros(1, 8, SIZE)

    model = make(answer)
    model.lm.noise = noise
    return model


def chi_square(tokens: Tensor, law: Tensor) -> float:
    """p-value of pairs [N, 2] under a law [V, V]."""
    counts = torch.bincount(tokens[:, 0] * SIZE + tokens[:, 1], minlength=SIZE * SIZE).double()
    wanted = law.flatten() * len(tokens)
    rare = wanted < 5
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([wanted[~rare], wanted[rare].sum()[None]])
    kept = expected > 0
    assert int(observed[~kept].sum()) == 0
    return float(stats.chisquare(observed[kept].numpy(), expected[kept].numpy()).pvalue)


def exact_law(
    schedule: NoiseSchedule, times: list[tuple[float, float]], options: dict[str, Any], knows_mask: bool
) -> Tensor:
    """[V, V]: of the two tokens after every step, all states enumerated; the mask is no clean token."""
    logits = table().double()
    kappa, tail = options.get("kappa", 1.0), options.get("tail", "none")
    states = list(itertools.product(range(SIZE), repeat=2))

    def at(time: float) -> Any:
        return level_at(schedule, torch.tensor([time], dtype=torch.float64), SIZE)

    start = at(schedule.interval[1])
    alone = torch.full((SIZE,), float(start.other), dtype=torch.float64)
    alone[MASK] = float(start.mask)
    alone = alone / alone.sum()
    law = torch.outer(alone, alone)
    steps = [(t, at(s), number == len(times) - 1 and tail == "none") for number, (t, s) in enumerate(times)]
    if tail != "none":
        steps.append((times[-1][1], no_noise(at(0.5)), True))
    for t, earlier, last in steps:
        after = torch.zeros_like(law)
        for state in states:
            rows = []
            for position, token in enumerate(state):
                here = logits[state[0], state[1], position].clone()
                if last or not knows_mask:
                    here[MASK] = -torch.inf
                if last and tail == "greedy":
                    rows.append(torch.nn.functional.one_hot(here.argmax(), SIZE).double())
                    continue
                x, z = here.softmax(-1), torch.tensor([token])
                found = reverse_posterior(x[z], z == MASK, at(t), earlier)
                clean = reverse_posterior(x[z], z == MASK, at(t), no_noise(at(t)))
                share = torch.tensor([kappa], dtype=torch.float64)
                chances = found.mixed(share, clean.noised(earlier)).table(x[None], z, MASK)[0]
                if last:
                    chances[MASK] = 0
                rows.append(chances / chances.sum())
            after += law[state] * torch.outer(*rows)
        law = after
    return law


def evenly(steps: int) -> list[tuple[float, float]]:
    grid = [1 - (1 - 1e-5) * number / steps for number in range(steps + 1)]
    return list(itertools.pairwise(grid))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("uniform-ancestral", {"tail": "ancestral"}),
        ("uniform-ancestral", {"tail": "greedy"}),
        ("uniform-ancestral", {"tail": "none"}),
        ("predictor-corrector", {"kappa": 0.3}),
        ("predictor-corrector", {"kappa": 0.0, "tail": "greedy"}),
        ("gidd", {}),
    ],
)
def test_two_positions_follow_the_exact_law_of_the_chain(
    sampler: str, options: dict[str, Any], steps: int, written_model: Make
) -> None:
    noise = (
        noise_of("gidd", p_uniform=0.3) if sampler == "gidd" else noise_of("loglinear", destination="uniform")
    )
    assert noise.schedule is not None
    model = tabular(written_model, noise)
    given = {"temperature": 1.0, "steps": steps, "seed": 3, **options}
    tokens = model.sample(torch.full((DRAWS, 2), MASK), sampler, **given).tokens
    assert not bool((tokens == MASK).any())
    times = evenly(steps)
    if sampler == "gidd":
        grid = [(1 - 2e-4) * number / steps + 1e-4 for number in range(steps, 0, -1)] + [0.0]
        times = list(itertools.pairwise(grid))
    else:
        options = {"tail": "ancestral"} | options
    law = exact_law(noise.schedule.build(), times, options, knows_mask=sampler != "gidd")
    assert chi_square(tokens, law) > 1e-3


def test_a_wrong_law_is_seen_by_this_measure(written_model: Make) -> None:
    model = tabular(written_model, noise_of("loglinear", destination="uniform"))
    tokens = model.sample(torch.full((DRAWS, 2), MASK), "uniform-ancestral", temperature=1.0, steps=3).tokens
    schedule = noise_of("loglinear", destination="uniform").schedule.build()
    wrong = exact_law(schedule, evenly(1), {"tail": "ancestral"}, knows_mask=True)
    assert chi_square(tokens, wrong) < 1e-3


def test_guidance_draws_from_the_mixed_posteriors(written_model: Make) -> None:
    """One position after a prompt: the unconditional model sees noise for it, the same at every step."""
    base, shift = torch.tensor([0.3, 1.0, -0.5, 0.2]), torch.tensor([0.0, 0.9, -1.0, 0.5])

    def answer(inputs: Any) -> Tensor:
        given = (inputs.tokens[:, :1] == 2).float()[:, :, None]
        return (base + shift * given).expand(*inputs.tokens.shape, SIZE).clone()

    model = written_model(answer)
    model.lm.noise = noise_of("loglinear", destination="uniform")
    canvas = torch.tensor([[2, MASK]]).expand(DRAWS, 2)
    tokens = model.sample(
        canvas, "uniform-ancestral", steps=1, temperature=1.0, tail="none", guidance_scale=1.0, seed=5
    ).tokens[:, 1]
    # From pure noise one posterior step is the model's distribution, but for the 1e-5 that is left.
    conditional, other = ((base + shift * given).double() for given in (1, 0))
    law = torch.zeros(SIZE, dtype=torch.float64)
    for given in range(SIZE):  # which token the prompt's place is given in the unconditional pass
        pair = conditional.clone(), (conditional if given == 2 else other).clone()
        for logits in pair:
            logits[MASK] = -torch.inf
        x, y = (logits.softmax(-1) for logits in pair)
        mixed = (2 * x.log() - y.log()).nan_to_num(-torch.inf, neginf=-torch.inf).softmax(-1)
        law += mixed / SIZE
    counts = torch.bincount(tokens, minlength=SIZE).double()
    assert counts[MASK] == 0
    assert stats.chisquare(counts[1:].numpy(), (law[1:] / law[1:].sum() * DRAWS).numpy()).pvalue > 1e-3


def test_temperature_and_filters_shape_the_models_distribution(written_model: Make) -> None:
    logits = torch.tensor([-9.0, 1.0, 0.0, -2.0])
    settings: list[tuple[dict[str, Any], set[int]]] = [
        ({"temperature": 0.0}, {1}),
        ({"temperature": 1.0, "top_k": 2}, {1, 2}),
        ({"temperature": 1.0, "top_p": 0.6}, {1}),
        ({"temperature": 3.0}, {1, 2, 3}),
    ]
    for options, allowed in settings:
        model = written_model(logits)
        model.lm.noise = noise_of("loglinear", destination="uniform")
        tokens = model.sample(torch.full((400, 3), MASK), "uniform-ancestral", steps=2, **options).tokens
        assert set(tokens.flatten().tolist()) == allowed, options


@pytest.mark.parametrize(
    "schedule", [{"name": "linear", "destination": "uniform"}, {"name": "cosine", "destination": "uniform"}]
)
def test_a_model_that_ignores_noise_is_followed_under_any_schedule(
    schedule: dict[str, str], written_model: Make
) -> None:
    logits = torch.tensor([-50.0, 0.4, 1.1, -0.6])
    options = dict(schedule)
    model = written_model(logits)
    model.lm.noise = noise_of(options.pop("name"), **options)
    tokens = model.sample(
        torch.full((1, 8000), MASK)[:, :4000], "uniform-ancestral", steps=5, temperature=1.0
    ).tokens
    counts = torch.bincount(tokens.flatten(), minlength=SIZE).double()[1:]
    wanted = logits[1:].double().softmax(-1) * 4000
    assert stats.chisquare(counts.numpy(), wanted.numpy()).pvalue > 1e-3


# --- greedy samplers against their rules, written out ---------------------------------------------------


def test_adaptive_greedy_replaces_the_likeliest_noise_first(written_model: Make) -> None:
    """One token a step, by (max p - p[z]) pi(z), until none can be bettered."""
    logits = torch.tensor([[-9.0, 3.0, 0.0, 0.0], [-9.0, 0.0, 1.0, 0.0], [-9.0, 0.0, 0.0, 5.0]])
    model = written_model(logits)
    model.lm.noise = noise_of("gidd", p_uniform=0.2)
    decoded = model.sample(torch.full((1, 3), MASK), "adaptive-greedy", steps=10, trace=True)
    assert [canvas[0].tolist() for canvas in decoded.trace] == [[0, 0, 0], [0, 0, 3], [1, 0, 3], [1, 2, 3]]
    assert decoded.forward_passes.tolist() == [3]
    few = model.sample(torch.full((1, 3), MASK), "adaptive-greedy", steps=2)
    assert few.tokens.tolist() == [[1, 2, 3]]  # the last step fills what is masked
    at_once = model.sample(torch.full((1, 3), MASK), "adaptive-greedy", steps=10, tokens_per_step=3)
    assert at_once.forward_passes.tolist() == [1]


def test_adaptive_greedy_corrects_uniform_noise(written_model: Make) -> None:
    logits = torch.tensor([-9.0, 0.5, 2.0, 0.0])
    model = written_model(logits)
    model.lm.noise = noise_of("loglinear", destination="uniform")
    decoded = model.sample(torch.full((3, 4), MASK), "adaptive-greedy")
    assert bool((decoded.tokens == 2).all())
    wrong = (decoded.trace or [decoded.tokens])[0]
    assert int(decoded.forward_passes.max()) <= 4
    assert wrong.shape == (3, 4)


def editing_reference(
    logits_of: Callable[[list[int]], Tensor], row: list[int], blocks: list[list[int]], **options: Any
) -> tuple[list[int], int]:
    """LLaDA2.1's loop for one row at temperature 0, in lists."""
    threshold, editing = options.get("threshold", 0.95), options.get("editing_threshold", 0.9)
    limit, least, passes = options.get("max_post_steps", 16), options.get("num_to_transfer", 1), 0
    for block in blocks:
        post = 0
        while True:
            masked = [i for i in block if row[i] == MASK]
            if not masked:
                post += 1
                if post > limit:
                    break
            logits = logits_of(row)
            passes += 1
            probabilities = logits.softmax(-1)
            logits = logits.clone()
            logits[:, MASK] = -torch.inf
            best = logits.argmax(-1).tolist()
            sure = {i: float(probabilities[i, best[i]]) for i in block}
            high = [i for i in masked if sure[i] > threshold]
            commits = high if len(high) >= least else sorted(masked, key=lambda i: (-sure[i], i))[:least]
            edits = [i for i in block if i not in masked and sure[i] > editing and best[i] != row[i]]
            for i in [*commits, *edits]:
                row[i] = best[i]
            if not masked and not edits:
                break
    return row, passes


def hashed_logits(seed: int, sharpness: float) -> Callable[[list[int]], Tensor]:
    def logits_of(row: list[int]) -> Tensor:
        generator = torch.Generator().manual_seed(hash((seed, *row)) % 2**31)
        return torch.randn(len(row), SIZE, generator=generator) * sharpness

    return logits_of


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_post_steps": 0},
        {"max_post_steps": 2, "num_to_transfer": 2},
        {"threshold": 0.5, "editing_threshold": 0.4},
    ],
)
def test_token_editing_is_the_published_loop(seed: int, options: dict[str, Any], written_model: Make) -> None:
    logits_of = hashed_logits(seed, 5.0)
    model = written_model(lambda inputs: torch.stack([logits_of(row) for row in inputs.tokens.tolist()]))
    rows = [[2, *[MASK] * 6], [1, MASK, MASK, 3, MASK, MASK, MASK]]
    decoded = model.sample(torch.tensor(rows), "token-editing", block_length=3, **options)
    for number, row in enumerate(rows):
        editable = [i for i, token in enumerate(row) if token == MASK]
        blocks = [editable[start : start + 3] for start in range(0, len(editable), 3)]
        wanted, passes = editing_reference(logits_of, list(row), blocks, **options)
        assert decoded.tokens[number].tolist() == wanted
        assert int(decoded.forward_passes[number]) == passes


def test_token_editing_stops_early_after_a_block_with_eos(written_model: Make) -> None:
    logits = torch.tensor([-9.0, 9.0, 0.0, 0.0])
    model = written_model(logits)
    model.lm.eos_token_id = 1
    canvas = torch.tensor([[2, *[MASK] * 6]])
    whole = model.sample(canvas, "token-editing", block_length=3)
    short = model.sample(canvas, "token-editing", block_length=3, early_stop=True)
    assert torch.equal(whole.tokens, short.tokens)
    assert int(short.forward_passes) < int(whole.forward_passes)


def test_entropy_accept_keeps_what_is_sure_and_draws_the_rest_anew(written_model: Make) -> None:
    """Position 1 is certain; the others are flat, so that all but one are noise again until the last step."""
    flat, sure = torch.tensor([-9.0, 0.1, 0.0, 0.0]), torch.tensor([-9.0, 0.0, 30.0, 0.0])
    model = written_model(torch.stack([flat, sure, *[flat] * 30]))
    model.lm.noise = noise_of("loglinear", destination="uniform")
    canvas = torch.full((8, 32), MASK)
    decoded = model.sample(canvas, "entropy-accept", steps=6, trace=True, certainty=0.0)
    for before, after in itertools.pairwise(decoded.trace[:-1]):
        assert bool((after[:, 1] == 2).all())
        changed = (before[:, 2:] != after[:, 2:]).double().mean()
        assert 0.6 < float(changed) < 0.9  # three of four, but for the one that is accepted
    assert decoded.trace[-2].unique().tolist() == [0, 1, 2, 3]
    assert decoded.tokens[0].tolist() == [1, 2, *[1] * 30]
    assert decoded.forward_passes.tolist() == [6] * 8


def test_entropy_accept_ends_when_the_best_tokens_are_stable_and_certain(written_model: Make) -> None:
    sure = torch.tensor([-9.0, 0.0, 30.0, 0.0])
    model = written_model(sure)
    model.lm.noise = noise_of("loglinear", destination="uniform")
    decoded = model.sample(torch.full((2, 5), MASK), "entropy-accept", steps=50)
    assert decoded.tokens.tolist() == [[2] * 5] * 2
    assert decoded.forward_passes.tolist() == [2, 2]  # the first can't know what the second will want


def test_entropy_accept_cools_down(written_model: Make) -> None:
    """A draw at the first step is hotter than one at the last but one."""
    logits = torch.tensor([-9.0, 1.0, 0.0, 0.0])
    model = written_model(logits)
    model.lm.noise = noise_of("loglinear", destination="uniform")
    options: dict[str, Any] = {
        "gamma": 1e9,
        "first_temperature": 4.0,
        "last_temperature": 0.1,
        "certainty": 0.0,
    }
    trace = model.sample(torch.full((1, 3000), MASK), "entropy-accept", steps=4, trace=True, **options).trace
    shares = [float((canvas == 1).double().mean()) for canvas in trace[1:]]
    temperatures = [0.1 + 3.9 * (4 - index) / 4 for index in range(3)]
    for share, temperature in zip(shares, temperatures, strict=False):
        wanted = float((logits[1:].double() / temperature).softmax(-1)[0])
        assert share == pytest.approx(wanted, abs=0.04)
    assert shares[-1] == 1.0


# --- the canvas, and what is refused ---------------------------------------------------------------------


def test_a_uniform_canvas_starts_from_all_tokens_alike_and_keeps_the_prompt(written_model: Make) -> None:
    model = written_model(torch.zeros(SIZE))
    model.lm.noise = noise_of("loglinear", destination="uniform")
    canvas = torch.full((40, 102), MASK)
    canvas[:, 50:52] = torch.tensor([3, 1])
    first = model.sample(canvas, "uniform-ancestral", steps=1, trace=True, seed=2).trace[0]
    assert bool((first[:, 50:52] == canvas[:, 50:52]).all())
    rest = torch.cat([first[:, :50], first[:, 52:]], dim=1)
    assert stats.chisquare(torch.bincount(rest.flatten(), minlength=SIZE).numpy()).pvalue > 1e-3
    again = model.sample(canvas, "uniform-ancestral", steps=1, trace=True, seed=2).trace[0]
    assert torch.equal(first, again)


def test_a_mixture_without_masks_starts_from_uniform_noise(written_model: Make) -> None:
    model = written_model(torch.zeros(SIZE))
    model.lm.noise = noise_of("gidd-log-snr", shift=1000.0)
    first = model.sample(torch.full((1, 900), MASK), "gidd", steps=1, trace=True).trace[0]
    assert not bool((first == MASK).any())


@pytest.mark.parametrize(
    ("noise", "sampler", "message"),
    [
        (
            noise_of("linear", destination="uniform"),
            "p2",
            "'p2' undoes mask noise.*is uniform: choose one of.*uniform-ancestral",
        ),
        (
            noise_of("gidd"),
            "uniform-ancestral",
            "undoes uniform noise.*is mixture: choose one of adaptive-greedy, gidd",
        ),
        (TrainedNoise(), "gidd", "undoes mixture noise.*is mask: choose one of.*p2"),
    ],
)
def test_a_sampler_of_other_noise_is_refused_in_a_line(
    noise: TrainedNoise, sampler: str, message: str, written_model: Make
) -> None:
    model = written_model(torch.zeros(SIZE))
    model.lm.noise = noise
    with pytest.raises(UserError, match=message) as caught:
        model.sample(torch.tensor([[MASK]]), sampler)
    assert "\n" not in str(caught.value)


class Timed:
    """Logits that follow the time they are told: token 1 while it is late, token 2 at last."""

    def __init__(self) -> None:
        self.told: list[Tensor] = []

    def __call__(self, inputs: Any) -> Tensor:
        logits = torch.zeros(*inputs.tokens.shape, SIZE)
        if inputs.time is not None:
            self.told.append(inputs.time[:, 0])
        return logits


def test_a_model_that_was_told_the_time_is_told_it(written_model: Make) -> None:
    answers = Timed()
    model = written_model(answers)
    noise = noise_of("loglinear", destination="uniform")
    model.lm.noise = TrainedNoise(noise.schedule, time_conditioning=True)
    model.sample(torch.full((2, 3), MASK), "uniform-ancestral", steps=4, temperature=1.0)
    schedule = noise.schedule.build()
    times = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]).double() * (1 - 1e-5) + 1e-5
    told = torch.stack(answers.told)
    torch.testing.assert_close(told, (-schedule.alpha(times).log()).float()[:, None].expand(5, 2))
    with pytest.raises(UserError, match="cache and compile have no effect"):
        model.sample(torch.full((2, 3), MASK), "uniform-ancestral", cache="dual")


def test_a_model_is_told_a_number_where_nothing_survives(written_model: Make) -> None:
    """Linear noise ends at alpha 0, of which -ln is infinite: the first step's time."""
    answers = Timed()
    model = written_model(answers)
    noise = noise_of("linear", destination="uniform")
    model.lm.noise = TrainedNoise(noise.schedule, time_conditioning=True)
    model.sample(torch.full((1, 3), MASK), "uniform-ancestral", steps=4, temperature=1.0)
    told = torch.cat(answers.told)
    assert bool(torch.isfinite(told).all())
    assert float(told[0]) > float(told[1]) > float(told[-1])


def test_a_sampler_without_times_cannot_serve_a_model_that_is_told_them(written_model: Make) -> None:
    model = written_model(Timed())
    registration = installed_plugins().noise_schedules.get("linear")
    schedule = ChosenPlugin(registration, registration.options.model_validate({}))
    model.lm.noise = TrainedNoise(schedule, time_conditioning=True)
    with pytest.raises(
        UserError, match=r"trained with the time as an input, and samplers/p2 of open-dllm .* has none"
    ):
        model.sample(torch.tensor([[MASK]]), "p2")


def test_times_are_one_a_row(written_model: Make) -> None:
    class Odd(UniformAncestral):
        def times(self, index: Tensor, steps: Tensor) -> Tensor:
            return super().times(index, steps)[:, None]

    model = written_model(Timed())
    model.lm.noise = TrainedNoise(noise_of("linear", destination="uniform").schedule, time_conditioning=True)
    sampler = Odd(UniformAncestralOptions())
    with pytest.raises(UserError, match=r"sampler Odd: times gave float64 \[1, 1\], and float \[1\]"):
        decode(model.lm, torch.tensor([[MASK]]), None, sampler, DecoderOptions(), torch.tensor([0]))

"""Posteriors, greedy steps and whole runs of the published code for uniform and mixed noise.

The published draws are not ours: theirs takes one uniform number a token, ours one a position. So tables
are compared, and tokens after the published rule was applied to our tables. The published runs may end in
the mask, which to uniform noise is a token like any other; ours never do.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from opendllm.core.decoding import prepared_rows
from opendllm.core.decoding.distributions import ChunkedDistributions
from opendllm.core.decoding.proposals import Filters
from opendllm.core.language_model import LanguageModel
from opendllm.core.toolkit.posteriors import (
    NoiseLevel,
    Posterior,
    guided_table,
    level_at,
    no_noise,
    reverse_posterior,
)
from opendllm.plugins.samplers import adaptive_greedy, reverse_process
from opendllm.plugins.samplers.adaptive_greedy import AdaptiveGreedy
from opendllm.plugins.samplers.predictor_corrector import PredictorCorrector
from opendllm.registries.backbones import TokenPositions
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.registry import ChosenPlugin
from opendllm.registries.samplers import SpecialTokens, Step
from opendllm.registries.trained_noise import TrainedNoise

from ..golden_vectors import Vectors, golden

VOCABULARIES = ("vocab_12", "vocab_160")
both = pytest.mark.parametrize("vocabulary", VOCABULARIES)


def mixture(entry: dict[str, Any]) -> NoiseSchedule:
    """GIDD's schedule with an entry's share of uniform noise, or its successor's with its shift."""
    if "shift" in entry:
        return chosen("gidd-log-snr", shift=entry["shift"]).build()
    return chosen("gidd", p_uniform=entry["p_uniform"]).build()


def chosen(name: str, **options: Any) -> ChosenPlugin[Any, Any]:
    registration = installed_plugins().noise_schedules.get(name)
    return ChosenPlugin(registration, registration.options.model_validate(options))


class DuoCosine(NoiseSchedule):
    """Duo's, which keeps 1e-3 away from the end."""

    destination = "uniform"
    ends = (1.0, 0.0)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - torch.cos(torch.pi / 2 * (1 - (1 - 1e-3) * t))

    def alpha_prime(self, t: Tensor) -> Tensor:
        raise NotImplementedError


# --- posteriors --------------------------------------------------------------------------------------


class Tables:
    """Our tables for one vocabulary's logits and times, [B, P, V]."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.size, self.mask = found["vocab_size"], found["mask_token_id"]
        self.positions = found["posterior"]["positions"]
        self.t, self.s = (torch.tensor(found[name], dtype=torch.float64) for name in ("t", "s"))
        self.logits = torch.tensor(found["logits"], dtype=torch.float64)[:, : self.positions]

    def table(
        self,
        schedule: NoiseSchedule,
        z: list[list[int]],
        *,
        s: Tensor | None = None,
        model: Tensor | None = None,
        kappa: float = 1.0,
        clean: bool = False,
        without_mask: bool = False,
    ) -> Tensor:
        tokens = torch.tensor(z)[:, : self.positions]
        shape = (*tokens.shape, self.size)
        logits = self.logits.clone()
        if without_mask:
            logits[..., self.mask] = -torch.inf
        model = (logits.softmax(-1) if model is None else model.double()).reshape(-1, self.size)
        tokens = tokens.reshape(-1)
        now, earlier = (
            NoiseLevel(*(each.repeat_interleave(self.positions) for each in vars(level).values()))
            for level in (
                level_at(schedule, self.t, self.size),
                level_at(schedule, self.s if s is None else s, self.size),
            )
        )
        at_token, stands = model.gather(1, tokens[:, None]).squeeze(1), tokens == self.mask
        to_clean = reverse_posterior(at_token, stands, now, no_noise(now))
        found = to_clean if clean else reverse_posterior(at_token, stands, now, earlier)
        found = found.mixed(torch.full_like(at_token, kappa), to_clean.noised(earlier))
        return found.table(model, tokens, self.mask).view(shape)


def close(ours: Tensor, published: Any, atol: float = 2e-6) -> None:
    torch.testing.assert_close(ours, torch.tensor(published, dtype=torch.float64), atol=atol, rtol=1e-5)


@golden("uniform-noise")
@both
def test_posteriors(vectors: Vectors, vocabulary: str) -> None:
    found = vectors.expected[vocabulary]
    tables, published = Tables(found), dict(found["posterior"])
    uniform, masks = chosen("loglinear", destination="uniform").build(), chosen("loglinear").build()
    z = found["z_uniform"]
    close(tables.table(uniform, z), published["duo_log-linear"])
    close(tables.table(uniform, z, clean=True), published["duo_noise_removal"])
    clean = one_hot(torch.tensor(found["clean"])[:, : tables.positions], tables.size)
    close(tables.table(uniform, z, model=clean), published["duo_clean_one_hot"])
    close(tables.table(uniform, z, kappa=0.3), published["duo_psi_kappa_0.3"])
    close(tables.table(DuoCosine(), z), published["duo_cosine"])
    close(tables.table(masks, found["z_mask"], without_mask=True), published["mdlm_log-linear"])
    for entry in published["gidd"]:
        schedule = mixture(entry)
        close(tables.table(schedule, found["z_hybrid"], without_mask=True), entry["table"], 1e-4)
    for entry in published["gidd_log_snr"]:
        s = torch.sigmoid(-torch.tensor(entry["log_snr_s"], dtype=torch.float64))
        close(
            tables.table(mixture(entry), entry["z_t"], s=s, without_mask=True),
            entry["table"],
            1e-4,
        )


@golden("uniform-noise")
@both
def test_guided_posterior(vectors: Vectors, vocabulary: str) -> None:
    """UDLM mixes the posteriors of two models, with gamma 2; the second has its classes turned round."""
    found = vectors.expected[vocabulary]
    tables, schedule = Tables(found), chosen("loglinear", destination="uniform").build()
    other = torch.tensor(found["logits_at_zero"], dtype=torch.float64)[:, : tables.positions].softmax(-1)
    pairs = [tables.table(schedule, found["z_uniform"], model=each) for each in (None, other)]
    candidates = [
        guided_table(a.reshape(-1, tables.size), b.reshape(-1, tables.size), 1.0).view(a.shape)
        for a, b in (pairs, pairs[::-1])
    ]
    published = torch.tensor(found["posterior"]["udlm_guided_gamma_2"], dtype=torch.float64)
    assert min(float((each - published).abs().max()) for each in candidates) < 2e-6


# --- greedy steps ------------------------------------------------------------------------------------


@golden("uniform-noise")
@both
def test_greedy_tails(vectors: Vectors, vocabulary: str, written_model: Any) -> None:
    """The tail's tokens are the best ones; where that is the mask, which we never leave, the next best."""
    found = vectors.expected[vocabulary]
    logits, mask = torch.tensor(found["logits"]), found["mask_token_id"]
    model = written_model(lambda inputs: logits[: len(inputs.tokens), : inputs.tokens.shape[1]].clone())
    model.lm.mask_token_id = mask
    model.lm.noise = TrainedNoise(chosen("loglinear", destination="uniform"))
    canvas = torch.full(logits.shape[:2], mask)
    tokens = model.sample(canvas, "uniform-ancestral", steps=1, temperature=1.0, tail="greedy").tokens
    published = torch.tensor(found["greedy"]["duo_tail"])
    assert torch.equal(published, logits.argmax(-1))
    same = published != mask
    assert torch.equal(tokens[same], published[same])
    assert not bool((tokens == mask).any())

    # Of masks and mixtures: written tokens stay, masks get their best token.
    stands = torch.tensor(found["z_mask"])
    model.lm.noise = TrainedNoise()
    tokens = model.sample(stands, "low-confidence", steps=1).tokens
    for name in ("mdlm_tail", "gidd_masked_last_step"):
        assert tokens.tolist() == found["greedy"][name]


@golden("uniform-noise")
@both
def test_adaptive_greedy(vectors: Vectors, vocabulary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = vectors.expected[vocabulary]
    logits, mask = torch.tensor(found["logits"]), found["mask_token_id"]
    times = torch.tensor(found["t"], dtype=torch.float64)
    at_start = torch.sigmoid(torch.full_like(times, 9.0))  # JAX reads pi at l = -9
    held = 0
    for entry in found["greedy"]["gidd_adaptive"]:
        for form, noise_of, time in (("hf", "step", times), ("jax", "start", at_start)):
            monkeypatch.setattr(adaptive_greedy, "evenly_from_1", lambda index, steps, time=time: time)
            options = {"tokens_per_step": entry["tokens_per_step"], "noise_of": noise_of}
            sampler = installed_plugins().samplers.get("adaptive-greedy").build(options)
            assert isinstance(sampler, AdaptiveGreedy)
            step = asked_step(torch.tensor(entry["z_t"]), logits, mask, mixture(entry))
            overwrite = sampler.select(step).overwrite
            assert overwrite is not None
            after = torch.where(overwrite.where, overwrite.tokens, step.canvas)
            without_ties = torch.tensor(entry[f"{form}_rows_without_ties"])
            held += int(without_ties.sum())
            assert torch.equal(after[without_ties], torch.tensor(entry[f"{form}_result"])[without_ties])
    assert held > 0


def asked_step(canvas: Tensor, logits: Tensor, mask: int, schedule: NoiseSchedule) -> Step:
    """The first of two steps on this canvas [B, L], with these logits [B, L, V]."""
    whole = torch.ones_like(canvas).bool()
    at = TokenPositions(*whole.nonzero(as_tuple=True))
    flat = logits.flatten(0, 1)
    asked = ChunkedDistributions(
        at,
        canvas,
        torch.zeros(len(flat)),
        lambda part: (flat[part].clone(), None),
        Filters(1, None, None),
        0,
        7,
        3,
    )
    rows = torch.zeros(len(canvas), dtype=torch.int64)
    return Step(
        canvas=canvas,
        masked=canvas == mask,
        editable=whole,
        tokens=canvas,
        confidence=torch.zeros(canvas.shape),
        committed_confidence=torch.zeros(canvas.shape),
        memory=torch.full_like(canvas, -1),
        index=rows,
        steps=rows + 2,
        target=rows,
        block=torch.zeros_like(canvas),
        width=rows,
        room=rows,
        alg_temp=0.0,
        special=SpecialTokens(mask),
        vocab_size=logits.shape[-1],
        draws=SimpleNamespace(uniform=None),
        noise_schedule=schedule,
        distributions=asked,
    )


# --- whole runs --------------------------------------------------------------------------------------


def published_draw(table: Tensor, uniforms: Tensor) -> Tensor:
    """[n] the published draw from a table [n, V] with one uniform number a token."""
    return (table.double() / (1e-10 - (uniforms + 1e-10).log())).argmax(-1)


def denoiser(parts: dict[str, Any], conditional: Callable[[], bool]) -> Callable[[Any], Tensor]:
    """logits[i] = W (E[z_i] + G[z_(i-1)] + P[i mod 6]), the class's shift added in the conditional pass."""
    e, g, w, p = (torch.tensor(parts[name]) for name in "EGWP")
    shift = torch.tensor(parts["class_shift"])

    def logits(inputs: Any) -> Tensor:
        tokens = inputs.tokens
        hidden = e[tokens] + g[tokens.roll(1, 1)] + p[torch.arange(tokens.shape[1]) % len(p)]
        return hidden @ w.T + (shift if conditional() else 0)

    return logits


RUNS = ("duo", "udlm", "udlm_guided")


def run_ids() -> list[Any]:
    found = []
    for mark in golden("uniform-noise").args[1]:
        vectors = mark.values[0]
        runs = {} if mark.marks[1:] else {v: vectors.expected[v]["sampling"]["runs"] for v in VOCABULARIES}
        for vocabulary, entries in runs.items():
            for number, entry in enumerate(entries):
                if entry["algorithm"] in RUNS:
                    name = f"uniform-noise-{vocabulary}-{number}-{entry['algorithm']}"
                    found.append(pytest.param(vectors, vocabulary, entry, id=name, marks=mark.marks))
        if not runs:
            found.append(pytest.param(vectors, "", {}, id="uniform-noise", marks=mark.marks))
    return found


@pytest.mark.parametrize(("vectors", "vocabulary", "entry"), run_ids())
def test_runs(
    vectors: Vectors,
    vocabulary: str,
    entry: dict[str, Any],
    written_model: Callable[..., LanguageModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = vectors.expected[vocabulary]
    mask, size, sampling = found["mask_token_id"], found["vocab_size"], found["sampling"]
    guidance = entry.get("guidance", {})
    guided = guidance.get("gamma", 1.0) != 1.0
    passes: list[None] = []

    def conditional() -> bool:
        passes.append(None)
        return bool(guidance) and (not guided or len(passes) % 2 == 1)

    model = written_model(denoiser(sampling["denoiser"], conditional))
    passes.clear()
    prior, draws = (
        torch.tensor(sampling["prior_tokens"]),
        torch.tensor(sampling["draws"], dtype=torch.float64),
    )
    model.lm.mask_token_id = mask
    schedule: Any = chosen("loglinear", destination="uniform")
    if entry.get("noise") == "cosine":
        schedule = SimpleNamespace(options=schedule.options, build=DuoCosine)
    model.lm.noise = TrainedNoise(schedule)
    monkeypatch.setattr(prepared_rows, "start_of", lambda *_: prior)
    drawn = iter(draws)

    def draw(self: Posterior, weights: Tensor, tokens: Tensor, mask_token_id: int, _: Tensor) -> Tensor:
        table = self.table(weights / weights.sum(-1, keepdim=True), tokens, mask_token_id)
        return published_draw(table, next(drawn).flatten(0, 1))

    monkeypatch.setattr(Posterior, "draw", draw)
    monkeypatch.setattr(  # what guidance draws from
        reverse_process, "draw_from", lambda table, _: published_draw(table, next(drawn).flatten(0, 1))
    )
    options: dict[str, Any] = {"temperature": 1.0, "steps": entry["steps"]}
    if "p_nucleus" in entry:
        options["top_p"] = entry["p_nucleus"]
    if guided:
        options["guidance_scale"] = guidance["gamma"] - 1
    options["tail"] = entry.get("noise_removal", "none")
    sampler = "uniform-ancestral"
    if entry.get("predictor") == "psi":
        sampler = "predictor-corrector"
        follow(entry, monkeypatch)
    decoded = model.sample(torch.full_like(prior, mask), sampler, trace=True, **options)
    assert torch.equal(decoded.trace[0], prior)
    history = [*entry["history"], entry["sequences"]]
    ours = [*decoded.trace[1 : len(entry["history"]) + 1], decoded.tokens]
    ends = entry["history"][-1] == entry["sequences"]
    for number, (canvas, published) in enumerate(zip(ours, map(torch.tensor, history), strict=True)):
        is_last = number >= len(history) - (2 if ends else 1)
        left = (published == mask) & is_last  # which we fill
        assert torch.equal(canvas[~left], published[~left]), f"step {number}"
    assert not bool((decoded.tokens == mask).any())
    assert decoded.forward_passes.tolist() == [entry["forwards"]] * len(prior)
    if "kappas" not in entry:
        hold_times(entry, sampler, options["tail"], schedule.build(), size)


def hold_times(entry: dict[str, Any], sampler: str, tail: str, schedule: NoiseSchedule, size: int) -> None:
    """-ln alpha at our grid is what the published network was told."""
    plugin = installed_plugins().samplers.get(sampler).build({"tail": tail})
    count = entry["steps"] + (tail != "none")
    steps = torch.full((count,), count)
    _, now, _ = plugin.levels(schedule, torch.arange(count), steps, size)  # type: ignore[attr-defined]
    told = torch.tensor(entry["network_time_input"], dtype=torch.float64)
    told = told[:: entry["forwards"] // count]
    torch.testing.assert_close(now.alpha, (-told).exp(), rtol=1e-4, atol=1e-7)


def follow(entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the sampler take the published run's own times and shares."""
    times, kappas = torch.tensor(entry["timesteps"], dtype=torch.float64), entry["kappas"]
    current = []

    def grid(self: PredictorCorrector, index: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        current.append(int(index[0]))
        return times[index], times[(index + 1).clamp(max=len(times) - 1)]

    def kappa(self: PredictorCorrector, time: Tensor) -> Tensor:
        return torch.full_like(time, kappas[current[-1]])

    monkeypatch.setattr(PredictorCorrector, "grid", grid)
    monkeypatch.setattr(PredictorCorrector, "kappa", kappa)


# --- the exact law -----------------------------------------------------------------------------------


def law(
    toy: dict[str, Any], entry: dict[str, Any], schedule: NoiseSchedule, grid: list[float], knows_mask: bool
) -> Tensor:
    """[V] float64: of the token after going down `grid`, and for Duo and MDLM the tail."""
    size, mask = toy["vocab_size"], toy["mask_token_id"]
    base, by_token, by_time = (
        torch.tensor(toy[name], dtype=torch.float64) for name in ("base", "by_token", "by_time")
    )
    tokens = torch.arange(size)

    def model(t: float) -> Tensor:
        logits = base + (
            by_token + t * by_time if entry["denoiser"] == "varying" else torch.zeros(size, size)
        )
        if not knows_mask:
            logits = logits.index_fill(1, torch.tensor([mask]), -torch.inf)
        return logits.softmax(-1)

    def level(t: float) -> NoiseLevel:
        return level_at(schedule, torch.full((size,), t, dtype=torch.float64), size)

    def table(t: float, posterior: Callable[[Tensor, Tensor], Posterior]) -> Tensor:
        x = model(t)
        return posterior(x.diagonal(), tokens == mask).table(x, tokens, mask)

    start = torch.full((size,), 1 / size, dtype=torch.float64)
    chances = start if schedule.destination == "uniform" else one_hot(torch.tensor(mask), size).double()
    for t, s in itertools.pairwise(grid):
        chances = chances @ table(t, functools.partial(reverse_posterior, now=level(t), earlier=level(s)))
    if entry["algorithm"].endswith("ancestral"):
        t = grid[-1]
        chances = chances @ table(t, lambda x, z: reverse_posterior(x, z, level(t), no_noise(level(t))))
    elif entry["algorithm"].endswith("greedy"):
        chances = chances @ one_hot(model(grid[-1]).argmax(-1), size).double()
    return chances


@golden("uniform-noise")
def test_the_exact_law_after_the_published_steps(vectors: Vectors) -> None:
    toy = vectors.expected["toy_bound"]
    for entry in toy["sampler_distribution"]:
        steps, algorithm = entry["steps"], entry["algorithm"]
        grid = torch.linspace(1, 1e-5, steps + 1, dtype=torch.float64).tolist()
        if algorithm == "gidd":
            ends = ((1 - 2e-4) * torch.linspace(0, 1, steps + 1, dtype=torch.float64) + 1e-4).tolist()
            found = law(
                toy,
                entry,
                mixture(entry),
                ends[:steps][::-1],
                knows_mask=False,
            )
        elif algorithm == "mdlm_ancestral":
            found = law(toy, entry, chosen("loglinear").build(), grid, knows_mask=False)
        else:
            uniform = chosen("loglinear", destination="uniform").build()
            found = law(toy, entry, uniform, grid, knows_mask=True)
        wanted = torch.tensor(entry["probabilities"], dtype=torch.float64)
        torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-4)

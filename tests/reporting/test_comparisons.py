"""Paired differences, what is best, and means over seeds."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Mapping, Sequence

import pytest
from scipy.stats import binomtest, t, ttest_ind

from opendllm.core.reporting.collect import read_study
from opendllm.core.reporting.comparisons import Verdict, compare
from opendllm.core.reporting.paired_tests import PairedTasks, mcnemar_exact, sign_flip_p
from opendllm.core.reporting.repeats import SeedMean, contenders, differ_beyond_seeds, t_quantile
from opendllm.core.reporting.significance import best, certainty

from .conftest import FakeRun

METRIC = ("stdlib-infilling", "token_accuracy_oracle")


def shares(values: Sequence[float]) -> dict[str, float]:
    return {f"t{task}": value for task, value in enumerate(values)}


def said(run: FakeRun) -> tuple[Verdict, str | None]:
    """The verdict on llada against zebra, and which of them is marked."""
    study = read_study([run.folder])
    verdicts = [each.verdict for each in compare(study) if each.metric == METRIC[1]]
    return verdicts[0], best(study, *METRIC)


def test_each_variant_is_compared_with_the_first_on_the_tasks_that_both_answered(run: FakeRun) -> None:
    run.infilling("zebra", {"a": 0.5, "b": 0.1, "only-zebra": 0.0}, 0.2)
    run.infilling("llada", {"b": 0.3, "a": 0.9, "only-llada": 1.0}, 0.6)
    (comparison,) = compare(read_study([run.folder]))
    assert (comparison.variant, comparison.baseline, len(comparison.paired.tasks)) == ("llada", "zebra", 2)
    assert comparison.paired.difference == pytest.approx(0.3)
    assert comparison.paired.interval == pytest.approx((0.2, 0.4))


def test_truth_values_count_as_zero_and_one(run: FakeRun) -> None:
    for name, answers in (("zebra", (False, False)), ("llada", (True, False))):
        per_task = {str(task): {"passed": passed} for task, passed in enumerate(answers)}
        run.result(name, "stdlib-infilling", {"passed": (0.5, 0.0, 1.0)}, per_task=per_task)
    (comparison,) = compare(read_study([run.folder]))
    assert comparison.paired.difference == pytest.approx(0.5)


@pytest.mark.parametrize(("lower", "verdict"), [([], "worse"), (["nats"], "better")])
def test_the_verdict_minds_which_direction_is_better(run: FakeRun, lower: list[str], verdict: str) -> None:
    for name, nats in (("zebra", 3.0), ("llada", 2.0)):
        per_task = {str(task): {"nats": nats} for task in range(6)}
        run.result(name, "perplexity", {"nats": (nats, nats, nats)}, per_task=per_task, lower_is_better=lower)
    comparisons = {comparison.metric: comparison for comparison in compare(read_study([run.folder]))}
    assert comparisons["nats"].verdict == verdict


@pytest.mark.parametrize("tasks", [20, 164, 500])
@pytest.mark.parametrize(("gained", "marked"), [(4, None), (5, None), (6, "llada")])
def test_so_many_tasks_gained_and_none_lost_are_judged_as_mcnemars_test_does(
    run: FakeRun, tasks: int, gained: int, marked: str | None
) -> None:
    """Verdict, star and p of one row never contradict each other."""
    run.infilling("zebra", shares([0.0] * tasks), 0.0)
    run.infilling("llada", shares([1.0] * gained + [0.0] * (tasks - gained)), gained / tasks)
    assert said(run) == ("better" if marked else "undecided", marked)
    (comparison,) = compare(read_study([run.folder]))
    assert comparison.paired.test == "McNemar"
    assert comparison.paired.p_value == pytest.approx(2 * 0.5**gained)


@pytest.mark.parametrize(
    ("gained", "lost", "marked"), [(20, 0, "llada"), (20, 10, None), (20, 5, "llada"), (1, 0, None)]
)
def test_tasks_lost_count_against_those_gained(
    run: FakeRun, gained: int, lost: int, marked: str | None
) -> None:
    run.infilling("zebra", shares([0.0] * gained + [1.0] * lost + [0.5] * 30), 0.1)
    run.infilling("llada", shares([1.0] * gained + [0.0] * lost + [0.5] * 30), 0.9)
    assert said(run) == ("better" if marked else "undecided", marked)


@pytest.mark.parametrize("differing", [1, 2, 5])
def test_fewer_than_six_tasks_that_differ_prove_nothing_however_far(run: FakeRun, differing: int) -> None:
    """Graded ones too, and among however many that don't."""
    for alike in (0, 300):
        run.infilling("zebra", shares([0.0] * differing + [0.5] * alike), 0.1)
        more = [0.9 + task / 100 for task in range(differing)]
        run.infilling("llada", shares(more + [0.5] * alike), 0.9)
        assert said(run) == ("undecided", None)


def test_graded_tasks_are_judged_by_sign_flips(run: FakeRun) -> None:
    run.infilling("zebra", shares([0.3] * 8), 0.3)
    for last, expected in ((0.35, "better"), (0.0, "undecided")):
        run.infilling("llada", shares([0.4, 0.5, 0.6, 0.4, 0.5, 0.6, 0.7, last]), 0.5)
        (comparison,) = compare(read_study([run.folder]))
        assert (comparison.verdict, comparison.paired.test) == (expected, "sign flips")


@pytest.mark.parametrize("size", [3, 7, 12])
def test_few_sign_flips_are_enumerated(size: int) -> None:
    generator = random.Random(size)
    values = tuple(generator.gauss(0.4, 1.0) for _ in range(size))
    flips = [
        abs(sum(sign * value for sign, value in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=size)
    ]
    expected = sum(flip >= abs(sum(values)) - 1e-9 for flip in flips) / len(flips)
    assert sign_flip_p((*values, 0.0, 0.0)) == pytest.approx(expected)


@pytest.mark.parametrize("size", [20, 300, 5000])
def test_many_sign_flips_agree_with_the_binomial_test_where_nearly_all_are_as_large(size: int) -> None:
    """By drawing and by the normal limit; equal ones are McNemar's, to the last digit."""
    gained = round(size / 2 + 1.1 * math.sqrt(size))
    signs = [1.0] * gained + [-1.0] * (size - gained)
    expected = float(binomtest(gained, size).pvalue)
    assert sign_flip_p(tuple(signs)) == pytest.approx(expected)
    nearly = tuple(sign * (1 + (task % 2) * 1e-6) for task, sign in enumerate(signs))
    assert sign_flip_p(nearly) == pytest.approx(expected, abs=0.01)


def test_outliers_among_many_small_differences_are_few() -> None:
    """The normal limit would find four significant."""
    assert sign_flip_p((*[100.0] * 4, *[(-1.0) ** task * 0.01 for task in range(60)])) > 0.05


def test_a_difference_of_nothing_has_a_p_value_of_one() -> None:
    assert sign_flip_p((0.0,) * 50) == 1.0
    assert sign_flip_p((0.1 + 0.2 - 0.3,) * 50) == 1.0


def means(differences: Sequence[float]) -> PairedTasks:
    return PairedTasks(tuple((0.0, 1.0, difference, 1.0) for difference in differences))


@pytest.mark.parametrize("size", [200, 400])
def test_a_means_interval_is_the_normal_one_where_that_holds(size: int) -> None:
    """By resampling, and by the limit of that."""
    generator = random.Random(3)
    differences = [generator.gauss(0.1, 1.0) for _ in range(size)]
    mean, error = statistics.fmean(differences), 1.96 * statistics.stdev(differences) / math.sqrt(size)
    found = means(differences)
    assert found.difference == pytest.approx(mean)
    assert found.interval == pytest.approx((mean - error, mean + error), abs=0.02)


def test_thousands_of_tasks_have_an_interval_too() -> None:
    assert means([0.0, 1.0] * 5000).interval == pytest.approx((0.4902, 0.5098), abs=1e-4)


def documents(run: FakeRun, name: str, nats: Sequence[float], kind: str = "upper bound") -> None:
    """A perplexity of documents of 10, 20, 30, ... tokens, with a small error of its own."""
    tokens = [10.0 * (number + 1) for number in range(len(nats))]
    value = math.exp(sum(nats) / sum(tokens))
    ends = (value, value) if kind == "exact" else (value * 0.999, value * 1.001)
    ratio = {"numerator": "nats", "denominator": "tokens", "exponential": True}
    run.result(
        name,
        "perplexity",
        {"perplexity": (value, *ends, kind, ratio)},
        lower_is_better=["perplexity"],
        per_task={
            f"d{number}": {"nats": each, "tokens": of}
            for number, (each, of) in enumerate(zip(nats, tokens, strict=True))
        },
    )


def judged(run: FakeRun) -> tuple[Verdict, str, str | None]:
    study = read_study([run.folder])
    [comparison] = [each for each in compare(study) if each.metric == "perplexity"]
    return comparison.verdict, comparison.why, best(study, "perplexity", "perplexity")


@pytest.mark.parametrize(
    ("better", "expected"), [(10, ("better", "", "llada")), (6, ("undecided", "", None))]
)
def test_a_perplexity_is_better_where_the_documents_say_so(
    run: FakeRun, better: int, expected: tuple[str, str, str | None]
) -> None:
    """Its own Monte-Carlo intervals don't meet in either case."""
    nats = [30.0 * (number + 1) for number in range(10)]
    documents(run, "zebra", nats)
    documents(run, "llada", [each * (0.97 if at < better else 1.01) for at, each in enumerate(nats)])
    assert judged(run) == expected


def test_a_ratios_interval_is_that_of_resampled_documents() -> None:
    tasks = tuple((30.0 * n, 10.0 * n, 29.0 * n, 10.0 * n) for n in (1, 2, 5))
    alike = PairedTasks(tasks, exponential=True)
    assert alike.difference == pytest.approx(math.exp(2.9) - math.exp(3.0))
    assert alike.interval == pytest.approx((alike.difference, alike.difference))
    low, high = PairedTasks((*tasks, (20.0, 10.0, 40.0, 10.0))).interval
    assert low == pytest.approx(-0.1)
    assert 0 < high < 2.0


@pytest.mark.parametrize("exponential", [True, False])
def test_many_documents_have_the_interval_that_resampling_would_give(exponential: bool) -> None:
    generator = random.Random(5)
    tasks = tuple(
        (generator.gauss(3.0, 0.4) * n, n, generator.gauss(2.9, 0.4) * n, n)
        for n in (generator.uniform(5, 50) for _ in range(201))
    )
    limit = PairedTasks(tasks, exponential).interval
    resampled = PairedTasks(tasks[:200], exponential).interval
    width = limit[1] - limit[0]
    assert limit == pytest.approx(resampled, abs=0.15 * width)


@pytest.mark.parametrize(
    ("zebra", "llada", "expected"),
    [
        ("upper bound", "exact", ("undecided", "a bound above a value proves nothing", None)),
        ("upper bound", "estimate", ("undecided", "a bound above a value proves nothing", None)),
        ("exact", "upper bound", ("better", "", "llada")),
        ("upper bound", "upper bound", ("better", "", "llada")),
        ("exact", "exact", ("better", "", "llada")),
    ],
)
def test_a_value_below_an_upper_bound_proves_nothing_and_a_bound_below_a_value_does(
    run: FakeRun, zebra: str, llada: str, expected: tuple[str, str, str | None]
) -> None:
    nats = [30.0 * (number + 1) for number in range(8)]
    documents(run, "zebra", nats, zebra)
    documents(run, "llada", [0.9 * each for each in nats], llada)
    assert judged(run) == expected


def test_bounds_are_minded_where_no_tasks_are_known_too(run: FakeRun) -> None:
    for kind, expected in (("exact", None), ("upper bound", "llada")):
        run.result("zebra", "p", {"p": (9.0, 8.9, 9.1, "upper bound")}, lower_is_better=["p"])
        run.result("llada", "p", {"p": (5.0, 5.0 - (kind != "exact"), 5.0, kind)}, lower_is_better=["p"])
        assert best(read_study([run.folder]), "p", "p") == expected


def test_seeds_have_a_mean_and_a_standard_deviation_and_are_paired_as_one(empty_run: FakeRun) -> None:
    for seed, value in enumerate((10.0, 12.0, 14.0)):
        empty_run.perplexity(f"llada-seed-{seed}", value)
        empty_run.infilling(f"llada-seed-{seed}", {"a": value}, 0.1)
    empty_run.infilling("zebra", {"a": 2.0}, 0.1)
    study = read_study([empty_run.folder])
    zebra, llada = contenders(study)
    mean = llada.seed_mean("perplexity", "perplexity")
    assert mean is not None
    assert (mean.mean, mean.standard_deviation, mean.seeds) == (12.0, 2.0, 3)
    assert zebra.seed_mean("perplexity", "perplexity") is None
    (comparison,) = compare(study)
    assert (comparison.variant, comparison.paired.difference) == ("llada", 10.0)


def test_the_best_is_the_least_where_less_is_better_and_none_of_a_tie(run: FakeRun) -> None:
    run.perplexity("zebra", 166.0)
    study = read_study([run.folder])
    assert best(study, "perplexity", "perplexity") == "llada"
    assert best(study, *METRIC) == "llada"
    run.perplexity("zebra", 66.0)
    assert best(read_study([run.folder]), "perplexity", "perplexity") is None
    run.perplexity("llada", None)
    assert best(read_study([run.folder]), "perplexity", "perplexity") is None


def test_without_tasks_in_common_the_best_has_an_interval_that_meets_no_other(run: FakeRun) -> None:
    for zebra, expected in ((70.0, None), (90.0, "llada")):
        run.perplexity("zebra", zebra)  # an interval of plus and minus a tenth
        assert best(read_study([run.folder]), "perplexity", "perplexity") == expected


def test_an_interval_without_width_is_none_unless_the_score_is_exact(run: FakeRun) -> None:
    for kind, expected in (("estimate", None), ("exact", "llada")):
        for name, value in (("zebra", 9.0), ("llada", 5.0)):
            run.result(name, "p", {"p": (value, value, value, kind)}, lower_is_better=["p"])
        assert best(read_study([run.folder]), "p", "p") == expected


def test_five_at_zero_have_no_best(empty_run: FakeRun) -> None:
    for name in "abcde":
        empty_run.infilling(name, {f"t{task}": 0.0 for task in range(50)}, 0.0)
    assert best(read_study([empty_run.folder]), *METRIC) is None


def test_the_best_of_repeated_variants_must_be_so_beyond_their_seeds(empty_run: FakeRun) -> None:
    for spread, expected in ((0.1, "llada"), (6.0, None)):
        for seed in range(3):
            empty_run.perplexity(f"llada-seed-{seed}", 50 + spread * seed)
            empty_run.perplexity(f"zebra-seed-{seed}", 60 + spread * seed)
        assert best(read_study([empty_run.folder]), "perplexity", "perplexity") == expected


def seeds(run: FakeRun, means: Mapping[str, Sequence[float]], tasks: Sequence[float]) -> None:
    """Each seed's tasks are its mean and what each task adds."""
    for name, of_seeds in means.items():
        for seed, mean in enumerate(of_seeds):
            label = f"{name}-seed-{seed}" if len(of_seeds) > 1 else name
            run.infilling(label, shares([mean + more for more in tasks]), mean)


@pytest.mark.parametrize(
    ("zebra", "llada", "expected"),
    [
        ((0.2, 0.5, 0.8), (0.3, 0.55, 0.9), ("undecided", None)),  # 200 tasks, each a little better
        ((0.49, 0.5, 0.51), (0.58, 0.59, 0.6), ("better", "llada")),
        ((0.5, 0.5, 0.5), (0.58, 0.58, 0.58), ("better", "llada")),
        ((0.5,), (0.58, 0.59, 0.6), ("undecided", None)),
        ((0.5,), (0.6,), ("better", "llada")),
    ],
)
def test_of_repeated_variants_both_the_tasks_and_the_seeds_must_say_so(
    empty_run: FakeRun,
    zebra: Sequence[float],
    llada: Sequence[float],
    expected: tuple[Verdict, str | None],
) -> None:
    """A single training is no match for the mean of several: its own spread isn't known."""
    seeds(empty_run, {"zebra": zebra, "llada": llada}, [task % 7 / 100 for task in range(200)])
    assert said(empty_run) == expected


def test_seeds_that_agree_dont_make_up_for_tasks_that_may_be_chance(empty_run: FakeRun) -> None:
    for seed in range(3):
        for name, passed in (("zebra", 0), ("llada", 4)):
            values = [float(task < passed) for task in range(50)]
            empty_run.infilling(f"{name}-seed-{seed}", shares(values), passed / 50)
    assert said(empty_run) == ("undecided", None)


@pytest.mark.parametrize("freedom", [1, 2, 5, 10, 11, 20, 200])
def test_the_quantile_of_a_mean_over_seeds_is_students(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=0.001)


@pytest.mark.parametrize("gap", [0.2, 0.5, 1.1, 1.4, 2.0])
def test_seeds_are_compared_by_welchs_test(gap: float) -> None:
    one, other = [0.1, 0.3, 0.2, 0.5], [0.1 + gap, 0.9 + gap, 0.4 + gap]
    means = [SeedMean(statistics.fmean(each), statistics.stdev(each), len(each)) for each in (one, other)]
    p_value = float(ttest_ind(one, other, equal_var=False).pvalue)
    assert not 0.03 < p_value < 0.05  # degrees of freedom are rounded down
    assert differ_beyond_seeds(means[0], means[1]) == (p_value < 0.05)


def test_only_what_is_stated_to_be_exact_is_called_so(run: FakeRun) -> None:
    """No width says nothing: tasks that are all alike have none, nor has a standard error of 0."""
    alike = {f"t{task}": {"share": 0.0, "bits": float(task)} for task in range(9)}
    run.result("llada", "b", {"bits": (4.0, 4.0, 4.0), "share": (0.0, 0.0, 0.0)}, per_task=alike)
    metrics = {"perplexity": (43.7, 43.7, 43.7, "exact"), "odd": (0.0, 0.0, 0.0), "wide": (1.0, 0.5, 2.0)}
    run.result("llada", "c", metrics)
    _, llada = read_study([run.folder]).variants
    found = {metric: certainty(llada.benchmarks["b"], metric) for metric in ("bits", "share")}
    assert found == {"bits": "no spread", "share": "all 9 alike"}
    found = {metric: certainty(llada.benchmarks["c"], metric) for metric in metrics}
    assert found == {"perplexity": "exact for these texts", "odd": "no spread", "wide": "[0.500, 2.00]"}


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 9), (9, 3), (5, 5), (12, 1), (700, 900)])
def test_mcnemars_test_is_the_exact_binomial_one(counts: tuple[int, int]) -> None:
    p = mcnemar_exact(*counts)
    assert p == pytest.approx(binomtest(counts[0], sum(counts)).pvalue if sum(counts) else 1.0)

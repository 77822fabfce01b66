"""Paired differences, and means over seeds."""

from __future__ import annotations

import random
import statistics

import pytest
from scipy.stats import binomtest, t

from opendllm.core.reporting.collect import read_study
from opendllm.core.reporting.comparisons import compare, mcnemar_exact, paired_interval
from opendllm.core.reporting.repeats import SeedMean, contenders
from opendllm.core.reporting.significance import best, certainty

from .conftest import FakeRun


def test_each_variant_is_compared_with_the_first_on_the_tasks_that_both_answered(run: FakeRun) -> None:
    run.infilling("zebra", {"a": 0.5, "b": 0.1, "only-zebra": 0.0}, 0.2)
    run.infilling("llada", {"b": 0.3, "a": 0.9, "only-llada": 1.0}, 0.6)
    (comparison,) = compare(read_study([run.folder]))
    assert (comparison.variant, comparison.baseline, comparison.tasks) == ("llada", "zebra", 2)
    assert comparison.difference == pytest.approx(0.3)
    assert (comparison.low, comparison.high) == pytest.approx((0.2, 0.4))
    assert comparison.verdict == "better"


def test_truth_values_count_as_zero_and_one(run: FakeRun) -> None:
    for name, answers in (("zebra", (False, False)), ("llada", (True, False))):
        per_task = {str(task): {"passed": passed} for task, passed in enumerate(answers)}
        run.result(name, "stdlib-infilling", {"passed": (0.5, 0.0, 1.0)}, per_task=per_task)
    (comparison,) = compare(read_study([run.folder]))
    assert comparison.difference == pytest.approx(0.5)


@pytest.mark.parametrize(("lower", "verdict"), [([], "worse"), (["nats"], "better")])
def test_the_verdict_minds_which_direction_is_better(run: FakeRun, lower: list[str], verdict: str) -> None:
    for name, nats in (("zebra", 3.0), ("llada", 2.0)):
        per_task = {str(task): {"nats": nats} for task in range(4)}
        run.result(name, "perplexity", {"nats": (nats, nats, nats)}, per_task=per_task, lower_is_better=lower)
    comparisons = {comparison.metric: comparison for comparison in compare(read_study([run.folder]))}
    assert comparisons["nats"].verdict == verdict


def test_a_difference_whose_interval_holds_zero_is_undecided(run: FakeRun) -> None:
    run.infilling("zebra", {"a": 0.5, "b": 0.5}, 0.5)
    run.infilling("llada", {"a": 0.0, "b": 1.0}, 0.5)
    (comparison,) = compare(read_study([run.folder]))
    assert comparison.verdict == "undecided"


def test_the_bootstrap_agrees_with_the_normal_interval_where_that_holds() -> None:
    generator = random.Random(3)
    differences = [generator.gauss(0.1, 1.0) for _ in range(400)]
    mean, low, high = paired_interval(differences)
    error = 1.96 * statistics.stdev(differences) / 20
    assert mean == pytest.approx(statistics.fmean(differences))
    assert (low, high) == pytest.approx((mean - error, mean + error), abs=0.02)


def test_thousands_of_tasks_have_an_interval_too() -> None:
    mean, low, high = paired_interval([0.0, 1.0] * 5000)
    assert (mean, low, high) == pytest.approx((0.5, 0.4902, 0.5098), abs=1e-4)


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
    assert (comparison.variant, comparison.difference) == ("llada", 10.0)


def test_the_best_is_the_least_where_less_is_better_and_none_of_a_tie(run: FakeRun) -> None:
    run.perplexity("zebra", 166.0)
    study = read_study([run.folder])
    assert best(study, "perplexity", "perplexity") == "llada"
    assert best(study, "stdlib-infilling", "token_accuracy_oracle") == "llada"
    run.perplexity("zebra", 66.0)
    assert best(read_study([run.folder]), "perplexity", "perplexity") is None
    run.perplexity("llada", None)
    assert best(read_study([run.folder]), "perplexity", "perplexity") is None


def test_without_tasks_in_common_the_best_has_an_interval_that_meets_no_other(run: FakeRun) -> None:
    for zebra, expected in ((70.0, None), (90.0, "llada")):
        run.perplexity("zebra", zebra)  # an interval of plus and minus a tenth
        assert best(read_study([run.folder]), "perplexity", "perplexity") == expected


def test_a_difference_that_may_be_chance_has_no_best(run: FakeRun) -> None:
    """One more of many tasks is no news; nor is any number of tasks below six."""
    for tasks, more, expected in ((60, 1, None), (60, 20, "llada"), (5, 5, None), (6, 6, "llada")):
        for name, passed in (("zebra", 0), ("llada", more)):
            accuracies = {f"t{task}": float(task < passed) for task in range(tasks)}
            run.infilling(name, accuracies, passed / tasks)
        found = best(read_study([run.folder]), "stdlib-infilling", "token_accuracy_oracle")
        assert found == expected, (tasks, more)


def test_five_at_zero_have_no_best(empty_run: FakeRun) -> None:
    for name in "abcde":
        empty_run.infilling(name, {f"t{task}": 0.0 for task in range(50)}, 0.0)
    assert best(read_study([empty_run.folder]), "stdlib-infilling", "token_accuracy_oracle") is None


def test_the_best_of_repeated_variants_must_be_so_beyond_their_seeds(empty_run: FakeRun) -> None:
    for spread, expected in ((0.1, "llada"), (4.0, None)):
        for seed in range(3):
            empty_run.perplexity(f"llada-seed-{seed}", 50 + spread * seed)
            empty_run.perplexity(f"zebra-seed-{seed}", 60 + spread * seed)
        assert best(read_study([empty_run.folder]), "perplexity", "perplexity") == expected


@pytest.mark.parametrize("freedom", [1, 2, 5, 10, 11, 20, 200])
def test_the_interval_of_a_mean_over_seeds_is_students(freedom: int) -> None:
    reach = SeedMean(0.0, 1.0, freedom + 1).reach * (freedom + 1) ** 0.5
    assert reach == pytest.approx(t.ppf(0.975, freedom), rel=0.001)


def test_only_what_has_no_error_is_called_exact(run: FakeRun) -> None:
    """A bootstrap over tasks that are all alike has no width, and says nothing."""
    shares = {f"t{task}": {"share": 0.0, "bits": float(task)} for task in range(9)}
    run.result("llada", "b", {"bits": (4.0, 4.0, 4.0), "share": (0.0, 0.0, 0.0)}, per_task=shares)
    run.result("llada", "c", {"perplexity": (43.7, 43.7, 43.7), "wide": (1.0, 0.5, 2.0)})
    _, llada = read_study([run.folder]).variants
    found = {metric: certainty(llada.benchmarks["b"], metric) for metric in ("bits", "share")}
    assert found == {"bits": "exact", "share": "all 9 alike"}
    assert certainty(llada.benchmarks["c"], "perplexity") == "exact"
    assert certainty(llada.benchmarks["c"], "wide") == "[0.500, 2.00]"


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 9), (9, 3), (5, 5), (12, 1), (700, 900)])
def test_mcnemars_test_is_the_exact_binomial_one(counts: tuple[int, int]) -> None:
    p = mcnemar_exact(*counts)
    assert p == pytest.approx(binomtest(counts[0], sum(counts)).pvalue if sum(counts) else 1.0)


def test_mcnemars_test_is_made_where_tasks_are_passed_or_failed(run: FakeRun) -> None:
    answers = {"zebra": [1, 0, 0, 0, 0, 0, 0, 1], "llada": [0, 1, 1, 1, 1, 1, 1, 1]}
    for name, passed in answers.items():
        per_task = {str(task): {"pass@1": float(value)} for task, value in enumerate(passed)}
        run.result(name, "stdlib-infilling", {"pass@1": (0.5, 0.0, 1.0)}, per_task=per_task)
    (comparison,) = compare(read_study([run.folder]))
    assert comparison.mcnemar_p == pytest.approx(binomtest(1, 7).pvalue)
    per_task = {str(task): {"pass@1": 0.5} for task in range(8)}
    run.result("llada", "stdlib-infilling", {"pass@1": (0.5, 0.0, 1.0)}, per_task=per_task)
    (comparison,) = compare(read_study([run.folder]))
    assert comparison.mcnemar_p is None

"""Reading run folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from opendllm.core.reporting.collect import read_study
from opendllm.core.reporting.tables import notes, training_table
from opendllm.registries.errors import UserError

from .conftest import FakeRun


def labels(*folders: Path) -> list[str]:
    return [variant.label for variant in read_study(folders).variants]


def test_variants_stand_in_the_manifests_order_and_strangers_after_them(run: FakeRun) -> None:
    run.variant("another")
    assert labels(run.folder) == ["zebra", "llada", "another"]


def test_results_stand_in_the_order_of_evaluate_under_their_labels(run: FakeRun) -> None:
    evaluate = "[{benchmark: {name: stdlib-infilling}, label: zz}, {benchmark: {name: stdlib-infilling}}]"
    run.manifest(f"name: q\nvariants:\n  llada: {{evaluate: {evaluate}}}\n")
    run.result("zebra", "zz", {"m": (1.0, 1.0, 1.0)})
    assert read_study([run.folder]).benchmarks == ("zz", "stdlib-infilling", "perplexity")


def test_seeds_of_a_variant_follow_each_other_in_numerical_order(empty_run: FakeRun) -> None:
    for seed in (10, 9):
        for name in ("llada", "zebra"):
            empty_run.variant(f"{name}-seed-{seed}", seed=seed)
            empty_run.perplexity(f"{name}-seed-{seed}", 60.0)
    assert labels(empty_run.folder) == ["zebra-seed-9", "zebra-seed-10", "llada-seed-9", "llada-seed-10"]


def test_a_resolved_manifest_may_spell_out_every_seed(empty_run: FakeRun) -> None:
    names = [f"{name}-seed-{seed}" for seed in (1, 0) for name in ("zebra", "llada")]
    variants = ", ".join(f"{name}: {{seed: {name[-1]}}}" for name in names)
    empty_run.manifest(f"name: q\nvariants: {{{variants}}}\n")
    for name in names[:3]:
        empty_run.variant(name, seed=int(name[-1]))
        empty_run.perplexity(name, 60.0)
    study = read_study([empty_run.folder])
    assert [variant.group for variant in study.variants] == ["zebra", "zebra", "llada", "llada"]
    assert labels(empty_run.folder) == ["zebra-seed-0", "zebra-seed-1", "llada-seed-0", "llada-seed-1"]
    assert study.runs[0].seeds == (0, 1)


def test_a_variant_whose_name_ends_with_another_seed_than_its_own_is_no_repetition(run: FakeRun) -> None:
    run.variant("llada-seed-1", seed=7)
    assert [variant.group for variant in read_study([run.folder]).variants][2:] == ["llada-seed-1"]


def test_a_declared_variant_without_a_folder_is_there_and_empty(run: FakeRun) -> None:
    run.manifest("name: q\nvariants: {ghost: {}, llada: {}, zebra: {}}\n")
    ghost = read_study([run.folder]).variants[0]
    assert (ghost.label, ghost.training, dict(ghost.benchmarks)) == ("ghost", None, {})


def test_folders_that_are_no_variants_are_left_alone(run: FakeRun) -> None:
    (run.folder / "cache").mkdir()
    assert labels(run.folder) == ["zebra", "llada"]


def test_a_variant_that_shares_a_training_run_shows_its_log(run: FakeRun) -> None:
    run.variant("sampler-only", trained_in="llada")
    run.perplexity("sampler-only", 70.0)
    shared = read_study([run.folder]).variants[2]
    assert shared.trained_in == "llada"
    assert shared.training is not None
    assert shared.training.steps == 3


def test_the_held_out_loss_of_step_zero_starts_its_curve_and_not_the_losss(run: FakeRun) -> None:
    training = read_study([run.folder]).variants[0].training
    assert training is not None
    assert training.held_out_loss == ((0, 6.3), (3, 4.1))
    assert training.loss == ((1, 6.0), (2, 5.0), (3, 4.0))
    assert training.tokens == 3 * 2048
    assert training.tokens_per_second == pytest.approx(2000.0)


def test_steps_that_a_continued_run_logged_again_count_once_and_with_their_later_loss(run: FakeRun) -> None:
    with (run.folder / "zebra/train.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 1.5, "tokens": 6144, "tokens_per_second": 3000.0, "seconds": 0.5}\n')
    training = read_study([run.folder]).variants[0].training
    assert training is not None
    assert training.loss[-1] == (3, 1.5)
    assert training.tokens == 3 * 2048


def test_an_interrupted_last_line_is_ignored_and_one_in_the_middle_is_counted(run: FakeRun) -> None:
    log = run.folder / "zebra/train.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"step": 4, "lo')
    training = read_study([run.folder]).variants[0].training
    assert training is not None
    assert (training.steps, training.unreadable_lines) == (3, 0)
    log.write_text('{"step": 4, "lo\n' + whole)
    training = read_study([run.folder]).variants[0].training
    assert training is not None
    assert (training.steps, training.unreadable_lines) == (3, 1)


@pytest.mark.parametrize(
    "content",
    [
        '{"metrics": {',
        "[1]",
        '{"metrics": []}',
        '{"metrics": {"m": 3}}',
        '{"headline": "m"}',
        '{"per_task": 1}',
    ],
)
def test_a_broken_result_file_is_named_in_one_line_and_the_rest_is_read(run: FakeRun, content: str) -> None:
    path = run.folder / "llada/results/perplexity.json"
    path.write_text(content)
    zebra, llada = read_study([run.folder]).variants
    assert llada.damage.keys() == {"results/perplexity.json"}
    assert str(path) in llada.damage["results/perplexity.json"]
    assert "\n" not in llada.damage["results/perplexity.json"]
    assert (llada.lacks("perplexity"), zebra.lacks("perplexity")) == ("damaged", None)
    assert llada.benchmarks.keys() == {"stdlib-infilling"}
    assert zebra.benchmarks.keys() == {"stdlib-infilling", "perplexity"}


@pytest.mark.parametrize(
    "name", ["variant.json", "train.jsonl", "samples/stdlib-infilling.jsonl", "traces/stdlib-infilling.json"]
)
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b'{"a": [\n', b"[[[[" * 50_000 + b"\n"])
def test_any_file_of_a_variant_may_be_broken(run: FakeRun, name: str, content: bytes) -> None:
    run.trace("zebra", "stdlib-infilling")
    path = run.folder / "zebra" / name
    path.write_bytes(content + path.read_bytes())
    zebra, llada = read_study([run.folder]).variants
    training = zebra.training
    assert name in zebra.damage or (training is not None and training.unreadable_lines)
    assert all(str(run.folder) in reason and "\n" not in reason for reason in zebra.damage.values())
    assert zebra.benchmarks["perplexity"].metrics["perplexity"].value == 88.0
    assert not llada.damage


def test_a_broken_manifest_is_named_and_the_variants_are_read(run: FakeRun) -> None:
    path = run.folder / "manifest.resolved.yaml"
    for content in (b"{a: [", b"\xff\xfe", b"- 1", b"variants: 3\nevaluate: 7\npublished: {a: 1}\n"):
        path.write_bytes(content)
        study = read_study([run.folder])
        assert {variant.label for variant in study.variants} == {"zebra", "llada"}
        assert all(str(path) in reason for reason in study.runs[0].damage.values())
    path.write_bytes(b"{a: [")
    assert list(read_study([run.folder]).runs[0].damage) == ["manifest.resolved.yaml"]


def test_a_result_that_the_manifest_asks_for_and_isnt_there_is_missing(run: FakeRun) -> None:
    (run.folder / "llada/results/perplexity.json").unlink()
    zebra, llada = read_study([run.folder]).variants
    assert (llada.lacks("perplexity"), llada.lacks("another"), zebra.lacks("perplexity")) == (
        "missing",
        None,
        None,
    )


def test_a_run_without_any_result_is_refused_in_one_line(empty_run: FakeRun) -> None:
    empty_run.variant("llada")
    empty_run.training("llada")
    with pytest.raises(UserError, match="no results to report") as caught:
        read_study([empty_run.folder])
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        read_study([tmp_path / "nowhere"])


def test_one_run_given_twice_is_refused(run: FakeRun) -> None:
    with pytest.raises(UserError, match="given 2 times"):
        read_study([run.folder, run.folder / "../quickstart"])


def test_of_several_runs_each_label_starts_with_what_tells_the_folders_apart(
    run: FakeRun, tmp_path: Path
) -> None:
    other = type(run)(tmp_path / "elsewhere" / "quickstart")
    other.perplexity("llada", 50.0)
    other.variant("shared", trained_in="llada")
    other.training("llada")
    study = read_study([run.folder, other.folder])
    assert [variant.label for variant in study.variants] == [
        "runs/quickstart/zebra",
        "runs/quickstart/llada",
        "elsewhere/quickstart/llada",
        "elsewhere/quickstart/shared",
    ]
    assert study.variants[3].trained_in == "elsewhere/quickstart/llada"


def test_a_run_without_a_manifest_is_called_like_its_folder(run: FakeRun) -> None:
    (run.folder / "manifest.resolved.yaml").unlink()
    study = read_study([run.folder])
    assert (study.name, labels(run.folder)) == ("quickstart", ["llada", "zebra"])


def test_numbers_that_are_not_finite_are_missing(run: FakeRun) -> None:
    path = run.folder / "llada/results/perplexity.json"
    path.write_text('{"metrics": {"perplexity": {"value": NaN, "low": -Infinity, "high": 1e999}}}')
    estimate = read_study([run.folder]).variants[1].benchmarks["perplexity"].metrics["perplexity"]
    assert (estimate.value, estimate.low, estimate.high) == (None, None, None)


def test_a_loss_that_is_no_number_is_not_replaced_by_an_earlier_one(run: FakeRun) -> None:
    """As older versions logged it: the report would show the untrained loss as the last."""
    with (run.folder / "zebra/train.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 2.0, "held_out_loss": NaN}\n')
    study = read_study([run.folder])
    [zebra] = [variant for variant in study.variants if variant.label == "zebra"]
    assert zebra.training is not None
    assert zebra.training.lost_from == 4
    [row] = [row for row in training_table(study).rows if row[0].value == "zebra"]
    assert row[-2].value == "6.30 → -"
    assert "zebra: its losses are no numbers from step 4 on: its weights are lost" in notes(study)

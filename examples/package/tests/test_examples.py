"""The contract of every plugin of the package."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from opendllm.core.testing import (
    BackboneContract,
    BenchmarkContract,
    CorpusContract,
    NoiseScheduleContract,
    ObjectiveContract,
    RewardContract,
    SamplerContract,
)
from opendllm.registries.backbones import Vocabulary
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.rewards import RewardContext

from opendllm_examples import Olmo2Architecture, Olmo2Options


class TestSigmoid(NoiseScheduleContract):
    plugin = "sigmoid"


class TestFocal(ObjectiveContract):
    plugin = "focal"


class TestSettled(SamplerContract):
    plugin = "settled"


class TestOlmo2(BackboneContract):
    plugin = "olmo2"


def test_olmo2_is_planned_with_as_many_parameters_as_it_has() -> None:
    backbone = installed_plugins().backbones.get("olmo2").build()
    module = backbone.build(Vocabulary(size=300, mask_token_id=1, eos_token_id=0)).module
    planned = Olmo2Options().architecture(300)
    assert isinstance(planned, Olmo2Architecture)
    assert planned.parameters == sum(parameter.numel() for parameter in module.parameters())


class TestRepetition(RewardContract):
    plugin = "repetition"


def test_repetition_loses_the_share_of_what_comes_again() -> None:
    reward = installed_plugins().rewards.get("repetition").build({"words": 2, "penalty": 2.0})
    texts = ["a b c a b c a b c", "A b c a B c", "a b c", "a", ""]
    completions = [Completion(Problem("p", Gap("")), n, text) for n, text in enumerate(texts)]
    assert list(reward.values(completions, RewardContext())) == pytest.approx([-1.25, -0.8, 0, 0, 0])


class TestCloze(BenchmarkContract):
    plugin = "cloze"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "texts.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute('CREATE TABLE "my ""texts""" (body TEXT, number INTEGER)')
        rows = [(f"text number {number} of many", number) for number in range(100)]
        connection.executemany('INSERT INTO "my ""texts""" VALUES (?, ?)', rows)
    return path


class TestSqlite(CorpusContract):
    plugin = "sqlite"

    @pytest.fixture(autouse=True)
    def _a_table(self, database: Path) -> None:
        type(self).options = {"database": str(database), "table": 'my "texts"', "column": "body"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": "others"}, "no table 'others': it has"),
        ({"table": 'my "texts"', "column": "words"}, "no column 'words'"),
        ({"table": 'my "texts"', "column": "number"}, "holds int, not text, in row 1"),
        ({"database": "nowhere.db"}, "nowhere.db is no file"),
        ({"database": __file__}, "cannot be read as SQLite"),
    ],
)
def test_what_sqlite_cannot_read_it_names(database: Path, options: dict[str, str], message: str) -> None:
    corpus = installed_plugins().corpora.get("sqlite").build({"database": str(database), **options})
    with pytest.raises(UserError, match=message):
        list(corpus.documents("train"))

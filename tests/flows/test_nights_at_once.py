"""Runs of two processes that begin at once on one home: each row, file and model version is there once."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

from features import Entity, Feature, FeatureGroup, FeatureService, ModelSpec, Registry, Source
from infra.ledger import Ledger
from infra.turns import INGEST, training, turn
from infra.wiring import connect, open_platform
from up_home import ROOT, until

HOUR = timedelta(hours=1)
ABOUT = {"owner": "o", "description": "d"}
card = Entity("card", keys={"card_id": pl.Int64()})
payments = Source(
    "payments",
    {"card_id": pl.Int64(), "x": pl.Float64(), "y": pl.Float64(), "at": pl.Datetime("us", "UTC")},
    event_timestamp="at",
)
inputs = FeatureGroup("inputs", "1.0.0", card, payments, [Feature("x", pl.col("x"))], grain="event", **ABOUT)
labels = FeatureGroup("labels", "1.0.0", card, payments, [Feature("y", pl.col("y"))], grain="event", **ABOUT)
price = ModelSpec(
    "price", FeatureService("service", [inputs], **ABOUT), "labels:y", LinearRegression(), label_delay="1h", **ABOUT
)
REGISTRY = Registry([labels, price])


def paid(first: int, count: int, end: datetime) -> pl.DataFrame:
    """So many payments by cards of their own, one an hour, before a moment."""
    cards = range(first, first + count)
    at = [end - HOUR * (count - i) for i in range(count)]
    return pl.DataFrame({"card_id": cards, "x": map(float, cards), "y": map(float, cards), "at": at})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A shop with enough backfilled examples for a model, and a day of payments that nobody took in yet."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    with connect(REGISTRY, tmp_path) as store:
        store.write_source(payments, paid(0, 100, midnight - 24 * HOUR))
        for group in (inputs, labels):
            store.materialize(group, midnight - 200 * HOUR, midnight - 24 * HOUR)
            store.sync(group)
    folder = tmp_path / "landing" / "payments"
    folder.mkdir(parents=True)
    paid(100, 24, midnight).write_parquet(folder / "yesterday.parquet")
    return tmp_path


def begin(home: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A command in a process of its own, whose words go to files of that name."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    named = {"FEATUREFAB_HOME": str(home), "FEATUREFAB_REGISTRY": f"{__name__}:REGISTRY"}
    path = os.pathsep.join(map(str, [ROOT, ROOT / "tests", Path(__file__).parent]))
    with (home / f"{name}.out").open("wb") as out, (home / f"{name}.err").open("wb") as err:
        command = [sys.executable, "-m", "flows", *arguments]
        return subprocess.Popen(command, env=own | named | {"PYTHONPATH": path}, stdout=out, stderr=err)


def appended(home: Path, table: str) -> list[int]:
    """The cards of a table's rows, in order."""
    with open_platform(REGISTRY, home) as platform:
        found = platform.lake.table(table).scan()
        assert found is not None
        return found.select("card_id").collect()["card_id"].sort().to_list()


@pytest.mark.prove
def test_two_nights_at_once_come_one_after_the_other(home: Path) -> None:
    with turn(home / "turns", "inputs", "a long run"):  # the first one is at work while the second one begins
        nights = [begin(home, name, "nightly", "--json") for name in ("one", "two")]
        said = [home / "one.err", home / "two.err"]
        until(lambda: any("note: the night waits for its turn after night of" in file.read_text() for file in said))
    assert [night.wait(180) for night in nights] == [0, 0], [file.read_text() for file in said]
    for table in ("bronze/payments", "features/inputs/v1", "features/labels/v1"):
        assert appended(home, table) == [*range(124)]
    with open_platform(REGISTRY, home) as platform:
        assert [(found.name, found.version) for found in platform.tracker.registered_models()] == [("price", "1")]
        assert Ledger(platform.lake).entries()["plan"].to_list() == [1]
        scored = platform.lake.scan_source(price.predictions(card).name)
        assert scored is not None
        by_moment = scored.collect().group_by("predicted_at").agg(pl.len(), pl.col("card_id").n_unique())
        assert by_moment.select("len", "card_id").rows() == [(24, 24)] * 2  # each night asks the model once


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("inputs", "materialize inputs"),
        ("inputs", "backfill 2026-01-01 2026-01-02 inputs"),
        pytest.param(INGEST, "ingest {}/landing", marks=pytest.mark.prove),
        pytest.param(training("price"), "train price", marks=pytest.mark.prove),
    ],
)
def test_a_command_waits_for_its_turn_as_flows_do(home: Path, name: str, command: str) -> None:
    with turn(home / "turns", name, "night of 2026-01-02"):
        begun = begin(home, "command", *command.format(home).split())
        until(lambda: "waits for its turn after night of 2026-01-02" in (home / "command.err").read_text())
    assert begun.wait(180) == 0, (home / "command.err").read_text()

"""The commands leakcheck and parity, and the parity flow: what they say, and how they end."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from features.errors import ParityBroken, StationsLost
from features.feature_rows import CREATED, DELETED, EPOCH, EVENT
from features.stores import Publication
from features.times import UTC_US
from flows.cli import app
from flows.nightly import nightly
from flows.parity import parity
from infra.wiring import connect

T0 = datetime(2026, 3, 1, tzinfo=UTC)
DEFINITIONS = """
import polars as pl
from features import Entity, Feature, FeatureGroup, Registry, Source

card = Entity("card", keys={"card_id": pl.Int64})
payments = Source(
    "payments", {"payment_id": pl.Int64, "card_id": pl.Int64, "amount": pl.Float64, "at": pl.Datetime("us", "UTC")},
    "at", keys=["payment_id"],
)

def with_next(rows):
    return rows.with_columns(next_amount=pl.col("amount").shift(-1).over("card_id", order_by="at"))

ABOUT = {"grain": "event", "owner": "me", "description": "About a card."}
paid = FeatureGroup("paid", "1.0.0", card, payments, [Feature("amount", pl.col("amount"))], **ABOUT)
peeking = FeatureGroup(
    "peeking", "1.0.0", card, payments, [Feature("next_amount", pl.col("next_amount"))],
    prepare=with_next, prepare_by=["card_id"], **ABOUT,
)
REGISTRY = Registry([paid, peeking])
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "checked_definitions.py").write_text(DEFINITIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("FEATUREFAB_REGISTRY", "checked_definitions:REGISTRY")
    monkeypatch.setenv("FEATUREFAB_HOME", str(tmp_path / "home"))
    rows = [(i, i % 4, float(i), T0 + timedelta(hours=i)) for i in range(40)]
    with connect() as store:
        schema = store.registry.source("payments").schema
        store.write_source("payments", pl.DataFrame(rows, dict(schema), orient="row"))
        for group in ("paid", "peeking"):
            store.materialize_incremental(group)
            store.sync(group)
    yield tmp_path / "home"
    sys.modules.pop("checked_definitions", None)


def break_the_online_store(card_id):
    with connect() as store:
        table_id = store.registry.group("paid").table_id
        row = {"card_id": card_id, EVENT: T0 + timedelta(days=2), CREATED: store.now(), EPOCH: 0, DELETED: False}
        rows = pl.DataFrame([row | {"amount": -1.0}], schema_overrides={EVENT: UTC_US, CREATED: UTC_US})
        plan = store.online.watermark(table_id)
        store.online.write(table_id, ["card_id"], rows, Publication(table_id, plan, plan + 1, store.now()))


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


@pytest.mark.usefixtures("home")
def test_leakcheck_names_the_leak_and_ends_with_an_error():
    text = run("leakcheck", code=1)
    lines = [line.split() for line in text.splitlines()]
    assert ["paid", "1", "40", "10"] in [line[:4] for line in lines]
    assert [line[-1] for line in lines if line[:1] in (["paid"], ["peeking"])] == ["ok", "LEAK"]
    assert ["peeking:next_amount"] in lines
    assert "`prepare` makes column 'next_amount' from later rows" in text


@pytest.mark.usefixtures("home")
def test_leakcheck_of_one_group_tells_of_each_feature():
    assert "LEAK" not in run("leakcheck", "paid", "--moments", 3, "--entities", 0)
    (found,) = json.loads(run("leakcheck", "peeking", "--json", code=1))
    (feature,) = found["features"]
    assert feature["changed"] > 0
    assert feature["leak"]["entity"].keys() == {"card_id"}
    assert feature["leak"]["later"].startswith("payments of 2026-03-")


@pytest.mark.usefixtures("home")
def test_parity_ends_with_an_error_once_the_online_store_was_tampered_with():
    assert "100.000%" in run("parity")
    break_the_online_store(3)
    text = run("parity", code=1)
    assert "75.000%" in text
    assert "paid:amount" in text
    (found,) = json.loads(run("parity", "paid", "--json", code=1))
    (difference,) = found["features"][0]["differences"]
    assert (difference["entity"], difference["online"], difference["offline"]) == ({"card_id": 3}, -1.0, 39.0)


@pytest.mark.usefixtures("home", "prefect")
def test_the_parity_flow_fails_where_the_stores_differ_and_the_night_says_so():
    now = datetime.now(UTC)
    assert {fact["group"]: fact["agreement"] for fact in parity(now=now)} == {"paid": 1.0, "peeking": 1.0}
    break_the_online_store(2)
    with pytest.raises(ParityBroken, match=r"answers of \['paid'\] differ: .* only 75.00% agree in 'amount'"):
        parity(now=datetime.now(UTC))
    with pytest.raises(StationsLost) as lost:
        nightly(now=datetime.now(UTC))
    assert list(lost.value.lost) == ["parity"]


@pytest.mark.usefixtures("home")
def test_the_page_shows_what_leakcheck_prints():
    page = (Path(__file__).resolve().parents[2] / "docs" / "checks.md").read_text("utf-8")
    shown = [
        " ".join(line.split()) for line in page.split("    peeking:next_amount\n")[1].split("\n\n")[0].splitlines()
    ]
    printed = [" ".join(line.split()) for line in run("leakcheck", code=1).splitlines()]
    assert len(shown) > 5
    assert printed[printed.index("peeking:next_amount") + 2 :][: len(shown)] == shown, printed

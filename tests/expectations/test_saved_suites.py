"""Suites are saved as Great Expectations reads them, and judge alike when it has read them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import great_expectations as gx
import polars as pl
import pytest

from card_payments import group
from expectations.engine import gx_context, judge_rows, judge_schema, save_suites
from expectations.masks import prepare
from expectations.rules import Between, Expression, InSet, Suite, Unique, suite_for, suite_of_group
from expectations.suites import SUITES
from features import Feature, Source
from features.times import UTC_US

orders = Source(
    "orders",
    schema={"id": pl.Int64, "at": UTC_US, "state": pl.String, "price": pl.Float64, "items": pl.Int64},
    event_timestamp="at",
    keys=["id"],
)
ORDERS = suite_for(
    orders,
    rows=[
        InSet(name="state_known", column="state", values=["open", 'it\'s "paid"']),
        Between(name="price_range", column="price", low=0, high=9.5, where={"state": "open", "items": 2}),
        Between(name="each_range", column="each", high=3, where={"state": "open"}),
        Expression(name="price_finite", ok=pl.col("price").is_finite(), why="not finite"),
        Unique(name="once_open", among=["state", "price"], where={"state": "open"}),
    ],
    derived={"each": pl.col("price") / pl.col("items")},
)
AT = datetime(2026, 3, 1, tzinfo=UTC)
ROWS = pl.DataFrame(
    {
        "id": [1, 1, 2, None, 3],
        "at": [AT] * 5,
        "state": ["open", "open", 'it\'s "paid"', "lost", "open"],
        "price": [1.0, 1.0, float("inf"), None, 99.0],
        "items": [1, 1, 1, 1, 2],
        "_file_sha256": ["f"] * 5,
    }
)


@pytest.fixture
def project(tmp_path: Path) -> Any:
    """A Great Expectations project on disk."""
    return gx.get_context(mode="file", project_root_dir=tmp_path)


def verdicts(read: gx.ExpectationSuite, rows: pl.DataFrame) -> dict[str, tuple[bool, Any]]:
    """What the suite says of rows: by rule, whether they keep it and how many break it."""
    context = gx_context()
    try:
        asset = context.data_sources.add_polars("saved").add_dataframe_asset("rows")
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": rows})
        results = batch.validate(read, result_format="BASIC").results
    finally:
        context.data_sources.delete("saved")
    return {r.expectation_config.meta["rule"]: (r.success, r.result.get("unexpected_count", 0)) for r in results}


def test_what_is_read_back_judges_alike(project: Any, tmp_path: Path) -> None:
    (file,) = save_suites([ORDERS], tmp_path / "gx/expectations")
    assert file.name == "orders.json"
    prepared = prepare(ORDERS, ROWS, "_file_sha256").rows
    prepared = prepared.with_columns(ROWS[c] for c in ROWS.columns if c not in prepared.columns)
    mine = {**judge_schema(ORDERS, prepared.schema), **judge_rows(ORDERS, prepared)}
    read = verdicts(project.suites.get("orders"), prepared)
    assert read == {name: (outcome.success, outcome.failed) for name, outcome in mine.items()}
    assert {name: failed for name, (kept, failed) in read.items() if not kept} == {
        "id_not_null": 1, "record_unique": 2, "state_known": 1, "each_range": 1, "price_range": 1, "price_finite": 1,
        "once_open": 2,
    }  # fmt: skip


def test_every_kind_of_suite_is_read_back_with_its_severities(project: Any, tmp_path: Path) -> None:
    amounts = [Feature("amount", pl.col("amount"), range=(0, 1000), unit="USD")]
    suites: list[Suite] = [*SUITES.values(), suite_of_group(group("paid", amounts, grain="event"))]
    save_suites(suites, tmp_path / "gx/expectations")
    for suite in suites:
        read = {each.meta["rule"]: each.meta for each in project.suites.get(suite.name).expectations}
        assert {name: meta["severity"] for name, meta in read.items()} == {
            rule.name: rule.severity.label for rule in (*suite.schema, *suite.rows)
        }
    assert read["amount_range"] == {"rule": "amount_range", "severity": "medium", "tolerance": 0.05, "unit": "USD"}

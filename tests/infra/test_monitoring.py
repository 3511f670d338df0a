"""The nightly report's view of tables, while definitions change."""

from __future__ import annotations

import json
from datetime import datetime

import polars as pl

from card_payments import DAY, SCHEMA, T0, group, hours, payments, total
from features import Feature, Registry, Source
from infra.monitoring import write_report
from infra.wiring import open_platform


def test_a_column_that_a_source_was_just_given_is_not_judged_before_it_has_rows(tmp_path) -> None:
    def platform(source, now: datetime):
        one = group("spent", [Feature("total", total)], source=source, grain="entity", every="1d")
        return open_platform(Registry([one]), tmp_path, lambda: now)

    with platform(payments, T0 + DAY) as before:
        rows = pl.DataFrame([(1, 1, 5.0, hours(2))], schema=SCHEMA, orient="row")
        before.store.write_source(payments, rows)
    wider = Source("payments", {**SCHEMA, "fee": pl.Float64}, "at", keys=["payment_id"])
    with platform(wider, T0 + DAY) as after:
        report = json.loads(write_report(after).path.with_suffix(".json").read_text("utf-8"))
    assert {"payments:card_id", "payments:amount"} == {d["ref"] for d in report["drift"] if "payments" in d["ref"]}

"""Inputs: which version of a record was known when."""

from __future__ import annotations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from card_payments import T0, hours, last_payment
from features.compute import input_dtypes, stored_schema
from features.feature_rows import AS_IF, CREATED, DELETED, EPOCH, EVENT, PLAN
from features.inputs import ARRIVAL, SUPERSEDED, Input
from features.stores import Plan
from infra.storage.delta import DeltaLake

DTYPES = stored_schema(last_payment)


def upstream(folder, known):
    """An input whose one record has versions 0, 1, ... in this order, known at these hours."""
    lake = DeltaLake(folder)
    plan = Plan(1, "backfill", hours(99), None, {}, [(T0, hours(99))])
    schema = {**DTYPES, EVENT: pl.Datetime("us", "UTC"), CREATED: pl.Datetime("us", "UTC")}
    rows = pl.DataFrame(
        [{"card_id": 1, "amount_last": float(n), EVENT: T0, CREATED: hours(100 + n)} for n in range(len(known))],
        schema=schema,
    ).with_columns(
        pl.lit(1, pl.Int64).alias(PLAN),
        pl.Series(AS_IF, [hours(h) for h in known], pl.Datetime("us", "UTC")),
        pl.lit(0, pl.Int64).alias(EPOCH),
        pl.lit(False).alias(DELETED),
    )
    table = lake.feature_table(last_payment.table_id, DTYPES, last_payment.keys)
    table.open_plan(plan)
    table.append(plan, 0, rows)
    table.close_plan(plan, {})
    return Input("up", last_payment, input_dtypes(last_payment), lake)


@settings(max_examples=25)
@given(known=st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_at_every_moment_the_last_version_that_was_known_counts(tmp_path_factory, known):
    one = upstream(tmp_path_factory.mktemp("lake"), known)
    versions = one.scan(one.version(), hours(99), superseded=True).collect()
    for moment in range(11):
        counts = (pl.col(ARRIVAL) <= hours(moment)) & (pl.col(SUPERSEDED) > hours(moment)).fill_null(value=True)
        shown = versions.filter(counts)["amount_last"].to_list()
        assert shown == [float(n) for n, hour in enumerate(known) if hour <= moment][-1:]

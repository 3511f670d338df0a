"""Column tracing: which source columns are seen to enter a feature, through whatever `prepare` does."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import Entity, Feature, FeatureGroup, Source
from features.column_trace import ASSUMED, OVER_REPORTED, trace
from features.definitions import REGISTRY
from features.errors import DefinitionError

card = Entity("card", keys={"card_id": pl.Int64})
payments = Source(
    "payments",
    schema={"card_id": pl.Int64, "shop_id": pl.Int64, "amount": pl.Float64, "fee": pl.Float64, "note": pl.String}
    | {"ok": pl.Boolean, "at": pl.Datetime},
    event_timestamp="at",
)
shops = Source("shops", schema={"shop_id": pl.Int64, "city": pl.String, "at": pl.Datetime}, event_timestamp="at")


def spending(*exprs, prepare=None, source=payments, **options):
    features = [Feature(f"f{i}", expr) for i, expr in enumerate(exprs)]
    options = {"grain": "entity", "settle": "1h", "owner": "o", "description": "d", **options}
    return FeatureGroup("spending", "1.0.0", card, source, features, prepare=prepare, **options)


def values(group):
    """The columns of each feature's value and its marks, with the input's name left out."""
    return [({c for _, c in t.columns}, set(t.marks)) for t in trace(group).values.values()]


def structure(group):
    return {column for _, column in trace(group).structure.columns}


def test_without_prepare_a_feature_is_made_of_what_it_names():
    group = spending(pl.col("amount").sum() / pl.col("fee").sum(), pl.len(), pl.col("at").max())
    assert values(group) == [({"amount", "fee"}, set()), (set(), set()), ({"at"}, set())]
    assert structure(group) == {"card_id", "at"}


def test_new_columns_are_followed_to_those_they_are_made_of():
    group = spending(pl.col("net").sum(), prepare=lambda p: p.with_columns(net=pl.col("amount") - pl.col("fee")))
    assert values(group) == [({"amount", "fee"}, set())]


def test_filters_decide_rows_and_are_no_part_of_the_value():
    group = spending(pl.col("amount").sum(), prepare=lambda p: p.filter("ok", pl.col("note").is_not_null()))
    assert values(group) == [({"amount"}, set())]
    assert structure(group) == {"card_id", "at", "ok", "note"}


def test_a_column_of_which_the_filter_knows_too_is_still_part_of_the_value():
    group = spending(pl.col("amount").sum(), prepare=lambda p: p.filter(pl.col("amount") > 0))
    assert values(group) == [({"amount"}, set())]


def test_a_column_that_is_renamed_and_filtered_by_is_reported_with_a_mark():
    group = spending(
        pl.col("cents").sum(),
        prepare=lambda p: p.filter(pl.col("amount") > 0).with_columns(cents=pl.col("amount") * 100),
    )
    assert values(group) == [({"amount"}, {OVER_REPORTED})]


def test_what_is_made_of_a_key_or_time_is_found():
    group = spending(pl.col("hour").mean(), prepare=lambda p: p.with_columns(hour=pl.col("at").dt.hour()))
    assert values(group) == [({"at"}, set())]


def test_windows_within_prepare_bring_their_keys_and_order():
    def previous(p):
        return p.sort("at").with_columns(before=pl.col("amount").shift(1).over("shop_id"))

    group = spending(pl.col("before").last(), prepare=previous, prepare_by=["card_id"])
    assert values(group) == [({"amount", "shop_id"}, set())]


@pytest.mark.parametrize("how", ["left", "inner"])
def test_joins_are_followed_into_the_other_input(how):
    group = spending(
        pl.col("city").n_unique(),
        pl.col("amount").sum(),
        source={"p": payments, "s": shops},
        prepare=lambda p, s: p.join(s.select("shop_id", "city"), on="shop_id", how=how),
        prepare_by=["shop_id"],
    )
    found = trace(group).values
    assert ("s", "city") in found["f0"].columns
    assert not any(column == "amount" for _, column in found["f0"].columns)
    assert found["f1"].columns == {("p", "amount")}
    joined = {("p", "shop_id"), ("s", "shop_id")}
    assert joined <= trace(group).structure.columns  # a left join drops no row, but may multiply some


def test_python_functions_over_values_are_followed():
    def double(value):
        return value * 2 if value else 0.0

    doubled = pl.col("amount").map_elements(double, return_dtype=pl.Float64)
    group = spending(doubled.sum(), pl.col("x").sum(), prepare=lambda p: p.with_columns(x=doubled + pl.col("fee")))
    assert values(group) == [({"amount"}, set()), ({"amount", "fee"}, set())]


def test_a_function_over_frames_is_taken_to_read_everything():
    group = spending(
        pl.col("amount").sum(), prepare=lambda p: p.map_batches(lambda frame: frame, projection_pushdown=False)
    )
    ((columns, marks),) = values(group)
    assert columns >= {"amount", "fee", "note", "ok"}
    assert marks == {OVER_REPORTED}


def test_structs_and_unpivots_are_marked():
    def packed(p):
        return p.with_columns(s=pl.struct("amount", "fee")).with_columns(x=pl.col("s").struct.field("amount"))

    ((columns, marks), other) = values(spending(pl.col("x").sum(), pl.col("ok").sum(), prepare=packed))
    assert columns == {"amount", "fee"}
    assert marks == {OVER_REPORTED}
    assert other == ({"ok"}, set())  # its plan has no struct

    def long(p):
        return p.unpivot(["amount", "fee"], index=["card_id", "at"])

    ((columns, marks),) = values(spending(pl.col("value").sum(), prepare=long))
    assert columns >= {"amount", "fee"}
    assert marks == {OVER_REPORTED}


def test_a_function_that_fails_on_no_rows_is_assumed_to_read_all():
    def first(frame):
        return frame.with_columns(pl.lit(frame["amount"][0]).alias("first"))

    schema = {**payments.dtypes, "first": pl.Float64}
    group = spending(pl.col("first").sum(), prepare=lambda p: p.map_batches(first, schema=schema))
    ((columns, marks),) = values(group)
    assert columns >= set(payments.schema)
    assert ASSUMED in marks


def test_a_prepare_that_collects_is_assumed_to_use_all_that_it_read():
    group = spending(pl.col("amount").sum(), prepare=lambda p: p.select("card_id", "amount", "at").collect().lazy())
    ((columns, marks),) = values(group)
    assert columns == {"card_id", "amount", "at"}
    assert ASSUMED in marks


def test_selectors_are_expanded():
    group = spending(pl.sum_horizontal(pl.selectors.float().sum()))
    assert values(group) == [({"amount", "fee"}, set())]


def test_upstream_groups_are_inputs_like_sources():
    first = spending(pl.col("amount").sum())
    second = FeatureGroup(
        "doubled", "1.0.0", card, first, [Feature("d", pl.col("f0") * 2)], grain="event", owner="o", description="d"
    )
    assert trace(second).values["d"].columns == {("spending", "f0")}
    assert trace(second).structure.columns == {("spending", "card_id"), ("spending", "event_timestamp")}


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda p: p.collect(), "returns DataFrame, not a LazyFrame"),
        (lambda _: None, "returns NoneType, not a LazyFrame"),
        (lambda p: p.no_such_method(), "fails on its inputs: AttributeError"),
        (lambda p: p.with_columns(x=pl.col("nowhere")), "does not fit its inputs.*nowhere"),
    ],
)
def test_a_wrong_prepare_is_named(prepare, message):
    with pytest.raises(DefinitionError, match=f"feature group 'spending': `prepare` {message}"):
        trace(spending(pl.col("amount").sum(), prepare=prepare))


COLUMNS = ["amount", "fee", "ok"]


@given(
    st.lists(st.sets(st.sampled_from(COLUMNS), min_size=1), min_size=1, max_size=4), st.sets(st.sampled_from(COLUMNS))
)
def test_what_is_traced_is_what_was_put_in(parts, filters):
    """Sums of chosen columns behind chosen filters: each sum is made of its columns, unless all are filters too."""

    def prepare(p):
        p = p.filter(pl.col(c).cast(pl.Boolean) for c in sorted(filters)) if filters else p
        return p.with_columns(
            pl.sum_horizontal(pl.col(c).cast(pl.Float64) for c in sorted(part)).alias(f"x{i}")
            for i, part in enumerate(parts)
        )

    group = spending(*(pl.col(f"x{i}").sum() for i in range(len(parts))), prepare=prepare)
    for part, (columns, marks) in zip(parts, values(group), strict=True):
        assert part - filters <= columns <= part | filters | {"card_id", "at"}
        assert part <= columns | filters
        assert columns == part - filters or part <= filters
        assert bool(marks) == (part <= filters)


def test_many_columns_are_asked_for_by_halves():
    n = 1000
    wide = Source(
        "wide",
        schema={"card_id": pl.Int64, "at": pl.Datetime, "rate": pl.Float64, **{f"c{i}": pl.Float64 for i in range(n)}},
        event_timestamp="at",
    )

    def prepare(p):
        return p.filter(pl.col("c0") > 0).with_columns(
            (pl.col(f"c{i}") * (pl.col("rate") if i < 2 else 2)).alias(f"p{i}") for i in range(n)
        )

    traced = trace(spending(*(pl.col(f"p{i}").sum() for i in range(n)), source=wide, prepare=prepare)).values
    assert traced["f7"].columns == {("wide", "c7")}
    assert traced["f7"].marks == set()
    assert traced["f999"].columns == {("wide", "c999")}
    assert traced["f1"].columns == {("wide", "c1"), ("wide", "rate")}
    assert traced["f1"].marks == {OVER_REPORTED}  # what several need may be credited to others


def test_every_shipped_feature_is_made_of_something():
    for group in REGISTRY.in_order():
        traced = trace(group)
        assert traced.structure.columns
        for feature in group.features:
            assert traced.values[feature.name].columns or not feature.expr.meta.root_names(), feature.name
            assert ASSUMED not in traced.values[feature.name].marks


def test_known_columns_of_shipped_features():
    def made_of(group, feature):
        return set(trace(REGISTRY.group(group)).values[feature].columns)

    assert made_of("wafer_aggregates", "yield_pct") == {("parts", "passed")}
    assert made_of("wafer_aggregates", "avg_vdd") == {("results", "result")}
    limits = {("results", c) for c in ("test_name", "result", "lo_limit", "hi_limit")}
    assert made_of("device_parametrics", "vdd_margin") == limits
    assert made_of("temporal_trends", "equipment_uptime_ratio_7d") == {("parts", "tested_at")}

"""Element-wise or not: what is let through answers row by row what it answers over the whole frame."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from features.elementwise import expression_tree, not_elementwise
from features.errors import DefinitionError

A, B, S, T, L = (pl.col(c) for c in "abstl")

ACROSS_ROWS = [
    (A - A.mean(), r"mean\(\) looks at other rows: compute it as a stored feature"),
    (A.sum(), r"sum\(\) looks at other rows"),
    (A.n_unique(), r"n_unique\(\) looks at other rows"),
    (A.quantile(0.5), r"quantile\(\)"),
    (pl.corr("a", "b"), r"correlation\(\)"),
    (A.shift(1), r"shift\(\)"),
    (A.diff(), r"diff\(\)"),
    (A.pct_change(), r"pct_change\(\)"),
    (A.cum_sum(), r"cum_sum\(\)"),
    (A.cumulative_eval(pl.element().sum()), r"cumulative_eval\(\) looks at other rows"),
    (A.over("b"), r"over\(\) looks at other rows"),
    (A.max().over("b"), r"over\(\)"),
    (A.sort(), r"sort\(\)"),
    (A.sort_by("b"), r"sort_by\(\)"),
    (A.reverse(), r"reverse\(\)"),
    (A.rank(), r"rank\(\)"),
    (A.unique(), r"unique\(\)"),
    (A.is_duplicated(), r"is_duplicated\(\)"),
    (A.is_first_distinct(), r"is_first_distinct\(\)"),
    (A.mode(), r"mode\(\)"),
    (A.value_counts(), r"value_counts\(\)"),
    (A.rolling_mean(3), r"rolling\(\)"),
    (A.rolling("b", period="2i"), r"rolling\(\)"),
    (A.ewm_mean(alpha=0.5), r"ewm_mean\(\)"),
    (A.interpolate(), r"interpolate\(\)"),
    (A.forward_fill(), r"write it as fill_null\(value\)"),
    (A.filter(B > 1), r"filter\(\) looks at other rows: write it as pl.when"),
    (A.drop_nulls(), r"drop_nulls\(\)"),
    (A.head(2), r"slice\(\)"),
    (A.tail(2), r"slice\(\)"),
    (A.gather([0]), r"gather\(\)"),
    (A.first(), r"first\(\)"),
    (A.implode(), r"implode\(\)"),
    (L.explode(), r"explode\(\)"),
    (L.list.eval(pl.element() + A), r"names a column"),
    (L.list.eval(pl.element().sample(1)), r"sample\(\) and shuffle\(\)"),
    (L.list.sample(1), r"sample\(\)"),
    (A.shuffle(), r"random\(\)"),
    (A.is_in(B), r"is_in\(\) of a column reads all its rows"),
    (A.replace(1, B), r"replace\(\) of a column"),
    (S.str.join("-"), r"concat_vertical\(\)"),
    (S.str.to_date(), "give the format"),
    (pl.len() - A, r"len\(\) looks at other rows"),
    (pl.int_range(pl.len()), r"int_range\(\)"),
    (A + pl.Series([1.0, 2.0]), "literal Series has rows of its own"),
    (A.map_batches(lambda s: s), r"map_batches\(\).*map_elements"),
    (pl.fold(pl.lit(0), lambda x, y: x + y, ["a"]), r"fold_horizontal\(\).*sum_horizontal"),
    (pl.all(), "chosen by a pattern differ from frame to frame: name each column"),
    (pl.when(A.max() < A).then(1).otherwise(B), r"max\(\)"),
    (pl.struct("a", "b").struct.with_fields(pl.field("a").sum()), r"sum\(\)"),
    (A.cast(pl.Int64).bitwise_xor(), r"xor\(\)"),
    (A.bin_intervals(3, labels=False), r"bin\(\)"),
    (A.bin_quantiles(4, labels=False), r"bin\(\)"),
    (A.any(), r"any\(\)"),
]


@pytest.mark.parametrize(("expr", "reason"), [pytest.param(e, r, id=str(e)[:40]) for e, r in ACROSS_ROWS])
def test_what_looks_across_rows_is_named_with_its_remedy(expr, reason):
    said = not_elementwise(expr)
    assert said is not None
    assert re.search(reason, said), said
    assert not_elementwise(pl.max_horizontal(expr.alias("x").cast(pl.Float64), 1) + 1) is not None


def first_digit(value):
    return str(value).lstrip("-")[0]


WITHIN_A_ROW = [
    A + B * 2 - 1,
    pl.when(A > B).then(A).when(B.is_null()).then(0).otherwise(None),
    A.clip(0, B).abs().round(2).log1p().exp().sqrt(),
    A.fill_null(0).fill_nan(None).is_between(0, 3) & ~B.is_nan(),
    pl.max_horizontal("a", "b") - pl.min_horizontal(pl.col("a", "b")) + pl.mean_horizontal("a", "b"),
    pl.coalesce("a", "b", 0),
    A.is_in([1.0, 2.0]) | A.is_in(pl.Series([4.0])),
    A.replace({1: 2}).replace_strict({3: 4}, default=B),
    A.bin_intervals([1, 2], labels=["x", "y", "z"]).cast(pl.String) + S,
    S.str.to_uppercase().str.slice(0, 2).str.contains_any(["A"]),
    pl.format("{}/{}", "s", "a").str.len_chars(),
    S.str.to_date("%Y", strict=False),
    (T - T.dt.truncate("1d")).dt.total_seconds(),
    T.dt.offset_by("1mo").dt.is_business_day(holidays=[date(2026, 1, 1)]),
    L.list.eval(pl.element() - pl.element().mean()).list.sum(),
    L.list.get(0, null_on_oob=True) + L.list.len(),
    pl.struct("a", "b").struct.with_fields(c=pl.field("a") + 1).struct.field("c"),
    A.map_elements(first_digit, return_dtype=pl.String),
    A.map_batches(lambda s: s * 2, is_elementwise=True, return_dtype=pl.Float64),
    pl.lit(1),
]
NUMBERS = st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.0, 3.0, math.nan, math.inf]), st.floats(-1e3, 1e3))
MOMENTS = st.one_of(st.none(), st.integers(0, 10**9).map(lambda s: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(0, s)))
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "a": NUMBERS,
            "b": NUMBERS,
            "s": st.sampled_from([None, "", "a", "2026", "é"]),
            "t": MOMENTS,
            "l": st.one_of(st.none(), st.lists(st.integers(-5, 5), max_size=3)),
        }
    ),
    min_size=2,
    max_size=6,
)
SCHEMA = {"a": pl.Float64, "b": pl.Float64, "s": pl.String, "t": pl.Datetime("us", "UTC"), "l": pl.List(pl.Int64)}


def assert_row_by_row(expr, rows):
    frame = pl.DataFrame(rows, schema=SCHEMA)
    whole = frame.with_columns(expr.alias("found")).get_column("found")
    # Each row stands twice: in a column of one Polars divides by a literal, else it multiplies by the inverse.
    twice = [frame[[row, row]].with_columns(expr.alias("found")) for row in range(frame.height)]
    single = pl.concat([both.get_column("found").head(1) for both in twice])
    assert whole.equals(single.cast(whole.dtype), null_equal=True), (whole, single)


@pytest.mark.parametrize("expr", [pytest.param(e, id=str(e)[:40]) for e in WITHIN_A_ROW])
@settings(max_examples=15)
@given(rows=ROWS)
def test_what_stays_within_a_row_passes_and_does_so(expr, rows):
    assert not_elementwise(expr) is None
    assert_row_by_row(expr, rows)


UNARY = [
    lambda e: -e,
    lambda e: e.abs(),
    lambda e: e.fill_null(1.5),
    lambda e: e.clip(-2, 2),
    lambda e: e.round(1),
    lambda e: e.mean(),
    lambda e: e.shift(1),
    lambda e: e.cum_sum(),
    lambda e: e.rank(),
    lambda e: e.max().over("s"),
    lambda e: e.reverse(),
    lambda e: e.is_null().cast(pl.Float64),
]
BINARY = [
    lambda x, y: x + y,
    lambda x, y: x * y,
    lambda x, y: x / y,
    pl.max_horizontal,
    lambda x, y: pl.when(x > y).then(x).otherwise(y),
    lambda x, y: x.filter(y > 0).sum(),
]
EXPRESSIONS = st.recursive(
    st.one_of(st.sampled_from([A, B]), st.floats(-2, 2).map(pl.lit)),
    lambda inner: st.one_of(
        st.builds(lambda f, e: f(e), st.sampled_from(UNARY), inner),
        st.builds(lambda f, x, y: f(x, y), st.sampled_from(BINARY), inner, inner),
    ),
    max_leaves=6,
)


@given(expr=EXPRESSIONS, rows=ROWS)
def test_random_expressions_that_pass_answer_row_by_row(expr, rows):
    assume(not_elementwise(expr) is None)
    assert_row_by_row(expr, rows)


def test_what_cannot_be_read_is_refused_with_a_remedy():
    long = pl.col("a")
    for _ in range(1_000):
        long = long + 1
    with pytest.raises(DefinitionError, match=r"nests too deeply: write long sums as pl.sum_horizontal"):
        not_elementwise(long)
    generator = (n for n in [1])
    with pytest.raises(DefinitionError, match=r"cannot be written down .*: let it hold plain values only"):
        expression_tree(A.map_elements(lambda v: v + next(generator), return_dtype=pl.Float64))

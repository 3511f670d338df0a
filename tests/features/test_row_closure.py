"""Compiled expressions answer bit for bit what Polars answers over a column, or do not compile."""

from __future__ import annotations

import math
import struct
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.row_closure import row_closure, uncompiled
from features.times import UTC_US, from_micros

SCHEMA = {
    "f": pl.Float64(),
    "g": pl.Float64(),
    "i": pl.Int64(),
    "j": pl.Int64(),
    "h": pl.Int8(),
    "k": pl.Int32(),
    "p": pl.Boolean(),
    "q": pl.Boolean(),
    "s": pl.String(),
    "u": pl.String(),
    "t": UTC_US,
    "v": UTC_US,
    "d": pl.Date(),
    "e": pl.Date(),
}
FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.5, 2.5, 0.285, 2.675, math.inf, -math.inf, math.nan, 5e-324, 1e308]),
    st.floats(),
    st.floats(-100, 100),
)
DATES = st.dates(date(1900, 1, 1), date(2100, 1, 1))
MOMENTS = st.integers(-(2**51), 2**52).map(from_micros)


def ints(bits):
    half = 1 << (bits - 1)
    return st.one_of(st.integers(-3, 3), st.sampled_from([half - 1, -half]), st.integers(-half, half - 1))


KINDS = {"f": FLOATS, "i": ints(64), "h": ints(8), "k": ints(32), "p": st.booleans(), "t": MOMENTS, "d": DATES}
KINDS |= {"s": st.text(st.sampled_from("ab é\U0001f600"), max_size=2)}
KINDS |= {"g": KINDS["f"], "j": KINDS["i"], "q": KINDS["p"], "u": KINDS["s"], "v": KINDS["t"], "e": KINDS["d"]}
ROWS = st.lists(st.fixed_dictionaries({c: st.none() | KINDS[c] for c in SCHEMA}), min_size=2, max_size=5)

NUMBER_LITERALS = st.one_of(
    st.sampled_from([0, 1, 2, -3, 7, 100]),
    st.sampled_from([0.0, -0.0, 3.7, 0.1, -2.5, 1e-3]),
    st.just(pl.lit(None)),
    st.sampled_from([pl.lit(3, pl.Int16), pl.lit(2, pl.Int64), pl.lit(1.5, pl.Float64)]),
).map(lambda value: value if isinstance(value, pl.Expr) else pl.lit(value))


def columns(names):
    return st.sampled_from([pl.col(c) for c in names])


def one_of(*functions):
    return st.sampled_from([*functions])


@st.composite
def numbers(draw, depth):
    if depth == 0:
        return draw(columns("fgijhk"))
    x = draw(numbers(depth - 1))
    y = draw(st.one_of(numbers(draw(st.integers(0, depth - 1))), NUMBER_LITERALS))
    kind = draw(st.integers(0, 9))
    if kind <= 3:
        x, y = draw(st.permutations([x, y]))
        arithmetic = [lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a / b]
        return draw(one_of(*arithmetic, lambda a, b: a // b, lambda a, b: a % b))(x, y)
    if kind <= 6:
        unary = [pl.Expr.abs, pl.Expr.sign, pl.Expr.floor, pl.Expr.ceil, pl.Expr.exp, pl.Expr.log, pl.Expr.log1p]
        more = [pl.Expr.sqrt, lambda a: -a, lambda a: a.round(2), lambda a: a.round(0), lambda a: a.log(10)]
        casts = [lambda a: a.cast(pl.Float64), lambda a: a.cast(pl.Int32, strict=False), lambda a: a.clip(-2, 3)]
        others = [lambda a: a.fill_null(1), lambda a: a.fill_nan(0.5), lambda a: a**2, lambda a: a**3]
        return draw(one_of(*unary, *more, *casts, *others, lambda a: a.clip(0.5), lambda a: a.clip(upper_bound=4)))(x)
    if kind == 7:
        return pl.when(draw(conditions(depth - 1))).then(x).otherwise(y)
    if kind == 8:
        return draw(one_of(pl.min_horizontal, pl.max_horizontal, pl.coalesce))(x, y)
    return draw(spans())


@st.composite
def spans(draw):
    pair = draw(st.sampled_from(["tv", "vt", "de"]))
    span = pl.col(pair[0]) - pl.col(pair[1])
    part = draw(st.sampled_from(["days", "hours", "minutes", "seconds", "milliseconds", "microseconds"]))
    if draw(st.booleans()):
        return getattr(span.dt, f"total_{part}")(fractional=draw(st.booleans()))
    return getattr(pl.col(pair[0]).dt, draw(st.sampled_from(["year", "month", "day", "weekday"])))()


@st.composite
def conditions(draw, depth):
    comparisons = [lambda a, b: a > b, lambda a, b: a >= b, lambda a, b: a < b, lambda a, b: a <= b]
    comparisons += [lambda a, b: a == b, lambda a, b: a != b, pl.Expr.eq_missing, pl.Expr.ne_missing]
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return draw(columns("pq"))
    if kind == 1 and depth:
        x, y = draw(conditions(depth - 1)), draw(conditions(depth - 1))
        return draw(one_of(lambda a, b: a & b, lambda a, b: a | b, lambda a, _: ~a))(x, y)
    if kind == 2:
        test = one_of(pl.Expr.is_null, pl.Expr.is_not_null, pl.Expr.is_nan, pl.Expr.is_finite, pl.Expr.is_infinite)
        return draw(test)(draw(numbers(depth)))
    if kind == 3:
        pair = draw(st.sampled_from(["su", "tv", "de", "pq", "ss"]))
        return draw(one_of(*comparisons))(pl.col(pair[0]), pl.col(pair[1]))
    if kind == 4:
        value = draw(st.sampled_from([("s", "a"), ("t", datetime(2026, 1, 1, tzinfo=UTC)), ("d", date(2026, 1, 1))]))
        return draw(one_of(*comparisons))(pl.col(value[0]), pl.lit(value[1]))
    if kind == 5:
        return draw(numbers(depth)).is_between(draw(NUMBER_LITERALS), draw(numbers(0)))
    return draw(one_of(*comparisons))(draw(numbers(depth)), draw(st.one_of(numbers(0), NUMBER_LITERALS)))


OTHERS = st.sampled_from(
    [
        pl.col("t") - pl.col("v"),
        pl.max_horizontal("s", "u"),
        pl.min_horizontal("t", "v", pl.lit(datetime(2026, 1, 1, tzinfo=UTC))),
        pl.coalesce("s", "u", pl.lit("none")),
        pl.when("p").then("s").otherwise(pl.lit("no")),
        pl.when(pl.col("f") > 0).then(1).otherwise(0),
        pl.when(pl.col("f") > 0).then(1.5).otherwise(None),
        pl.when(pl.col("f") > 0).then(pl.lit("up")).when(pl.col("f") < 0).then(pl.lit("down")),
        pl.col("t").dt.hour() * 60 + pl.col("t").dt.minute(),
        pl.lit(1),
        pl.lit("x"),
        pl.col("f").alias("other"),
    ]
)
TREES = st.one_of(numbers(1), numbers(2), numbers(3), conditions(1), conditions(2), OTHERS)


def exact(value):
    """A value so that equal means equal bits; any NaN is the same."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else struct.pack("d", value)
    return value


def assert_equals_polars(expr, rows):
    closure = row_closure(expr, SCHEMA)
    frame = pl.DataFrame(rows, schema=SCHEMA)
    if closure is None:
        assert uncompiled(expr, SCHEMA)
        return
    assert uncompiled(expr, SCHEMA) is None
    try:
        expected = frame.with_columns(expr.alias("found")).get_column("found")
    except pl.exceptions.PolarsError:
        with pytest.raises(OverflowError):
            [closure(row) for row in rows]
        return
    assert closure.dtype == expected.dtype
    found = [closure(row) for row in frame.to_dicts()]
    assert list(map(exact, found)) == list(map(exact, expected)), str(expr)


@settings(max_examples=100)
@given(expr=TREES, rows=ROWS)
def test_closures_equal_polars_bit_for_bit(expr, rows):
    assert_equals_polars(expr, rows)


@pytest.mark.prove
@settings(max_examples=50_000)
@given(expr=TREES, rows=ROWS)
def test_closures_equal_polars_bit_for_bit_at_length(expr, rows):
    assert_equals_polars(expr, rows)


F, WHOLE = pl.col("f"), pl.col("i")


@pytest.mark.parametrize(
    "expr",
    [
        (F / 3.7 - pl.col("g")).clip(0, 1),
        pl.when(F > 0).then(F.log()).otherwise(None),
        (pl.col("t") - pl.col("v")).dt.total_days(),
        pl.col("i") % 7 + pl.col("h") * 2,
        pl.col("s") == "checked",
        F.is_between(0, 1) & ~pl.col("p") | pl.col("q").is_null(),
        pl.min_horizontal("f", pl.col("g").abs().fill_null(0), 10),
        WHOLE.cast(pl.Float64).round(2).fill_nan(None),
        pl.coalesce("f", "g", 0.0) ** 2,
        pl.col("t").dt.hour().is_between(8, 18),
    ],
)
def test_what_users_write_compiles(expr):
    assert uncompiled(expr, SCHEMA) is None


@pytest.mark.parametrize(
    ("expr", "reason"),
    [
        (F.sin(), "sin() of Float64 is not compiled"),
        (F.cast(pl.Float32) * 2, "a cast of Float64 to Float32 is not compiled"),
        (WHOLE & 1, "& and | of Int64 and Int32 are not compiled"),
        (F.is_in([1.0]), "a literal of List is not compiled"),
        (pl.col("s").str.to_uppercase(), "uppercase() of String is not compiled"),
        (F.map_elements(math.gamma, return_dtype=pl.Float64), "anonymous_function() is not compiled"),
        (F * (pl.lit(2) * pl.lit(3)), "literals alone"),
        (pl.col("h") + 300, "a literal that does not fit Int8 is not compiled"),
        (F + math.inf, "a literal of Float is not compiled"),
        (pl.col("zzz") + 1, "column 'zzz' is not known"),
        (pl.when("p").then("f").otherwise(7).abs() / 3, "true_divide() of what may be one literal in all rows"),
        (F / pl.coalesce("g", 1), "true_divide() of what may be one literal in all rows"),
        (pl.when("p").then("f").otherwise(0.0) + F, "plus() of what may be one literal in all rows"),
        (pl.col("s") + 1, "String"),
    ],
)
def test_what_does_not_compile_says_why(expr, reason):
    assert row_closure(expr, SCHEMA) is None
    assert reason in uncompiled(expr, SCHEMA)


def test_a_strict_cast_that_overflows_is_left_to_polars():
    closure = row_closure(F.cast(pl.Int8), SCHEMA)
    assert closure({"f": 3.9}) == 3
    with pytest.raises(OverflowError):
        closure({"f": 1e9})


def test_columns_of_other_types_do_not_compile():
    assert "Float32" in uncompiled(F * 2, {"f": pl.Float32})
    assert "Decimal" in uncompiled(F * 2, {"f": pl.Decimal(10, 2)})
    assert uncompiled(F * 2, {"f": pl.Float64}) is None


def test_durations_stay_exact():
    closure = row_closure(pl.col("t") - pl.col("v"), SCHEMA)
    t = datetime(2026, 1, 1, tzinfo=UTC)
    assert closure({"t": t, "v": t + timedelta(microseconds=1)}) == timedelta(microseconds=-1)

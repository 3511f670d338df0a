"""One record gets the verdict that the batch's masks, and the gate, give its row."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from card_payments import group
from expectations.gate import validate
from expectations.masks import mask, prepare
from expectations.result import Severity
from expectations.rows import check_rows, compile_rules
from expectations.rules import Between, ColumnPresent, Expression, HasType, InSet, NotNull, Suite, Unique
from expectations.suites import SUITES
from features import Feature
from features.times import UTC_US, from_micros

NAN, INF = float("nan"), float("inf")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ODD = 'it\'s "ünï"'
SCHEMA = {
    "f": pl.Float64(),
    "e": pl.Float32(),
    "i": pl.Int64(),
    "h": pl.Int8(),
    "u": pl.UInt16(),
    "b": pl.Boolean(),
    "s": pl.String(),
    "t": UTC_US,
    "d": pl.Date(),
    "l": pl.List(pl.Int64),
}
BIG = 2**53
WHOLE = [0, 1, -1, 2, 100, BIG, BIG + 1, 2**63 - 1, -(2**63)]
VALUES = {
    "f": st.sampled_from([0.0, -0.0, 0.1, 0.5, 1.0, NAN, INF, -INF, 1e300, float(BIG), 9.3e18]) | st.floats(),
    "e": st.sampled_from([0.0, 0.5, NAN, INF]) | st.floats(width=32),
    "i": st.sampled_from(WHOLE) | st.integers(-(2**63), 2**63 - 1),
    "h": st.integers(-128, 127),
    "u": st.integers(0, 2**16 - 1),
    "b": st.booleans(),
    "s": st.sampled_from(["a", "b", "", ODD, "日本", "\U0001f600"]),
    "t": st.integers(-(2**51), 2**52).map(from_micros) | st.just(NOON),
    "d": st.dates(date(1900, 1, 1), date(2100, 1, 1)),
    "l": st.lists(st.integers(0, 3), max_size=2),
}
FRAMES = st.lists(st.fixed_dictionaries({c: st.none() | VALUES[c] for c in SCHEMA}), min_size=2, max_size=5).map(
    lambda rows: pl.DataFrame(rows, schema=SCHEMA, orient="row")
)

number, when = pl.col("f"), pl.col("t")
DERIVED = {
    "twice": number * 2,
    "share": pl.col("i") / pl.col("u"),
    "hour": when.dt.hour(),
    "letters": pl.col("s").str.len_chars().cast(pl.Int64),
}
EXPRESSIONS = [
    number.is_finite(),
    number <= pl.col("i"),
    number.is_between(0, 1) | pl.col("b"),
    pl.col("i") > pl.col("h") * 1000,
    pl.col("s") == "a",
    when > NOON,
    when.dt.hour() < 12,
    pl.col("d") >= pl.lit(date(2000, 1, 1)),
    pl.when(pl.col("b")).then(number > 0).otherwise(number < 0),
    pl.col("s").str.len_chars() < 2,  # what follows does not compile
    pl.col("s").is_in(["a", ODD]),
    pl.col("l").list.len() > 0,
    pl.col("e") + 1 > 0,
    number.cast(pl.Int8) > 0,  # raises where it does not fit
    when - pl.col("d") > timedelta(days=1),
]
BOUNDS = st.sampled_from([None, *WHOLE, 0.0, 0.1, 0.5, float(BIG), 1e300, 9223372036854775807.0, NAN, INF])


def where():
    texts = st.fixed_dictionaries({"s": st.sampled_from(["a", ODD, "日本"])})
    wholes = st.fixed_dictionaries({"h": st.integers(-2, 2)}) | st.fixed_dictionaries({"i": st.sampled_from([0, BIG])})
    others = st.sampled_from([{"f": 1}, {"s": "a", "h": 1}, {"hour": 12}, {"b": 1}, {"b": True}, {"s": 1}])
    return st.sampled_from([{}, {}, {}]) | texts | wholes | others


@st.composite
def rules(draw, name):
    about = {"name": name, "where": draw(where())}
    kind = draw(st.integers(0, 3))
    column = draw(st.sampled_from([*SCHEMA, *DERIVED]))
    if kind == 0:
        return NotNull(column=column, **about)
    if kind == 1:
        low, high = draw(BOUNDS), draw(BOUNDS)
        if low is not None and high is not None and low > high:
            low, high = high, low
        return Between(column=column, low=0 if low is high is None else low, high=high, **about)
    if kind == 2:
        values = draw(st.sampled_from([["a", "b"], [ODD], [0, 1], [BIG, 2**63 - 1], [True], []]))
        return InSet(column=column, values=values, **about)
    return Expression(ok=draw(st.sampled_from(EXPRESSIONS)), why="", **about)


@st.composite
def suites(draw):
    rows = [draw(rules(f"r{number}")) for number in range(draw(st.integers(1, 6)))]
    schema = [rule for c, t in SCHEMA.items() for rule in (ColumnPresent(c), HasType(c, t))]
    return Suite("s", schema=schema, rows=rows, derived=DERIVED)


def masked(suite, frame):
    """By the masks: of each row the rules that it breaks, and the rules that cannot be judged."""
    batch = frame.with_columns(pl.lit("f").alias("file"))
    masks = mask(suite, prepare(suite, batch, "file"), "file")
    broken = [{name for name, bad in row.items() if bad is True} for row in masks.broken.iter_rows(named=True)]
    return broken, set(masks.errors)


def by_the_masks(suite, frame):
    """The rules that each row breaks, in the suite's order, those broken that could not be judged."""
    broken, unjudged = masked(suite, frame)
    if unjudged:  # for some row's sake, maybe: then each is a batch by itself (two rows, as a column has)
        alone = [masked(suite, pl.concat([row, row])) for row in frame.iter_slices(1)]
        broken = [rows[0] | errors for rows, errors in alone]
    lacking = [rule.name for rule in suite.schema if not rule.holds(frame.schema)]
    return [[*lacking, *(rule.name for rule in suite.rows if rule.name in names)] for names in broken]


@settings(max_examples=150)
@given(suite=suites(), frame=FRAMES)
def test_a_record_gets_the_verdict_of_its_row_in_a_batch(suite, frame):
    check = compile_rules(suite)
    assert [check(row) for row in frame.iter_rows(named=True)] == by_the_masks(suite, frame)


@pytest.mark.prove
@settings(max_examples=10_000)
@given(suite=suites(), frame=FRAMES)
def test_a_record_gets_the_verdict_of_its_row_in_a_batch_at_length(suite, frame):
    check = compile_rules(suite)
    assert [check(row) for row in frame.iter_rows(named=True)] == by_the_masks(suite, frame)


MISFITS = st.sampled_from(
    [True, 5, 1.5, 2**70, "a", NOON, date(2026, 1, 1), [1], ["a"], {"a": 1}, b"a", timedelta(1), 300, -1]
)
FITTING = {"f": (int,), "l": (list,), "t": (datetime,), "d": (date,)}


@st.composite
def records(draw):
    """A record with values of wrong types and lacking columns, and the same as a frame of two rows."""
    record, frame = {}, {}
    for column, dtype in SCHEMA.items():
        choice = draw(st.integers(0, 9))
        if choice == 0:
            continue
        wrong = choice == 1 and draw(MISFITS)
        if wrong and not pl.Series([wrong]).dtype.is_(dtype) and not fits(wrong, column):
            record[column], frame[column] = wrong, pl.Series([wrong, wrong])
        else:
            record[column] = draw(st.none() | VALUES[column])
            frame[column] = pl.Series([record[column]] * 2, dtype=dtype)
    return record, pl.DataFrame(frame)


def fits(value, column):
    """Whether a value of another type than the column's is one that the column can hold."""
    kind = type(value)
    return (
        (column in "fe" and kind is int)
        or (column == "h" and kind is int and -128 <= value < 128)
        or (column == "u" and kind is int and 0 <= value < 2**16)
        or (column == "e" and kind is float)
        or (column == "t" and kind is date)
    )


@settings(max_examples=150)
@given(suite=suites(), drawn=records().filter(lambda drawn: drawn[0]))
def test_wrong_types_and_missing_columns_are_judged_as_in_a_batch(suite, drawn):
    record, frame = drawn
    assert compile_rules(suite)(record) == by_the_masks(suite, frame)[0]


@settings(max_examples=8)
@given(frame=FRAMES)
def test_the_gate_rejects_what_the_record_check_rejects(frame):
    suite = Suite(
        "s",
        schema=[HasType(c, t) for c, t in SCHEMA.items()],
        rows=[
            Between(name="within", column="f", low=0, high=1, where={"s": "a"}),
            Between(name="whole_within", column="i", low=-5, high=BIG),
            InSet(name="known", column="s", values=["a", ODD]),
            Expression(name="late", ok=when > NOON, why="too early"),
            Expression(name="short", ok=pl.col("s").str.len_chars() < 2, why="too long"),
        ],
    )
    check = compile_rules(suite)
    assert list(check.uncompiled) == ["short"]
    broken = [names for row in frame.iter_rows(named=True) if (names := check(row))]
    verdict = validate(suite, frame.with_columns(_file_sha256=pl.lit("f")))
    assert verdict.split.rejected["_rules"].to_list() == broken


@pytest.mark.parametrize("number", [BIG - 1, BIG, BIG + 1, BIG + 2, 2**63 - 1])
def test_no_executor_takes_a_bound_for_another_number(number):
    suite = Suite("s", schema=[HasType("i", pl.Int64)], rows=[Between(name="within", column="i", high=BIG)])
    verdict = validate(suite, pl.DataFrame({"i": [number], "_file_sha256": "f"}))
    assert not verdict.blocked
    assert compile_rules(suite)({"i": number}) == ["within"] * verdict.split.rejected.height


def test_what_is_not_compiled_and_what_looks_at_several_rows_is_named_with_its_reason():
    suite = Suite(
        "s",
        schema=[HasType("f", pl.Float64), HasType("s", pl.String)],
        rows=[
            Unique(name="once", among=["f", "s"], severity=Severity.LOW),
            Expression(name="above_mean", ok=number >= number.mean(), why="low"),
            Expression(name="short", ok=pl.col("s").str.len_chars() < 3, why="long"),
            Between(name="unknown", column="z", low=0),
            Between(name="known", column="f", low=0),
        ],
    )
    check = compile_rules(suite)
    assert {name: reason.split(":")[0] for name, reason in check.left_out.items()} == {
        "once": "over() looks at other rows",
        "above_mean": "mean() looks at other rows",
    }
    assert check.uncompiled == {
        "short": "len_chars() of String is not compiled",
        "unknown": "the type of column 'z' is not known",
    }
    assert check({"f": -1.0, "s": "long", "z": -1}) == ["short", "unknown", "known"]
    assert check({"f": 1.0, "s": "ab", "z": 0.5}) == []
    assert check({"f": 1.0, "s": "ab"}) == ["unknown"]
    assert check({}) == ["short", "unknown", "known"]
    assert check.severities["once"] is Severity.LOW
    assert compile_rules(suite, {"z": pl.Int64}).uncompiled.keys() == {"short"}


@pytest.mark.parametrize(
    ("column", "value", "fine"),
    [
        ("f", 5, True),
        ("f", True, False),
        ("f", "5", False),
        ("i", 2**63, False),
        ("h", 128, False),
        ("i", 1.0, False),
        ("t", NOON.replace(tzinfo=None), True),
        ("t", NOON.astimezone(timezone(timedelta(hours=-5))), True),
        ("t", 5, False),
        ("s", b"a", False),
        ("s", "\ud800", True),
        ("b", 1, False),
        ("l", [1, 2], True),
        ("l", ["a"], False),
        ("l", b"a", False),
        ("d", 5, False),
        ("e", 0.1, True),
        ("f", object(), False),
    ],
)
def test_a_value_is_of_the_type_that_can_hold_it(column, value, fine):
    check = compile_rules(Suite("s", schema=[HasType(column, SCHEMA[column])], rows=[]))
    assert check({column: value}) == ([] if fine else [f"{column}_type"])


def test_other_zones_are_brought_to_utc_before_the_rules_look():
    check = compile_rules(
        Suite("s", [HasType("t", UTC_US)], [Expression(name="noon", ok=when.dt.hour() == 12, why="another hour")])
    )
    assert check({"t": NOON.astimezone(timezone(timedelta(hours=-5)))}) == []
    assert check({"t": NOON.replace(tzinfo=timezone(timedelta(hours=-5)))}) == ["noon"]


def test_the_shipped_suites_need_polars_for_few_of_their_rules():
    checks = {name: compile_rules(suite) for name, suite in SUITES.items()}
    assert {name: list(check.left_out) for name, check in checks.items()} == {
        name: ["record_unique", "wafer_in_range"] for name in SUITES
    }
    assert [*checks["wafers"].uncompiled, *checks["parts"].uncompiled] == []


AMOUNTS = [Feature("amount", pl.col("amount"), range=(0, 1000), unit="USD"), Feature("payment", pl.col("payment_id"))]
PAID = group("paid", AMOUNTS, grain="event")


def pushed(*amounts):
    rows = {"card_id": list(range(len(amounts))), "event_timestamp": NOON, "amount": list(amounts), "payment": 1}
    dtypes = {"card_id": pl.Int64, "event_timestamp": UTC_US, "amount": pl.Float64, "payment": pl.Int64}
    return pl.DataFrame(rows, schema_overrides=dtypes)


@pytest.mark.parametrize("amounts", [(5.0,), (None,), (NAN,), (0.0, 1000.0, None), ()])
def test_rows_of_a_group_that_keep_its_rules_are_fine(amounts):
    assert check_rows(PAID, pushed(*amounts)) == []


def test_rows_of_a_group_are_judged_alike_alone_and_together():
    assert check_rows(PAID, pushed(1000.5)) == ["'amount' is outside 0 to 1000 USD in 1 row(s)"]
    assert check_rows(PAID, pushed(1000.5, 3.0, -1.0)) == ["'amount' is outside 0 to 1000 USD in 2 row(s)"]
    whole = [pushed(5.0).cast({"payment": pl.Float64}), pushed(5.0, 6.0).cast({"payment": pl.Float64})]
    assert [check_rows(PAID, rows) for rows in whole] == [
        ["column 'payment' is not Int64 in 1 row(s)"],
        ["column 'payment' is not Int64 in 2 row(s)"],
    ]
    texts = pushed(5.0, 6.0).cast({"amount": pl.String})
    for rows, count in ((texts, 2), (texts[:1], 1)):
        assert check_rows(PAID, rows) == [
            f"column 'amount' is not Float64 in {count} row(s)",
            f"'amount' is outside 0 to 1000 USD in {count} row(s)",
        ]

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expectations.engine import Outcome, gx_suite, judge_rows, judge_schema
from expectations.masks import mask, prepare
from expectations.rules import Between, ColumnPresent, Expression, HasType, InSet, NotNull, Suite, Unique
from expectations.suites import SUITES

ROOT = Path(__file__).resolve().parents[2]
ODD = 'it\'s "ünï"'

EVERY_KIND = Suite(
    "every_kind",
    schema=[],
    rows=[
        NotNull(name="number_there", column="number"),
        NotNull(name="text_there", column="text"),
        NotNull(name="time_there", column="time"),
        NotNull(name="number_there_if", column="number", where={"text": "a"}),
        Between(name="within", column="number", low=-1, high=2),
        Between(name="at_least", column="number", low=0),
        Between(name="at_most", column="number", high=0.5),
        Between(name="within_if", column="number", low=0, high=1, where={"text": ODD}),
        Between(name="within_if_both", column="number", low=0, high=1, where={"text": "a", "digit": 1}),
        Between(name="twice_within", column="twice", low=-1, high=2, where={"digit": 2}),
        InSet(name="text_known", column="text", values=["a", ODD]),
        InSet(name="digit_known", column="digit", values=[1, 2]),
        InSet(name="text_known_if", column="text", values=["a"], where={"digit": 1}),
        Unique(name="digit_once", among=["file", "digit"]),
        Unique(name="number_and_text_once", among=["number", "text", "time"]),
        Unique(name="digit_once_if", among=["digit", "text"], where={"file": "f"}),
        Expression(name="sane", ok=pl.col("number").is_finite(), why="not finite"),
        Expression(name="sane_if", ok=pl.col("number") > pl.col("digit"), why="too small", where={"text": "a"}),
    ],
    derived={"twice": pl.col("number") * 2},
)

floats = st.none() | st.sampled_from([0.0, 0.5, 1.0, 2.0, float("nan"), float("inf"), -float("inf"), 1e300, 0.1])
integers = st.none() | st.sampled_from([-1, 0, 1, 2, 3, 127, -128])
numbers = st.one_of(
    st.tuples(st.just(floats), st.sampled_from([pl.Float64, pl.Float32])),
    st.tuples(st.just(integers), st.sampled_from([pl.Int64, pl.Int32, pl.Int16, pl.Int8])),
    st.tuples(st.just(st.integers(0, 3)), st.sampled_from([pl.Int64, pl.UInt8, pl.UInt32, pl.UInt64])),
    st.tuples(st.just(st.none()), st.sampled_from([pl.Float64, pl.Int64])),
)
texts = st.none() | st.sampled_from(["a", "b", "", ODD, "日本", "nan", "None"])


@st.composite
def frames(draw):
    values, dtype = draw(numbers)
    texts_here = draw(st.sampled_from([texts, st.none()]))
    digits = draw(st.sampled_from([st.integers(0, 3), st.none() | st.integers(0, 3)]))
    times = st.none() | st.integers(0, 2**50)
    rows = draw(st.lists(st.tuples(values, texts_here, digits, times, st.sampled_from(["f", "g"])), max_size=12))
    schema = {
        "number": dtype,
        "text": pl.String,
        "digit": pl.Int16,
        "time": pl.Datetime("us", "UTC"),
        "file": pl.String,
    }
    columns = zip(*rows, strict=True) if rows else [()] * 5
    return pl.DataFrame([pl.Series(n, list(c), dtype=t) for (n, t), c in zip(schema.items(), columns, strict=True)])


@settings(max_examples=15)
@given(rows=frames())
def test_great_expectations_and_the_masks_count_the_same(rows):
    check_counts(rows)


@pytest.mark.prove
@settings(max_examples=400)
@given(rows=frames())
def test_great_expectations_and_the_masks_count_the_same_of_many_frames(rows):
    check_counts(rows)


def check_counts(rows):
    prepared = prepare(EVERY_KIND, rows, "file")
    masks = mask(EVERY_KIND, prepared, "file")
    totals = masks.totals()
    mine = {rule.name: totals.get(rule.name, (0, 0)) for rule in EVERY_KIND.rows}
    theirs = judge_rows(EVERY_KIND, prepared.rows)
    assert not masks.errors
    assert {name: outcome.error for name, outcome in theirs.items() if outcome.error} == {}
    assert {name: (outcome.failed, outcome.checked) for name, outcome in theirs.items()} == mine
    assert {name: outcome.success for name, outcome in theirs.items()} == {
        n: failed == 0 for n, (failed, _) in mine.items()
    }


def test_a_rule_that_great_expectations_cannot_judge_says_why():
    suite = Suite("s", schema=[], rows=[NotNull(name="a", column="a"), Between(name="b", column="b", low=0)])
    outcomes = judge_rows(suite, pl.DataFrame({"a": [1, None]}))
    assert outcomes["a"] == Outcome(success=False, failed=1, checked=2)
    assert not outcomes["b"].success
    assert "b" in (outcomes["b"].error or "")


def test_threads_do_not_see_each_others_batches():
    suite = Suite("s", schema=[], rows=[NotNull(name="a", column="a")])
    batches = [pl.DataFrame({"a": [None] * nulls + [1] * 5}) for nulls in range(6)]
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(lambda batch: judge_rows(suite, batch)["a"], batches))
    assert [(outcome.failed, outcome.checked) for outcome in outcomes] == [(n, n + 5) for n in range(6)]


def test_a_conditioned_rule_without_its_column_is_not_judged():
    suite = Suite("s", schema=[], rows=[Between(name="b", column="b", low=0, where={"k": "v"})])
    assert "'k', 'b'" in (judge_rows(suite, pl.DataFrame({"b": [1]}))["b"].error or "")


DTYPES = {
    "i8": pl.Int8, "u64": pl.UInt64, "f32": pl.Float32, "f64": pl.Float64, "s": pl.String, "b": pl.Boolean,
    "d": pl.Date, "t": pl.Time, "utc": pl.Datetime("us", "UTC"), "naive": pl.Datetime("ms"), "span": pl.Duration("us"),
    "bytes": pl.Binary, "dec": pl.Decimal(10, 2), "list": pl.List(pl.Int64), "struct": pl.Struct({"a": pl.Int8}),
    "cat": pl.Categorical, "enum": pl.Enum(["a"]), "null": pl.Null,
}  # fmt: skip


def test_both_executors_tell_types_apart():
    suite = Suite("s", schema=[HasType(c, t) for c, t in DTYPES.items()], rows=[])
    right = pl.DataFrame(schema=DTYPES).schema
    wrong = pl.DataFrame(schema=dict.fromkeys(DTYPES, pl.Int64)).schema
    for schema, expected in ((right, True), (wrong, False)):
        outcomes = judge_schema(suite, schema)
        assert {name: outcome.error for name, outcome in outcomes.items() if outcome.error} == {}
        assert {outcomes[rule.name].success for rule in suite.schema} == {expected}
        assert {rule.holds(schema) for rule in suite.schema} == {expected}


def test_a_missing_column_is_one_finding_not_two():
    suite = Suite("s", schema=[ColumnPresent("a"), HasType("a", pl.Int64)], rows=[])
    assert judge_schema(suite, {"b": pl.Int64}) == {"a_present": Outcome(success=False)}


def test_suites_read_as_great_expectations_suites():
    suite = SUITES["test_results"]
    shown = gx_suite(suite).to_json_dict()["expectations"]
    assert [e["meta"]["rule"] for e in shown] == [rule.name for rule in (*suite.schema, *suite.rows)]
    vdd = next(e for e in shown if e["meta"]["rule"] == "vdd_range")
    assert vdd["type"] == "expect_column_values_to_be_between"
    assert (vdd["kwargs"]["min_value"], vdd["kwargs"]["max_value"]) == (1.0, 1.4)
    assert vdd["kwargs"]["row_condition"] == {
        "type": "comparison", "column": {"name": "test_name"}, "operator": "==", "parameter": "vdd",
    }  # fmt: skip
    assert (vdd["severity"], vdd["meta"]["severity"], vdd["meta"]["tolerance"]) == ("warning", "medium", 0.05)
    assert json.dumps(shown)


SECRETIVE = """
import sys

def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"{event} {args}")

sys.addaudithook(refuse)
import polars as pl
from expectations.gate import validate
from expectations.rules import NotNull, Suite

rows = pl.DataFrame({"f": ["x", "x"], "a": [1, None]})
print(validate(Suite("s", [], [NotNull(name="a", column="a")]), rows, by="f").split.rejected.height)
"""


def test_judging_writes_no_file_contacts_nobody_and_shows_no_progress(tmp_path):
    home, temporary, here = (tmp_path / name for name in ("home", "tmp", "cwd"))
    for folder in (home, temporary, here):
        folder.mkdir()
    places = {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(home)}
    run = subprocess.run(
        [sys.executable, "-c", SECRETIVE],
        env={**os.environ, **places},
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "1", "")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

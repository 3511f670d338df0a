import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing.parametric import dataframes

from card_payments import group
from expectations.groups import group_rules
from expectations.masks import mask, prepare
from expectations.result import Severity
from expectations.rules import (
    Between,
    ColumnPresent,
    Expression,
    HasType,
    InSet,
    NotNull,
    RowRule,
    Suite,
    Unique,
    suite_for,
    suite_of_group,
)
from expectations.suites import SUITES
from expectations.suites import suite_for as suite_of
from features import Feature
from features.definitions import REGISTRY, wafer_sources
from features.errors import DefinitionError
from features.source import Source
from features.times import UTC_US

READINGS = pl.DataFrame(
    {
        "file": ["a"] * 6,
        "test": ["vdd", "vdd", "idd", None, "vdd", "vdd"],
        "value": [1.0, 1.5, 99.0, 99.0, None, float("nan")],
        "kind": ["PTR", "XTR", None, "FTR", "PTR", "PTR"],
    }
)


def outcome(rule: RowRule, rows: pl.DataFrame = READINGS) -> tuple[list[bool], int]:
    """Which rows break the rule, and how many are checked."""
    suite = Suite("s", schema=[], rows=[rule])
    masks = mask(suite, prepare(suite, rows, "file"), "file")
    return masks.broken[rule.name].to_list(), masks.counts["checked"].item()


def test_a_range_is_closed_and_looks_at_the_values_that_are_there_in_the_rows_it_is_about():
    rule = Between(name="r", column="value", low=1.0, high=1.4, where={"test": "vdd"})
    assert outcome(rule) == ([False, True, False, False, False, False], 2)


@pytest.mark.parametrize(("low", "high", "bad"), [(1.2, None, [1.0]), (None, 1.2, [1.5, 99.0, 99.0])])
def test_an_end_of_a_range_may_be_open(low, high, bad):
    broken, checked = outcome(Between(name="r", column="value", low=low, high=high))
    assert (READINGS["value"].filter(broken).to_list(), checked) == (bad, 4)


def test_nan_and_null_are_both_missing():
    assert outcome(NotNull(name="r", column="value")) == ([False, False, False, False, True, True], 6)


def test_a_set_leaves_missing_values_alone():
    assert outcome(InSet(name="r", column="kind", values=["PTR", "FTR"])) == ([False, True, *[False] * 4], 5)


def test_an_expression_sees_the_raw_row_and_passes_on_null():
    broken, checked = outcome(Expression(name="r", ok=pl.col("value").is_finite(), why="not finite"))
    assert (broken, checked) == ([False] * 5 + [True], 5)


def test_numbers_are_compared_as_wide_as_their_bounds():
    rows = pl.DataFrame({"file": ["a"], "value": pl.Series([0.1], dtype=pl.Float32)})
    assert outcome(Between(name="r", column="value", high=0.1), rows)[0] == [True]  # 0.1f is 0.10000000149


@pytest.mark.parametrize(
    ("failed", "severity"), [(1, Severity.MEDIUM), (5, Severity.MEDIUM), (6, Severity.HIGH), (100, Severity.HIGH)]
)
def test_more_than_five_percent_out_of_range_is_high(failed, severity):
    assert Between(name="r", column="x", low=0).judge(failed, 100) is severity


@pytest.mark.parametrize(
    ("failed", "severity"), [(5, Severity.MEDIUM), (6, Severity.HIGH), (99, Severity.HIGH), (100, Severity.CRITICAL)]
)
def test_nulls_are_high_above_five_percent_and_critical_when_nothing_else_is_there(failed, severity):
    assert NotNull(name="r", column="x").judge(failed, 100) is severity


def test_equal_rows_are_counted_among_those_the_rule_is_about_and_missing_values_are_equal():
    rows = pl.DataFrame(
        {
            "file": ["a"] * 7,
            "kind": ["s", "s", "v", "s", "s", "s", None],
            "shop": ["x", "x", "x", None, None, "x", "x"],
            "bill": [1.0, 1.0, 1.0, float("nan"), None, None, 1.0],
        }
    )
    rule = Unique(name="r", among=["shop", "bill"], where={"kind": "s"})
    assert outcome(rule, rows) == ([True, True, False, True, True, False, False], 5)
    assert outcome(Unique(name="r", among=["shop", "bill"]), rows)[0] == [True, True, True, True, True, False, True]


@given(dataframes(cols=2, max_size=5), st.integers(0, 2))
def test_masks_find_the_rows_that_are_there_twice(drawn, again):
    rows = pl.concat([drawn, drawn.head(again)])
    rule = Unique(name="r", among=rows.columns)
    suite = Suite("s", (), (rule,), empty=Severity.LOW)
    prepared = prepare(suite, rows.with_columns(file=pl.lit("a")), "file")
    broken = prepared.rows.select(rule.failing()).to_series()
    assert mask(suite, prepared, "file").broken["r"].to_list() == broken.to_list()


@pytest.mark.parametrize("among", [[], ["a"], ["a", "a"]])
def test_what_tells_rows_apart_is_named_once(among):
    with pytest.raises(DefinitionError, match="name two or more columns"):
        Unique(name="r", among=among)


def test_a_source_without_keys_has_no_record_to_repeat():
    source = Source("clicks", schema={"at": pl.Datetime, "n": pl.Int64}, event_timestamp="at")
    assert [rule.name for rule in suite_for(source).rows] == ["at_not_null"]


def test_a_group_implies_its_keys_types_ranges_and_one_row_a_moment():
    amounts = [
        Feature("mean", pl.col("amount").mean(), unit="USD", range=(0, 1000)),
        Feature("count", pl.len(), range=(1, None)),
        Feature("worst", pl.col("amount").min()),
    ]
    suite = suite_of_group(group("paid", amounts, grain="entity", every="1d"))
    types = {"card_id": pl.Int64, "mean": pl.Float64, "count": pl.Int64, "worst": pl.Float64, "event_timestamp": UTC_US}
    assert {rule.column: rule.dtype for rule in suite.schema if isinstance(rule, HasType)} == types
    assert {rule.column: rule.severity for rule in suite.schema if isinstance(rule, ColumnPresent)} == {
        **dict.fromkeys(["card_id", "event_timestamp"], Severity.CRITICAL),
        **dict.fromkeys(["mean", "count", "worst"], Severity.MEDIUM),
    }
    assert {rule.name: rule.complaint for rule in suite.rows} == {
        "card_id_not_null": "'card_id' is missing",
        "event_timestamp_not_null": "'event_timestamp' is missing",
        "row_unique": "card_id, event_timestamp are the same as in another row",
        "mean_range": "'mean' is outside 0 to 1000 USD",
        "count_range": "'count' is below 1",
    }


def test_rules_of_ones_own_stand_beside_those_that_a_group_implies():
    paid = group("paid", [Feature("mean", pl.col("amount").mean())], grain="entity", every="1d")
    cents, implied = {"cents": pl.col("mean") * 100}, suite_of_group(paid)
    suite = suite_of_group(paid, rows=[Between(name="cents_range", column="cents", low=1)], derived=cents)
    assert [rule.name for rule in suite.rows] == [*(rule.name for rule in implied.rows), "cents_range"]
    assert (suite.name, suite.schema, suite.computed) == ("paid", implied.schema, cents)


def test_every_shipped_group_has_a_suite():
    for known in REGISTRY.groups.values():
        assert {rule.column for rule in suite_of_group(known).schema} == {
            *known.keys, "event_timestamp", *known.feature_names
        }  # fmt: skip


def test_unexpected_categories_stay_medium():
    assert InSet(name="r", column="x", values=["a"]).judge(100, 100) is Severity.MEDIUM


def test_a_severity_above_high_is_never_lowered():
    assert Between(name="r", column="x", low=0, severity=Severity.CRITICAL).judge(50, 100) is Severity.CRITICAL


def test_a_type_given_as_a_class_means_its_default():
    rule = HasType("t", pl.Datetime)
    assert rule.holds({"t": pl.Datetime("us")})
    assert not rule.holds({"t": UTC_US})


@pytest.mark.parametrize("bounds", [{}, {"low": 2, "high": 1}])
def test_a_range_without_room_is_refused(bounds):
    with pytest.raises(DefinitionError, match="rule 'r'"):
        Between(name="r", column="x", **bounds)


def test_two_rules_of_one_name_are_refused():
    with pytest.raises(DefinitionError, match="'x_present'"):
        Suite("s", schema=[ColumnPresent("x")], rows=[NotNull(name="x_present", column="x")])


def test_a_source_implies_its_columns_types_event_time_and_keys():
    source = Source(
        "clicks", schema={"user": pl.String, "at": pl.Datetime, "n": pl.Int64}, event_timestamp="at", keys=["user"]
    )
    suite = suite_for(source)
    assert {rule.name: rule.severity for rule in suite.schema} == {
        "user_present": Severity.CRITICAL,
        "at_present": Severity.CRITICAL,
        "n_present": Severity.MEDIUM,
        "user_type": Severity.HIGH,
        "at_type": Severity.HIGH,
        "n_type": Severity.HIGH,
    }
    assert [rule.name for rule in suite.rows] == ["at_not_null", "user_not_null", "record_unique"]
    assert suite.rows[-1].among == ["_file_sha256", "user", "at"]
    assert all(rule.holds(source.dtypes) for rule in suite.schema)
    assert suite_of(source).name == "clicks"


@pytest.mark.parametrize("source", [wafer_sources.wafers, wafer_sources.parts, wafer_sources.test_results])
def test_every_wafer_source_has_a_suite_that_fits_its_definition(source):
    suite = SUITES[source.name]
    assert suite_of(source) is suite
    assert all(rule.holds(source.dtypes) for rule in suite.schema)
    known = {*source.schema, *suite.computed, "_file_sha256"}
    rows = [rule for rule in suite.rows if rule.name not in group_rules(suite)]
    assert [rule.name for rule in rows if not set(rule.columns) <= known] == []


def test_rules_and_suites_are_importable_without_great_expectations():
    code = "import sys, expectations.suites, expectations.quarantine; print('great_expectations' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"

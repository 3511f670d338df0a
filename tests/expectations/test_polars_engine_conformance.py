"""Every expectation on both engines over frames made to trip them: the same verdicts, counts and rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from zoneinfo import ZoneInfo

import great_expectations.expectations as gxe
import pytest

from gx_engines import DAYS, FRAMES, INF, SCHEMA, Batches, both_engines, said

BERLIN = ZoneInfo("Europe/Berlin")
EXPECTATIONS: dict[str, Callable[[], Any]] = {
    "column exists": lambda: gxe.ExpectColumnToExist(column="i"),
    "column exists at": lambda: gxe.ExpectColumnToExist(column="j", column_index=1),
    "column is missing": lambda: gxe.ExpectColumnToExist(column="absent"),
    "columns in order": lambda: gxe.ExpectTableColumnsToMatchOrderedList(column_list=list(SCHEMA)),
    "columns out of order": lambda: gxe.ExpectTableColumnsToMatchOrderedList(column_list=list(SCHEMA)[::-1]),
    "column set": lambda: gxe.ExpectTableColumnsToMatchSet(column_set=[*SCHEMA, "absent"], exact_match=False),
    "column set exactly": lambda: gxe.ExpectTableColumnsToMatchSet(column_set=[*SCHEMA, "absent"], exact_match=True),
    "column count": lambda: gxe.ExpectTableColumnCountToEqual(value=10),
    "column count between": lambda: gxe.ExpectTableColumnCountToBeBetween(min_value=11, max_value=12),
    "row count": lambda: gxe.ExpectTableRowCountToEqual(value=6),
    "row count between": lambda: gxe.ExpectTableRowCountToBeBetween(min_value=1, max_value=5),
    "not null float": lambda: gxe.ExpectColumnValuesToNotBeNull(column="f", mostly=0.6),
    "not null integer": lambda: gxe.ExpectColumnValuesToNotBeNull(column="i"),
    "not null text": lambda: gxe.ExpectColumnValuesToNotBeNull(column="s"),
    "not null time": lambda: gxe.ExpectColumnValuesToNotBeNull(column="t"),
    "null": lambda: gxe.ExpectColumnValuesToBeNull(column="f"),
    "null Boolean": lambda: gxe.ExpectColumnValuesToBeNull(column="b", mostly=0.5),
    "between": lambda: gxe.ExpectColumnValuesToBeBetween(column="f", min_value=0, max_value=3),
    "between strictly": lambda: gxe.ExpectColumnValuesToBeBetween(
        column="f", min_value=0.5, max_value=3, strict_min=True, strict_max=True
    ),
    "between integers": lambda: gxe.ExpectColumnValuesToBeBetween(column="i", min_value=1, max_value=2**53),
    "at least": lambda: gxe.ExpectColumnValuesToBeBetween(column="i", min_value=1.5, mostly=0.5),
    "at most strictly": lambda: gxe.ExpectColumnValuesToBeBetween(column="i", max_value=4, strict_max=True),
    "between zoned and naive moments": lambda: gxe.ExpectColumnValuesToBeBetween(
        column="t", min_value=DAYS[1].replace(tzinfo=None)
    ),
    "between naive moments in words": lambda: gxe.ExpectColumnValuesToBeBetween(
        column="n", max_value="2026-03-30T12:00:00"
    ),
    "between Booleans": lambda: gxe.ExpectColumnValuesToBeBetween(column="b", min_value=0, max_value=0.5),
    "between moments": lambda: gxe.ExpectColumnValuesToBeBetween(column="t", min_value=DAYS[1], max_value=DAYS[3]),
    "between moments of a zone": lambda: gxe.ExpectColumnValuesToBeBetween(
        column="t", min_value=DAYS[1].astimezone(BERLIN), max_value=DAYS[3].astimezone(BERLIN)
    ),
    "between moments in words": lambda: gxe.ExpectColumnValuesToBeBetween(
        column="t", min_value="2026-03-29T12:00:00+00:00", max_value="2026-03-31T12:00:00+02:00"
    ),
    "between naive moments": lambda: gxe.ExpectColumnValuesToBeBetween(
        column="n", min_value=DAYS[1].replace(tzinfo=None), max_value=DAYS[3].replace(tzinfo=None)
    ),
    "between text and number": lambda: gxe.ExpectColumnValuesToBeBetween(column="s", min_value=0, max_value=3),
    "between of an absent column": lambda: gxe.ExpectColumnValuesToBeBetween(column="absent", min_value=0),
    "between by another case": lambda: gxe.ExpectColumnValuesToBeBetween(column="F", min_value=0),
    "between swapped bounds": lambda: gxe.ExpectColumnValuesToBeBetween(column="f", min_value=3, max_value=0),
    "in set": lambda: gxe.ExpectColumnValuesToBeInSet(column="i", value_set=[1, 2**53 + 1, 3, 2.5, "4"]),
    "in set of floats": lambda: gxe.ExpectColumnValuesToBeInSet(column="f", value_set=[1, 2.0, INF, 0.5]),
    "in set of texts": lambda: gxe.ExpectColumnValuesToBeInSet(column="s", value_set=["a", "é", "日本", ""]),
    "in set of nothing": lambda: gxe.ExpectColumnValuesToBeInSet(column="s", value_set=[]),
    "in set of Booleans": lambda: gxe.ExpectColumnValuesToBeInSet(column="b", value_set=[True]),
    "in set of moments": lambda: gxe.ExpectColumnValuesToBeInSet(column="t", value_set=DAYS[:3]),
    "not in set": lambda: gxe.ExpectColumnValuesToNotBeInSet(column="i", value_set=[1, 5, 2**53]),
    "not in set of texts": lambda: gxe.ExpectColumnValuesToNotBeInSet(column="s", value_set=["a", "é", 3]),
    "not in set of moments": lambda: gxe.ExpectColumnValuesToNotBeInSet(
        column="t", value_set=["2026-03-28T12:00:00+00:00", "2026-03-30T12:00:00+00:00"]
    ),
    "unique": lambda: gxe.ExpectColumnValuesToBeUnique(column="i"),
    "unique float": lambda: gxe.ExpectColumnValuesToBeUnique(column="f", mostly=0.5),
    "unique text": lambda: gxe.ExpectColumnValuesToBeUnique(column="s"),
    "unique moment": lambda: gxe.ExpectColumnValuesToBeUnique(column="t"),
    "increasing": lambda: gxe.ExpectColumnValuesToBeIncreasing(column="i"),
    "increasing strictly": lambda: gxe.ExpectColumnValuesToBeIncreasing(column="f", strictly=True),
    "increasing moments": lambda: gxe.ExpectColumnValuesToBeIncreasing(column="t", strictly=True),
    "increasing text": lambda: gxe.ExpectColumnValuesToBeIncreasing(column="s"),
    "decreasing": lambda: gxe.ExpectColumnValuesToBeDecreasing(column="f"),
    "decreasing strictly": lambda: gxe.ExpectColumnValuesToBeDecreasing(column="i", strictly=True),
    "matches": lambda: gxe.ExpectColumnValuesToMatchRegex(column="s", regex=r"^\w{1,2}$"),
    "matches not": lambda: gxe.ExpectColumnValuesToNotMatchRegex(column="s", regex="[ab]"),
    "matches any": lambda: gxe.ExpectColumnValuesToMatchRegexList(column="s", regex_list=["^a", "b+$", "日"]),
    "matches all": lambda: gxe.ExpectColumnValuesToMatchRegexList(
        column="s", regex_list=["[a-c]", "^.{1,2}$"], match_on="all"
    ),
    "matches none": lambda: gxe.ExpectColumnValuesToNotMatchRegexList(column="s", regex_list=["a", "^c"]),
    "like, which neither engine knows": lambda: gxe.ExpectColumnValuesToMatchLikePattern(column="s", like_pattern="a%"),
    "not like, which neither engine knows": lambda: gxe.ExpectColumnValuesToNotMatchLikePatternList(
        column="s", like_pattern_list=["a%"]
    ),
    "length": lambda: gxe.ExpectColumnValueLengthsToEqual(column="s", value=1),
    "length between": lambda: gxe.ExpectColumnValueLengthsToBeBetween(column="s", min_value=1, max_value=2),
    "length below": lambda: gxe.ExpectColumnValueLengthsToBeBetween(column="s", max_value=2, strict_max=True),
    "z-score": lambda: gxe.ExpectColumnValueZScoresToBeLessThan(column="f", threshold=1.2, double_sided=True),
    "z-score of integers": lambda: gxe.ExpectColumnValueZScoresToBeLessThan(
        column="i", threshold=1, double_sided=False
    ),
    "z-score of text": lambda: gxe.ExpectColumnValueZScoresToBeLessThan(column="s", threshold=1, double_sided=False),
    "no outliers": lambda: gxe.ExpectColumnValuesToNotBeOutliers(column="f", method="iqr", multiplier=0.5),
    "no outliers by deviation": lambda: gxe.ExpectColumnValuesToNotBeOutliers(column="f", method="std", multiplier=1),
    "min": lambda: gxe.ExpectColumnMinToBeBetween(column="f", min_value=0, max_value=1),
    "min of text": lambda: gxe.ExpectColumnMinToBeBetween(column="s"),
    "max": lambda: gxe.ExpectColumnMaxToBeBetween(column="i", min_value=3, max_value=9),
    "max of moments": lambda: gxe.ExpectColumnMaxToBeBetween(column="t", min_value=DAYS[2], max_value=DAYS[5]),
    "mean": lambda: gxe.ExpectColumnMeanToBeBetween(column="f", min_value=0, max_value=3),
    "mean of integers": lambda: gxe.ExpectColumnMeanToBeBetween(column="i", min_value=1, max_value=4, strict_max=True),
    "mean of Booleans": lambda: gxe.ExpectColumnMeanToBeBetween(column="b", min_value=0, max_value=0.5),
    "mean of text": lambda: gxe.ExpectColumnMeanToBeBetween(column="s", min_value=0, max_value=3),
    "median": lambda: gxe.ExpectColumnMedianToBeBetween(column="f", min_value=1, max_value=2),
    "median of integers": lambda: gxe.ExpectColumnMedianToBeBetween(column="i", min_value=1, max_value=3),
    "standard deviation": lambda: gxe.ExpectColumnStdevToBeBetween(column="f", min_value=0, max_value=2),
    "standard deviation of integers": lambda: gxe.ExpectColumnStdevToBeBetween(column="i", min_value=0, max_value=2),
    "sum": lambda: gxe.ExpectColumnSumToBeBetween(column="f", min_value=0, max_value=10),
    "sum of integers": lambda: gxe.ExpectColumnSumToBeBetween(column="i", min_value=0, max_value=20),
    "sum of Booleans": lambda: gxe.ExpectColumnSumToBeBetween(column="b", min_value=1, max_value=2),
    "sum of text": lambda: gxe.ExpectColumnSumToBeBetween(column="s", min_value=0, max_value=10),
    "quantiles": lambda: gxe.ExpectColumnQuantileValuesToBeBetween(
        column="f",
        quantile_ranges={
            "quantiles": [0.0, 0.1, 0.25, 0.5, 0.75, 1.0],
            "value_ranges": [[None, 1], [0, 1], [0, 2], [1, 3], [2, 4], [2, None]],
        },
    ),
    "quantiles of integers": lambda: gxe.ExpectColumnQuantileValuesToBeBetween(
        column="i", quantile_ranges={"quantiles": [0.3, 0.5, 0.7], "value_ranges": [[1, 2], [1, 4], [3, 5]]}
    ),
    "quantiles between": lambda: gxe.ExpectColumnQuantileValuesToBeBetween(
        column="f",
        allow_relative_error="linear",
        quantile_ranges={"quantiles": [0.1, 0.5, 0.9], "value_ranges": [[-1, 1], [1, 3], [2, 9]]},
    ),
    "distinct in set": lambda: gxe.ExpectColumnDistinctValuesToBeInSet(column="i", value_set=[1, 3, 4, 5, "x"]),
    "distinct texts in set": lambda: gxe.ExpectColumnDistinctValuesToBeInSet(column="s", value_set=["a", "bb", "é"]),
    "distinct contain set": lambda: gxe.ExpectColumnDistinctValuesToContainSet(column="s", value_set=["a", "bb", 3]),
    "distinct moments contain set": lambda: gxe.ExpectColumnDistinctValuesToContainSet(
        column="n", value_set=["2026-03-28T12:00:00", "2026-04-28"]
    ),
    "distinct equal set": lambda: gxe.ExpectColumnDistinctValuesToEqualSet(column="i", value_set=[1, 3, 4, 5, 9]),
    "distinct count": lambda: gxe.ExpectColumnUniqueValueCountToBeBetween(column="f", min_value=1, max_value=4),
    "distinct count of text": lambda: gxe.ExpectColumnUniqueValueCountToBeBetween(column="s", min_value=2, max_value=4),
    "distinct share": lambda: gxe.ExpectColumnProportionOfUniqueValuesToBeBetween(
        column="f", min_value=0.5, max_value=0.9
    ),
    "share there": lambda: gxe.ExpectColumnProportionOfNonNullValuesToBeBetween(
        column="f", min_value=0.5, max_value=0.9
    ),
    "most common": lambda: gxe.ExpectColumnMostCommonValueToBeInSet(column="i", value_set=[1, 2], ties_okay=True),
    "most common text": lambda: gxe.ExpectColumnMostCommonValueToBeInSet(column="s", value_set=["a", "bb"]),
    "pair equal": lambda: gxe.ExpectColumnPairValuesToBeEqual(column_A="i", column_B="j"),
    "pair equal or missing": lambda: gxe.ExpectColumnPairValuesToBeEqual(
        column_A="s", column_B="r", ignore_row_if="either_value_is_missing"
    ),
    "pair equal with missing": lambda: gxe.ExpectColumnPairValuesToBeEqual(
        column_A="f", column_B="g", ignore_row_if="neither"
    ),
    "pair of text and number": lambda: gxe.ExpectColumnPairValuesToBeEqual(column_A="s", column_B="i"),
    "pair greater": lambda: gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="f", column_B="g"),
    "pair not less": lambda: gxe.ExpectColumnPairValuesAToBeGreaterThanB(
        column_A="i", column_B="j", or_equal=True, ignore_row_if="either_value_is_missing", mostly=0.5
    ),
    "pair in set": lambda: gxe.ExpectColumnPairValuesToBeInSet(
        column_A="i", column_B="s", value_pairs_set=[(3, "a"), (1, "bb"), (1, None), (None, None), ("x", "y")]
    ),
    "together unique": lambda: gxe.ExpectCompoundColumnsToBeUnique(column_list=["i", "s"]),
    "together unique if all there": lambda: gxe.ExpectCompoundColumnsToBeUnique(
        column_list=["f", "s", "b"], ignore_row_if="any_value_is_missing"
    ),
    "together unique in all rows": lambda: gxe.ExpectCompoundColumnsToBeUnique(
        column_list=["b", "f"], ignore_row_if="never"
    ),
    "different in each row": lambda: gxe.ExpectSelectColumnValuesToBeUniqueWithinRecord(column_list=["i", "j", "f"]),
    "different texts in each row": lambda: gxe.ExpectSelectColumnValuesToBeUniqueWithinRecord(
        column_list=["s", "r", "i"], ignore_row_if="any_value_is_missing"
    ),
    "sum of columns": lambda: gxe.ExpectMulticolumnSumToEqual(column_list=["i", "j", "f"], sum_total=6.5),
    "sum of integer columns": lambda: gxe.ExpectMulticolumnSumToEqual(
        column_list=["i", "j"], sum_total=6, ignore_row_if="any_value_is_missing"
    ),
    "columns equal": lambda: gxe.ExpectMulticolumnValuesToBeEqual(column_list=["f", "g"]),
    "texts equal": lambda: gxe.ExpectMulticolumnValuesToBeEqual(column_list=["s", "r"], ignore_row_if="never"),
}


# pandas warns when it calculates with infinities.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

INTENDED = {
    (
        "between text and number",
        "empty",
    ): "types that cannot be compared raise, also where no value is there to compare",
    (
        "between text and number",
        "all_null",
    ): "types that cannot be compared raise, also where no value is there to compare",
    ("increasing", "big_ints"): "pandas subtracts, and a difference of 2**63 wraps around; ours compares",
    ("decreasing strictly", "big_ints"): "pandas subtracts, and a difference of 2**63 wraps around; ours compares",
    (
        "matches",
        "unicode",
    ): "to Polars a combining mark is part of a word, and $ does not match before a last newline",
    ("quantiles between", "inf"): "between a number and an infinity NumPy finds NaN at one end, Polars at the other",
    ("different in each row", "big_ints"): "pandas compares a row with a float in it as floats, and 2**53 + 1 is none",
}
"""Where the engines differ on purpose, and why."""


@pytest.fixture(scope="module")
def batches() -> Iterator[Batches]:
    with both_engines() as batch:
        yield batch


def tried_on(expectation: Any) -> list[str]:
    """The frames whose columns, as far as the expectation looks at them, are not those of the plain one."""
    kwargs = expectation.configuration.kwargs
    named = [kwargs.get(key) for key in ("column", "column_A", "column_B")] + [*kwargs.get("column_list", [])]
    columns = {name.lower() for name in named if name} & SCHEMA.keys()
    plain = FRAMES["plain"].select(columns)
    different = [n for n, f in FRAMES.items() if f.height != 6 or not f.select(columns).equals(plain, null_equal=True)]
    zoned = ["zones"] if "t" in columns else []
    return ["plain", *dict.fromkeys([*different, *zoned])]


@pytest.mark.parametrize("name", EXPECTATIONS)
def test_both_engines_say_the_same(batches: Batches, name: str) -> None:
    differences = {}
    for frame in tried_on(EXPECTATIONS[name]()):
        theirs, ours = (said(batches(engine, frame), EXPECTATIONS[name]()) for engine in ("pandas", "polars"))
        if theirs != ours:
            differences[frame] = (theirs, ours)
    intended = {frame for expectation, frame in INTENDED if expectation == name}
    assert {f: d for f, d in differences.items() if f not in intended} == {}
    assert differences.keys() == intended  # none is listed that is not there


def test_the_table_is_as_wide_as_promised_and_differs_where_it_says_only() -> None:
    assert len({type(make()) for make in EXPECTATIONS.values()}) >= 45
    assert len(EXPECTATIONS) >= 100
    assert len(INTENDED) <= 10
    assert {name for name, _ in INTENDED} <= EXPECTATIONS.keys()

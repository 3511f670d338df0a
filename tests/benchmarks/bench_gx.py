"""Sixty expectations over 1 M rows of 22 columns: the Polars engine against Great Expectations on pandas.

Both must say the same of the same rows, which pandas is given as a frame of its own, made beforehand.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import polars as pl
from great_expectations.expectations.row_conditions import Column

from benchmarks.measurement import Measurement, seconds
from expectations.engine import gx_context

ROWS, ROUNDS = 1_000_000, 3
NUMBERS, WHOLES, TEXTS, MOMENTS = 8, 6, 5, 2
"""Columns of each kind; the last is a Boolean."""
SHARE = 0.02
"""Of a number's values so many are missing, and as many out of range."""

START = datetime(2026, 3, 1, tzinfo=UTC)


def rows() -> pl.DataFrame:
    """Floats with gaps and outliers, integers, texts of few and of many values, moments, and a Boolean."""
    random = np.random.default_rng(7)
    columns: dict[str, Any] = {}
    for number in range(NUMBERS):
        values = random.normal(10, 2, ROWS) + np.where(random.random(ROWS) < SHARE, 50, 0)
        columns[f"f{number}"] = np.where(random.random(ROWS) < SHARE, np.nan, values)
    for number in range(WHOLES):
        columns[f"i{number}"] = random.integers(0, 10 ** (number + 1), ROWS)
    for number in range(TEXTS):
        columns[f"s{number}"] = pl.Series(random.integers(0, 10 ** (number + 1), ROWS)).cast(pl.String)
    for number in range(MOMENTS):
        after = pl.Series(random.integers(0, 30 * 86_400_000_000, ROWS)).cast(pl.Duration("us"))
        columns[f"t{number}"] = START + after
    columns["b"] = random.random(ROWS) < 0.5
    return pl.DataFrame(columns)


def expectations() -> Iterator[Any]:
    """Sixty of them, as a suite for such a table would have; some fail."""
    day = START + timedelta(days=9)
    for name in [f"f{n}" for n in range(NUMBERS)]:
        yield gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=0.9)
        yield gxe.ExpectColumnValuesToBeBetween(column=name, min_value=0, max_value=20, mostly=0.95)
        yield gxe.ExpectColumnMeanToBeBetween(column=name, min_value=9, max_value=12)
    for name in [f"i{n}" for n in range(WHOLES)]:
        yield gxe.ExpectColumnValuesToNotBeNull(column=name)
        yield gxe.ExpectColumnValuesToBeBetween(column=name, min_value=1, max_value=900_000)
    for name in [f"s{n}" for n in range(TEXTS)]:
        yield gxe.ExpectColumnValuesToMatchRegex(column=name, regex="^[0-9]+$")
        yield gxe.ExpectColumnValueLengthsToBeBetween(column=name, min_value=1, max_value=4)
    for name in [f"t{n}" for n in range(MOMENTS)]:
        yield gxe.ExpectColumnValuesToBeBetween(column=name, min_value=day)
        yield gxe.ExpectColumnMaxToBeBetween(column=name, min_value=day)
    yield gxe.ExpectColumnValuesToBeInSet(column="s0", value_set=[str(n) for n in range(9)])
    yield gxe.ExpectColumnDistinctValuesToBeInSet(column="s0", value_set=[str(n) for n in range(10)])
    yield gxe.ExpectColumnValuesToBeUnique(column="i5", mostly=0.3)
    yield gxe.ExpectCompoundColumnsToBeUnique(column_list=["i4", "s4"], mostly=0.5)
    yield gxe.ExpectColumnMedianToBeBetween(column="f0", min_value=9, max_value=11)
    yield gxe.ExpectColumnStdevToBeBetween(column="f1", min_value=1, max_value=20)
    yield gxe.ExpectColumnValueZScoresToBeLessThan(column="f2", threshold=3, double_sided=True, mostly=0.9)
    yield gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="i3", column_B="i0", or_equal=True, mostly=0.9)
    yield gxe.ExpectTableRowCountToEqual(value=ROWS)
    yield gxe.ExpectColumnValuesToBeBetween(column="f3", max_value=30, row_condition=Column("s0") == "3")


def judge(engine: str, frame: Any, result_format: str) -> list[Any]:
    """The verdicts of one run, in an own data source so that the rows are taken anew."""
    context, name = gx_context(), uuid.uuid4().hex
    add = context.data_sources.add_pandas if engine == "pandas" else context.data_sources.add_polars
    suite = gx.ExpectationSuite(name=name, expectations=list(expectations()))
    try:
        asset = add(name).add_dataframe_asset(name)
        batch = asset.add_batch_definition_whole_dataframe(name).get_batch({"dataframe": frame})
        results = batch.validate(suite, result_format=result_format).results
    finally:
        context.data_sources.delete(name)
    said = [(str(r.expectation_config.to_json_dict()["kwargs"]), r.success, _counts(r.result)) for r in results]
    return sorted(said, key=lambda each: each[0])


def _counts(result: Any) -> tuple[Any, ...]:
    return tuple(result.get(key) for key in ("element_count", "missing_count", "unexpected_count"))


def _compared(result_format: str) -> Measurement:
    frame = rows()
    given = frame.to_pandas()
    mine, theirs = judge("polars", frame.lazy(), result_format), judge("pandas", given, result_format)
    assert len(mine) == 60
    if differences := [(m, t) for m, t in zip(mine, theirs, strict=True) if m[1:] != t[1:]]:
        raise AssertionError(differences)
    ours, pandas = [], []
    for _ in range(ROUNDS):
        ours.append(seconds(lambda: judge("polars", frame.lazy(), result_format)))
        pandas.append(seconds(lambda: judge("pandas", given, result_format)))
    value, baseline = median(ours), median(pandas)
    return Measurement(value, "s", baseline, value / baseline)


def gx_boolean() -> Measurement:
    """Verdicts only."""
    return _compared("BOOLEAN_ONLY")


def gx_summary() -> Measurement:
    """With counts and examples of what failed."""
    return _compared("SUMMARY")

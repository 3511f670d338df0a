"""The test results of an STDF file: PTR, MPR and FTR as rows of one shape."""

from __future__ import annotations

import numpy as np
import polars as pl

from infra.sources.stdf_parts import Insertions
from infra.sources.stdf_records import Records
from infra.sources.stdf_wafers import Ints, Wafer, wafer_of

_KEY = ["TEST_NUM", "TEST_TXT"]
_NO_VALUE = 0x12  # TEST_FLG: result invalid, not executed
_NO_VERDICT = 0x52  # these, or no pass/fail indication
_FAILED = 0x80
_TEST_FLAG_END, _RESULT_END = 7, 12
"""Bytes of a PTR, MPR or FTR that hold TEST_FLG, of a PTR that hold RESULT; the parser fills what is cut with 0."""


def result_rows(records: Records, insertions: Insertions, parts: pl.DataFrame, wafers: list[Wafer]) -> pl.DataFrame:
    """A row per PTR, per pin result of an MPR and per FTR, in file order, with its part's context.

    An MPR without any result is one row without pin and result: its verdict counts. A result outside
    any part has its wafer's context and finish time. ``parts`` are the part rows followed by one row
    per wafer for such results.
    """
    kinds = [_parametric(records["PTR"]), _multiple(records["MPR"]), _functional(records["FTR"])]
    present = [kind for kind in kinds if kind.height] or kinds[:1]
    results = present[0] if len(present) == 1 else pl.concat(present).sort("sequence_number", maintain_order=True)
    owner = insertions.part_of(results)
    outside = np.flatnonzero(owner < 0)
    if len(outside):
        head, sequence = (results[c].cast(pl.Int64).to_numpy()[outside] for c in ("HEAD_NUM", "sequence_number"))
        owner[outside] = parts.height - len(wafers) + wafer_of(wafers, head, sequence)
    context = parts.select(
        "lot_id", "wafer_id", "product", "tester_id", "part_id", "part_index", "x", "y", "tested_at"
    )[owner]
    return results.rename({"HEAD_NUM": "head", "SITE_NUM": "site", "byte_offset": "_record_offset"}).hstack(
        [*context, pl.Series("test_index", _rank(owner))]
    )


def _rank(owner: Ints) -> Ints:
    """The position of each among the equal ones, from 0, in order."""
    order = np.argsort(owner, kind="stable")
    first = np.flatnonzero(np.diff(owner[order], prepend=-1))
    rank = np.empty(len(owner), np.int64)
    rank[order] = np.arange(len(owner)) - np.repeat(first, np.diff(first, append=len(owner)))
    return rank


def _parametric(ptr: pl.DataFrame) -> pl.DataFrame:
    value = pl.col("RESULT").cast(pl.Float64).fill_nan(None)
    return _shaped(
        _with_limits(_named(ptr)),
        "PTR",
        result=pl.when((_flag() & _NO_VALUE == 0) & (pl.col("rec_len") >= _RESULT_END)).then(value),
    )


def _multiple(mpr: pl.DataFrame) -> pl.DataFrame:
    tests = _with_limits(_named(mpr))
    tests = _inherited(tests, {"RTN_INDX": pl.col("RTN_INDX").is_not_null()})
    counts = tests["RTN_RSLT"].list.len().cast(pl.Int64).to_numpy()
    rows = np.repeat(np.arange(tests.height), np.maximum(counts, 1))
    position = _rank(rows)
    # Results that the record is too short to hold are the parser's zeros.
    held = (pl.col("rec_len").cast(pl.Int64) - _RESULT_END - (pl.col("RTN_ICNT").cast(pl.Int64) + 1) // 2) // 4
    pins = tests.drop("RTN_RSLT", "RTN_INDX")[rows].with_columns(
        _items(tests["RTN_RSLT"], rows, position).alias("value"),
        _items(tests["RTN_INDX"], rows, position).cast(pl.Int32).alias("pin"),
        pl.Series("position", position),
    )
    valid = (_flag() & _NO_VALUE == 0) & (pl.col("position") < held)
    return _shaped(pins, "MPR", result=pl.when(valid).then(pl.col("value").cast(pl.Float64).fill_nan(None)))


def _functional(ftr: pl.DataFrame) -> pl.DataFrame:
    nothing = {"lo_limit": pl.Float64, "hi_limit": pl.Float64, "unit": pl.String}
    rows = _named(ftr).with_columns(pl.lit(None, dtype).alias(column) for column, dtype in nothing.items())
    return _shaped(rows, "FTR", result=pl.lit(None, pl.Float64))


def _shaped(tests: pl.DataFrame, kind: str, result: pl.Expr) -> pl.DataFrame:
    verdict = (_flag() & _NO_VERDICT == 0) & (pl.col("rec_len") >= _TEST_FLAG_END)
    return tests.select(
        "sequence_number",
        "byte_offset",
        "HEAD_NUM",
        "SITE_NUM",
        test_num="TEST_NUM",
        test_name=pl.col("TEST_TXT").replace("", None),
        pin=pl.col("pin") if "pin" in tests.columns else pl.lit(None, pl.Int32),
        kind=pl.lit(kind),
        result=result,
        passed=pl.when(verdict).then(_flag() & _FAILED == 0),
        lo_limit="lo_limit",
        hi_limit="hi_limit",
        unit="unit",
    )


def _flag(field: str = "TEST_FLG") -> pl.Expr:
    """A one-byte bit field as a number."""
    return pl.col(field).bin.reinterpret(dtype=pl.UInt8)


def _named(tests: pl.DataFrame) -> pl.DataFrame:
    """The tests, an empty TEST_TXT filled with its TEST_NUM's text where that number has only one."""
    if not (tests["TEST_TXT"] == "").any():
        return tests
    texts = tests.filter(pl.col("TEST_TXT") != "").select(_KEY).unique()
    only = texts.group_by("TEST_NUM").agg(pl.col("TEST_TXT").first().alias("only"), pl.len()).filter(pl.col("len") == 1)
    return tests.join(only, on="TEST_NUM", how="left", maintain_order="left").with_columns(
        TEST_TXT=pl.when(pl.col("TEST_TXT") == "").then(pl.col("only").fill_null("")).otherwise("TEST_TXT")
    )


def _with_limits(tests: pl.DataFrame) -> pl.DataFrame:
    """The tests with lo_limit, hi_limit and unit, inherited from the test's first record that gives them.

    OPT_FLAG bits 4 and 5 say that the record's own low and high limit are invalid and the first
    record's count; bits 6 and 7 that the test has no low or high limit; a missing OPT_FLAG that all
    are left out.
    """
    flag = _flag("OPT_FLAG")
    columns: dict[str, pl.Expr] = {"unit": pl.col("UNITS").replace("", None)}
    given = {"unit": columns["unit"].is_not_null()}
    for limit, field, default, absent in (("lo_limit", "LO_LIMIT", 0x10, 0x40), ("hi_limit", "HI_LIMIT", 0x20, 0x80)):
        value = pl.col(field).cast(pl.Float64)
        columns[limit] = pl.when((flag & absent == 0) & value.is_finite()).then(value)
        given[limit] = (flag & absent != 0) | ((flag & default == 0) & value.is_not_null())
    return _inherited(tests.with_columns(**columns), given)


def _inherited(tests: pl.DataFrame, given: dict[str, pl.Expr]) -> pl.DataFrame:
    """The tests with each column of ``given`` taken, where a record does not give it, from the test's first that does.

    ``given`` maps a column to whether a record gives it; null counts as no.
    """
    marks = tests.select(expr.fill_null(value=False).alias(column) for column, expr in given.items())
    first = None
    for column in marks.columns:
        if marks[column].all():
            continue
        own = tests.filter(marks[column]).unique(_KEY, keep="first", maintain_order=True)
        own = own.select(*_KEY, pl.col(column).alias(f"first_{column}"))
        first = own if first is None else first.join(own, on=_KEY, how="full", coalesce=True)
    if first is None:
        return tests
    joined = tests.join(first, on=_KEY, how="left", maintain_order="left")
    return joined.with_columns(
        pl.when(marks[column]).then(column).otherwise(f"first_{column}").alias(column)
        for column in marks.columns
        if f"first_{column}" in first.columns
    )


def _items(lists: pl.Series, rows: Ints, position: Ints) -> pl.Series:
    """Item ``position`` of list ``rows``, null past its end or where the list is null."""
    lengths = lists.list.len().fill_null(0).cast(pl.Int64).to_numpy()
    at = (np.cumsum(lengths) - lengths)[rows] + position
    index = pl.Series(np.where(position < lengths[rows], at, -1)).replace(-1, None)
    return lists.explode(empty_as_null=False, keep_nulls=False).gather(index)

"""Single records, judged by the rules of a suite: what ``gate`` says of a batch, in microseconds.

The rules become Python functions (``expectations.compiled``). Where that is not possible, Polars is asked, once
for all such rules. A record that lacks a column, or has a value of another type than its column, goes the way
of a batch altogether: its frame has the types that its values have. So the answer is the masks' answer always,
and only the time differs. A rule that looks at several rows has nothing to say of one: it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from expectations.compiled import Breaks, breaks
from expectations.groups import GroupInRange
from expectations.masks import looked_at, mask, prepare
from expectations.result import Severity
from expectations.rules import HasType, RowRule, Suite, suite_of_group
from features.elementwise import not_elementwise
from features.entity import DataType
from features.errors import DefinitionError
from features.feature_group import FeatureGroup
from features.row_terms import BOOLEAN, FLOAT, STRING, Row
from features.times import UTC_US

_KINDS: Mapping[DataType, type] = {FLOAT: float, STRING: str, BOOLEAN: bool, pl.Date(): date}
"""Types of which every value of one Python type is a value."""
_INTEGERS = (pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64(), pl.UInt8(), pl.UInt16(), pl.UInt32())
_UTC = (UTC, ZoneInfo("UTC"))
_BATCH = "batch:"
_MISFIT = object()


class RecordCheck:
    """The rules of a suite for one record; called with it, names the rules that it breaks, in the suite's order.

    A rule that cannot be judged is broken, as in the gate. A value is of a column's type if that type can hold
    it: 5 is a float and a time without a zone is UTC, but True is no number and a number no time. ``severities``
    are the rules' own, ``uncompiled`` says which rules Polars is asked about, ``left_out`` which are not judged
    since they look at several rows, each with the reason.
    """

    def __init__(self, suite: Suite, dtypes: Mapping[str, DataType]) -> None:
        self.severities: Mapping[str, Severity] = {rule.name: rule.severity for rule in (*suite.schema, *suite.rows)}
        self.left_out = {rule.name: reason for rule in suite.rows if (reason := _looks_around(suite, rule))}
        self._suite = replace(suite, rows=[rule for rule in suite.rows if rule.name not in self.left_out])
        self._dtypes = {name: dtype() if isinstance(dtype, type) else dtype for name, dtype in dtypes.items()}
        self._columns = list(dict.fromkeys([*(rule.column for rule in suite.schema), *self._dtypes]))
        self._compile()

    def _compile(self) -> None:
        """Sort the rules into compiled and not, and the columns by how their types are recognized."""
        self._compiled: list[tuple[str, Breaks]] = []
        self.uncompiled: dict[str, str] = {}
        for rule in self._suite.rows:
            try:
                self._compiled.append((rule.name, breaks(rule, self._dtypes, self._suite.computed)))
            except NotImplementedError as reason:
                self.uncompiled[rule.name] = str(reason)
        self._asked = [rule for rule in self._suite.rows if rule.name in self.uncompiled]
        typed = self._dtypes.items()
        self._plain = [(name, _KINDS[dtype]) for name, dtype in typed if dtype in _KINDS]
        self._integers = [(name, *_bounds(dtype)) for name, dtype in typed if dtype in _INTEGERS]
        self._moments = [name for name, dtype in typed if dtype == UTC_US]
        known = {*(name for name, _ in self._plain), *(name for name, *_ in self._integers), *self._moments}
        self._others = [name for name in self._columns if name not in known]

    def __call__(self, row: Row) -> list[str]:
        """The names of the rules that the record breaks."""
        typed = self._typed(row)
        if typed is None:
            return self._as_batch(row)
        try:
            broken = [name for name, breaks_it in self._compiled if breaks_it(typed)]
        except OverflowError:
            return self._as_batch(row)
        if not self._asked:
            return broken
        found = {*broken, *self._by_polars(self._asked, self._frame(typed))}
        return [rule.name for rule in self._suite.rows if rule.name in found]

    def _typed(self, row: Row) -> Row | None:
        """The record with its values in the columns' types; None where one is missing or of another type."""
        try:
            odd = [name for name, kind in self._plain if type(v := row[name]) is not kind and v is not None]
            odd += [
                name
                for name, low, high in self._integers
                if (v := row[name]) is not None and (type(v) is not int or not low <= v <= high)
            ]
            odd += [
                name
                for name in self._moments
                if (v := row[name]) is not None and (type(v) is not datetime or v.tzinfo not in _UTC)
            ]
            odd += [name for name in self._others if row[name] is not None and name in self._dtypes]
        except KeyError:
            return None
        if not odd:
            return row
        fitted = {name: _fitted(row[name], self._dtypes[name]) for name in odd}
        return None if any(value is _MISFIT for value in fitted.values()) else {**row, **fitted}

    def _as_batch(self, row: Row) -> list[str]:
        frame = self._frame(row)
        schema = [rule.name for rule in self._suite.schema if not rule.holds(frame.schema)]
        found = self._by_polars(self._suite.rows, frame)
        return [*schema, *(rule.name for rule in self._suite.rows if rule.name in found)]

    def _frame(self, row: Row) -> pl.DataFrame:
        """The record as a frame, twice: of one row alone Polars computes other last bits than of a column."""
        columns = [_series(name, value, self._dtypes.get(name)) for name, value in row.items()]
        return pl.DataFrame([pl.Series(_BATCH, [""] * 2), *columns])

    def _by_polars(self, rules: Sequence[RowRule], frame: pl.DataFrame) -> set[str]:
        """Which of the rules a record breaks, or cannot be judged by."""
        suite = replace(self._suite, schema=[], rows=rules)
        needed = dict.fromkeys(column for rule in rules for column in rule.columns)
        rows = looked_at(suite.computed, frame.lazy(), needed)
        try:
            found = rows.select(rule.failing().alias(rule.name) for rule in rules).collect().row(0, named=True)
        except pl.exceptions.PolarsError:
            # One of them raised: find out which, and judge the others.
            masks = mask(suite, prepare(suite, frame, _BATCH), _BATCH)
            found = {**masks.broken.row(0, named=True), **dict.fromkeys(masks.errors, True)}
        return {rule.name for rule in rules if found[rule.name]}


def compile_rules(suite: Suite, dtypes: Mapping[str, DataType] | None = None) -> RecordCheck:
    """The suite for single records; ``dtypes`` are the types of columns that the suite says nothing about.

    >>> from expectations.rules import Between
    >>> check = compile_rules(Suite("cars", [HasType("speed", pl.Float64)], [Between(name="r", column="speed", low=0)]))
    >>> check({"speed": 3.5}), check({"speed": -1}), check({"speed": "fast"})
    ([], ['r'], ['speed_type', 'r'])
    """
    return RecordCheck(suite, {r.column: r.dtype for r in suite.schema if isinstance(r, HasType)} | dict(dtypes or {}))


def check_rows(group: FeatureGroup, rows: pl.DataFrame, own: Suite | None = None) -> list[str]:
    """What is wrong with rows of a group by its ``own`` suite, else its definition; a ``features.push.RowCheck``.

    One row or many, each is judged by itself: rows of one entity and moment are refused before. Rules about
    rows of severity LOW hold nothing back, so they are not asked.
    """
    suite, check = _refusing(own or _implied(group))
    if rows.height == 1:
        failed = dict.fromkeys(check(rows.row(0, named=True)), 1)
    else:
        schema = [rule.name for rule in suite.schema if not rule.holds(rows.schema)]
        failed = dict.fromkeys(schema, rows.height) | _failed(suite, rows)
    rules = [rule for rule in (*suite.schema, *suite.rows) if rule.name in failed]
    return [f"{rule.complaint} in {failed[rule.name]:,} row(s)" for rule in rules]


def _failed(suite: Suite, rows: pl.DataFrame) -> dict[str, int]:
    """How many rows break each row rule that some break, all those of a rule that cannot be judged."""
    needed = dict.fromkeys(column for rule in suite.rows for column in rule.columns)
    seen = looked_at(suite.computed, rows.lazy(), needed)
    try:
        counts = seen.select(rule.failing().sum().alias(rule.name) for rule in suite.rows).collect().row(0, named=True)
    except pl.exceptions.PolarsError:
        # One of them raised: find out which, and judge the others.
        batch = rows.with_columns(pl.lit("").alias(_BATCH))
        masks = mask(suite, prepare(suite, batch, _BATCH), _BATCH)
        counts = {rule: failed for rule, (failed, _) in masks.totals().items()}
        counts |= dict.fromkeys(masks.errors, rows.height)
    return {name: count for name, count in counts.items() if count}


@cache
def _implied(group: FeatureGroup) -> Suite:
    return suite_of_group(group)


@cache
def _refusing(suite: Suite) -> tuple[Suite, RecordCheck]:
    """The rules by which rows are refused one by one."""
    rejecting = replace(suite, rows=[rule for rule in suite.rows if rule.rejects])
    check = compile_rules(rejecting)
    return replace(suite, rows=[rule for rule in rejecting.rows if rule.name not in check.left_out]), check


def _looks_around(suite: Suite, rule: RowRule) -> str | None:
    """Why a rule is not one about a single row; None where it is."""
    if isinstance(rule, GroupInRange):
        return "it looks at whole groups of rows"
    computed = suite.computed
    try:
        parts = [rule.failing(), *(computed[column] for column in rule.columns if column in computed)]
        return next((reason for part in parts if (reason := not_elementwise(part))), None)
    except DefinitionError as error:
        return str(error)


def _bounds(dtype: DataType) -> tuple[int, int]:
    return pl.select(low=dtype.min(), high=dtype.max()).row(0)  # type: ignore[union-attr]


def _fitted(value: Any, dtype: DataType) -> Any:
    """A value as a column of a type holds it, or _MISFIT."""
    if not _alike(value, dtype):
        return _MISFIT
    try:
        series = pl.Series([value], dtype=dtype, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        return _MISFIT
    return series.to_list()[0] if series.dtype == dtype else _MISFIT


def _alike(value: Any, dtype: DataType) -> bool:
    """Whether a value is of the kind of a type: Polars takes more, text for a list and True for a day."""
    match value:
        case bool():
            return dtype == BOOLEAN
        case int() | float():
            return dtype.is_numeric()
        case str():
            return dtype in (pl.String, pl.Categorical, pl.Enum)
        case bytes():
            return dtype == pl.Binary
        case list() | tuple():
            return dtype in (pl.List, pl.Array)
        case dict():
            return dtype == pl.Struct
    return not dtype.is_nested()


def _series(name: str, value: Any, dtype: DataType | None) -> pl.Series:
    """Two rows of a value: of the type if it fits, else of its own."""
    if dtype is not None and (value is None or (fitted := _fitted(value, dtype)) is not _MISFIT):
        return pl.Series(name, [fitted if value is not None else None] * 2, dtype)
    try:
        return pl.Series(name, [value] * 2)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        return pl.Series(name, [value] * 2, pl.Object)

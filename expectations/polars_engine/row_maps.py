"""What makes a row a good one by two or more of its columns: a Boolean expression for each metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import polars as pl

from expectations.polars_engine.domain import Column
from expectations.polars_engine.values import comparable, holds

Condition = Callable[..., pl.Expr]
"""Makes of the columns and the metric's arguments an expression that is true for a good row."""


def equal(columns: Sequence[Column]) -> pl.Expr:
    """Both values are there and the same."""
    one, other = columns
    return one.values == other.values if comparable(one.dtype, other.dtype) else pl.lit(value=False)


def greater(columns: Sequence[Column], or_equal: bool | None = None) -> pl.Expr:
    """The first value is above the second."""
    one, other = columns
    return one.values >= other.values if or_equal else one.values > other.values


def in_pairs(columns: Sequence[Column], value_pairs_set: Sequence[tuple[Any, Any]] | None = None) -> pl.Expr:
    """The two values are one of the pairs, in which None stands for a missing value."""
    if value_pairs_set is None:
        return pl.lit(value=True)
    pairs = [
        pl.all_horizontal(
            column.values.eq_missing(pl.lit(value, column.dtype)) for column, value in zip(columns, pair, strict=True)
        )
        for pair in value_pairs_set
        if all(value is None or holds(column, value) for column, value in zip(columns, pair, strict=True))
    ]
    return pl.any_horizontal(pl.lit(value=False), *pairs)


def compound_unique(columns: Sequence[Column]) -> pl.Expr:
    """No other row has the same values."""
    return pl.struct([*dict.fromkeys(column.name for column in columns)]).map_batches(_alone, return_dtype=pl.Boolean)


def sum_equals(columns: Sequence[Column], sum_total: float) -> pl.Expr:
    """The values are all there and add up to the total."""
    return pl.sum_horizontal([column.addend for column in columns], ignore_nulls=False) == sum_total


def all_equal(columns: Sequence[Column]) -> pl.Expr:
    """The values are all the same, or all missing."""
    first, *others = columns
    return pl.all_horizontal(pl.lit(value=True), *(_same(first, other) for other in others))


def all_different(columns: Sequence[Column]) -> pl.Expr:
    """No two of the values are the same; two missing ones are."""
    return ~pl.any_horizontal(_same(one, other) for one, other in combinations(columns, 2))


def _alone(rows: pl.Series) -> pl.Series:
    """Boolean, true for the rows that no other equals.

    Equal rows have equal hashes. Where these all differ, as they mostly do, no row needs comparing with another.
    """
    if rows.struct.unnest().hash_rows().n_unique() == len(rows):
        return pl.repeat(value=True, n=len(rows), dtype=pl.Boolean, eager=True)
    return rows.is_unique()


def _same(one: Column, other: Column) -> pl.Expr:
    if comparable(one.dtype, other.dtype):
        return one.values.eq_missing(other.values)
    return one.values.is_null() & other.values.is_null()


CONDITIONS: Mapping[str, Condition] = {
    "column_pair_values.equal": equal,
    "column_pair_values.a_greater_than_b": greater,
    "column_pair_values.in_set": in_pairs,
    "compound_columns.unique": compound_unique,
    "multicolumn_sum.equal": sum_equals,
    "multicolumn_values.equal": all_equal,
    "select_column_values.unique.within_record": all_different,
}
"""By GX's name of the metric."""

"""What makes one value of a column a good one: a Boolean expression for each metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from expectations.polars_engine.domain import Column
from expectations.polars_engine.values import bound, fitting
from features.errors import DefinitionError

Condition = Callable[..., pl.Expr]
"""Makes of a column and the metric's arguments an expression that is true for a good value."""


def not_null(column: Column) -> pl.Expr:
    """The value is there."""
    return column.values.is_not_null()


def null(column: Column) -> pl.Expr:
    """The value is missing."""
    return column.values.is_null()


def between(
    column: Column,
    min_value: Any = None,
    max_value: Any = None,
    strict_min: bool | None = None,
    strict_max: bool | None = None,
) -> pl.Expr:
    """The value lies within the bounds."""
    low, high = bound(min_value, column), bound(max_value, column)
    values = column.values.cast(pl.Int8) if column.dtype == pl.Boolean else column.values
    return within(values, low, high, strict_min=strict_min, strict_max=strict_max)


def within(values: pl.Expr, low: Any, high: Any, *, strict_min: bool | None, strict_max: bool | None) -> pl.Expr:
    """Boolean, true for the values within the bounds; a bound is None where there is none."""
    if low is None and high is None:
        raise DefinitionError("min_value and max_value cannot both be None; give one")
    if low is not None and high is not None and low > high:
        raise DefinitionError(f"min_value {low!r} is above max_value {high!r}; swap them")
    above = [] if low is None else [values > low if strict_min else values >= low]
    below = [] if high is None else [values < high if strict_max else values <= high]
    return pl.all_horizontal(*above, *below)


def in_set(column: Column, value_set: Sequence[Any] | None = None) -> pl.Expr:
    """The value is one of the set; without a set every value is good."""
    return pl.lit(value=True) if value_set is None else column.values.is_in(fitting(value_set, column))


def not_in_set(column: Column, value_set: Sequence[Any] | None = None) -> pl.Expr:
    """The value is none of the set, in which text may stand for a moment."""
    if value_set is None:
        return pl.lit(value=True)
    return ~column.values.is_in(fitting([bound(value, column) for value in value_set], column))


def unique(column: Column) -> pl.Expr:
    """No other row has the value."""
    return ~column.values.is_duplicated()


def increasing(column: Column, strictly: bool | None = None) -> pl.Expr:
    """The value is not below the last one before it that is there."""
    before = _before(column)
    return (column.values > before if strictly else column.values >= before) | before.is_null()


def decreasing(column: Column, strictly: bool | None = None) -> pl.Expr:
    """The value is not above the last one before it that is there."""
    before = _before(column)
    return (column.values < before if strictly else column.values <= before) | before.is_null()


def match_regex(column: Column, regex: str) -> pl.Expr:
    """The pattern is found in the text."""
    return column.text.str.contains(regex)


def not_match_regex(column: Column, regex: str) -> pl.Expr:
    """The pattern is not found in the text."""
    return ~match_regex(column, regex)


def match_regex_list(column: Column, regex_list: Sequence[str], match_on: str = "any") -> pl.Expr:
    """Any, or all, of the patterns are found in the text."""
    if match_on not in ("any", "all"):
        raise DefinitionError(f"match_on is {match_on!r}; give 'any' or 'all'")
    found = [match_regex(column, regex) for regex in regex_list]
    return pl.any_horizontal(found) if match_on == "any" else pl.all_horizontal(found)


def not_match_regex_list(column: Column, regex_list: Sequence[str]) -> pl.Expr:
    """None of the patterns is found in the text."""
    return ~match_regex_list(column, regex_list)


def length_equals(column: Column, value: int) -> pl.Expr:
    """The text has so many characters."""
    return column.text.str.len_chars() == value


def length_between(
    column: Column,
    min_value: int | None = None,
    max_value: int | None = None,
    strict_min: bool | None = None,
    strict_max: bool | None = None,
) -> pl.Expr:
    """The number of the text's characters lies within the bounds."""
    return within(column.text.str.len_chars(), min_value, max_value, strict_min=strict_min, strict_max=strict_max)


def z_score(column: Column, threshold: float, double_sided: bool) -> pl.Expr:
    """The value is less than so many standard deviations from the mean; where there is none, all are good."""
    scores = (column.number - column.number.mean()) / column.number.std()
    beyond = scores.abs() >= abs(threshold) if double_sided else scores >= threshold
    return ~beyond.fill_null(value=False) | scores.is_nan()


def not_outlier(column: Column, method: str = "iqr", multiplier: float = 1.5) -> pl.Expr:
    """The value lies within Tukey's fences, or near the mean; where there is no such measure, all are good."""
    values = column.number.cast(pl.Float64)
    if method == "iqr":
        first, third = (values.quantile(share, interpolation="linear") for share in (0.25, 0.75))
        reach = multiplier * (third - first)
        good, measured = (values >= first - reach) & (values <= third + reach), first.is_finite() & third.is_finite()
    elif method == "std":
        centre, spread = values.mean(), values.std()
        reach = multiplier * spread
        good = pl.when(reach <= 0).then(values == centre).otherwise((values - centre).abs() < reach)
        measured = centre.is_finite() & spread.is_finite()
    else:
        raise DefinitionError(f"method is {method!r}; give 'iqr' or 'std'")
    return good | ~measured.fill_null(value=False)


def _before(column: Column) -> pl.Expr:
    in_order = column.values if column.dtype in (pl.Date, pl.Datetime, pl.Duration) else column.number
    return in_order.forward_fill().shift(1)


CONDITIONS: Mapping[str, Condition] = {
    "column_values.nonnull": not_null,
    "column_values.null": null,
    "column_values.between": between,
    "column_values.in_set": in_set,
    "column_values.not_in_set": not_in_set,
    "column_values.unique": unique,
    "column_values.increasing": increasing,
    "column_values.decreasing": decreasing,
    "column_values.match_regex": match_regex,
    "column_values.not_match_regex": not_match_regex,
    "column_values.match_regex_list": match_regex_list,
    "column_values.not_match_regex_list": not_match_regex_list,
    "column_values.value_length.equals": length_equals,
    "column_values.value_length.between": length_between,
    "column_values.z_score.under_threshold": z_score,
    "column_values.not_outliers": not_outlier,
}
"""By GX's name of the metric. All but the first two look only at values that are there."""

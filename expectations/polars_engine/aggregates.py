"""What GX asks about a column, or the table, as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import polars as pl
from great_expectations.constants import MAX_DISTINCT_VALUES

from expectations.polars_engine.batch import Query
from expectations.polars_engine.domain import Answer, Column, Domain
from expectations.polars_engine.values import bound, fitting
from features.errors import DefinitionError

Interpolation = Literal["linear", "lower", "higher", "midpoint", "nearest"]


def _about_column(statistic: Callable[[Column], pl.Expr]) -> Answer:
    def answer(domain: Domain, values: Mapping[str, Any]) -> Query:
        del values
        return domain.ask(statistic(domain.column))

    return answer


def _moment(column: Column) -> pl.Expr:
    """The values to average, which may be moments."""
    return column.values if column.dtype.is_temporal() else column.number


def non_null_proportion(domain: Domain, values: Mapping[str, Any]) -> Query:
    """The share of the rows that have a value; 0 of no rows."""
    del values
    column = domain.column.values
    return domain.ask(pl.struct(pl.len().alias("all"), column.count().alias("some")), _share)


def unique_proportion(domain: Domain, values: Mapping[str, Any]) -> Query:
    """Distinct values as a share of the values that are there; 0 of none."""
    del values
    column = domain.column.values
    return domain.ask(pl.struct(column.count().alias("all"), column.drop_nulls().n_unique().alias("some")), _share)


def most_common(domain: Domain, values: Mapping[str, Any]) -> Query:
    """The values that no other exceeds in number, in order."""
    del values
    return domain.ask(domain.column.values.drop_nulls().mode().sort().implode(), list)


def distinct(domain: Domain, values: Mapping[str, Any]) -> Query:
    """The values that there are."""
    del values
    return domain.ask(domain.column.values.unique().implode(), set)


def others(domain: Domain, values: Mapping[str, Any]) -> Query:
    """Some of the values that are not in the set, in order."""
    limit = values.get("limit") or MAX_DISTINCT_VALUES
    return domain.ask(_others(domain.column, values["value_set"]).sort().head(limit).implode(), list)


def others_count(domain: Domain, values: Mapping[str, Any]) -> Query:
    """How many values are not in the set."""
    return domain.ask(_others(domain.column, values["value_set"]).len())


def absent(domain: Domain, values: Mapping[str, Any]) -> Query:
    """Some of the set's values that the column does not have."""
    limit = values.get("limit") or MAX_DISTINCT_VALUES
    wanted, present = _wanted(domain.column, values["value_set"])
    return domain.ask(present, lambda found: list(wanted - set(found))[:limit])


def absent_count(domain: Domain, values: Mapping[str, Any]) -> Query:
    """How many of the set's values the column does not have."""
    wanted, present = _wanted(domain.column, values["value_set"])
    return domain.ask(present, lambda found: len(wanted - set(found)))


def quantiles(domain: Domain, values: Mapping[str, Any]) -> Query:
    """The quantiles, by default the value nearest to each (the even rank where two are)."""
    how: Interpolation = values.get("allow_relative_error") or "nearest"
    if how not in get_args(Interpolation):
        raise DefinitionError(f"allow_relative_error is {how!r}; give one of {get_args(Interpolation)}")
    column = domain.column.number
    shares: Sequence[float] = values["quantiles"]
    if how != "nearest":
        parts = [column.quantile(share, interpolation=how) for share in shares]
        return domain.ask(pl.concat_list(parts), list)
    present = column.drop_nulls().sort()
    # Polars rounds a rank of a half away from zero, NumPy and so pandas to the even one.
    last = pl.max_horizontal(present.len().cast(pl.Int64) - 1, 0)
    ranks = pl.concat_list([(last * share).round(mode="half_to_even").cast(pl.Int64) for share in shares]).explode()
    return domain.ask(present.gather(ranks, null_on_oob=True).implode(), list)


def column_types(domain: Domain, values: Mapping[str, Any]) -> list[dict[str, str]]:
    """The names of the columns and of their Polars types."""
    del values
    return [{"name": name, "type": str(dtype)} for name, dtype in domain.batch.schema.items()]


def columns(domain: Domain, values: Mapping[str, Any]) -> list[str]:
    """The names of the columns."""
    del values
    return domain.batch.schema.names()


def column_count(domain: Domain, values: Mapping[str, Any]) -> int:
    """How many columns there are."""
    return len(columns(domain, values))


def row_count(domain: Domain, values: Mapping[str, Any]) -> Query:
    """How many rows there are."""
    del values
    return domain.ask(pl.len())


def _share(counts: Mapping[str, int]) -> float:
    return counts["some"] / counts["all"] if counts["all"] else 0


def _others(column: Column, value_set: Sequence[Any] | None) -> pl.Expr:
    among = column.values.is_in(fitting((bound(value, column) for value in value_set or ()), column))
    return column.values.filter(column.values.is_not_null() & ~among).unique()


def _wanted(column: Column, value_set: Sequence[Any] | None) -> tuple[set[Any], pl.Expr]:
    wanted = {bound(value, column) for value in value_set or ()}
    return wanted, column.values.filter(column.values.is_in(fitting(wanted, column))).unique().implode()


ANSWERS: Mapping[str, Answer] = {
    "table.column_types": column_types,
    "table.columns": columns,
    "table.column_count": column_count,
    "table.row_count": row_count,
    "column.distinct_values": distinct,
    "column.distinct_values.count": _about_column(lambda column: column.values.drop_nulls().n_unique()),
    "column.distinct_values.not_in_set": others,
    "column.distinct_values.not_in_set.count": others_count,
    "column.distinct_values.missing_from_column": absent,
    "column.distinct_values.missing_from_column.count": absent_count,
    "column.max": _about_column(lambda column: column.values.max()),
    "column.min": _about_column(lambda column: column.values.min()),
    "column.mean": _about_column(lambda column: _moment(column).mean()),
    "column.median": _about_column(lambda column: _moment(column).median()),
    "column.standard_deviation": _about_column(lambda column: column.number.std()),
    "column.sum": _about_column(lambda column: column.addend.sum()),
    "column.most_common_value": most_common,
    "column.non_null_count": _about_column(lambda column: column.values.count()),
    "column.non_null_proportion": non_null_proportion,
    "column.unique_proportion": unique_proportion,
    "column.quantile_values": quantiles,
}
"""By GX's name of the metric."""

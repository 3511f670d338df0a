"""What GX asks about the rows that break a condition: how many, which values, which rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import polars as pl
from great_expectations.constants import MAX_RESULT_RECORDS
from great_expectations.expectations.metrics.util import get_dbms_compatible_column_names

from expectations.polars_engine.batch import ROW, Mark, Query
from expectations.polars_engine.domain import Answer, Domain

Broken = Callable[[Domain, Mapping[str, Any]], Mark]
"""Marks, of a domain and by the metric's arguments, the bad rows; without nulls."""


def answers(metric: str, broken: Broken, *, several: bool) -> Iterator[tuple[str, Answer]]:
    """Every metric that GX derives from a condition on one or ``several`` columns, by its name."""
    yield f"{metric}.unexpected_count", partial(_count, broken)
    yield f"{metric}.unexpected_values", partial(_values, broken)
    yield f"{metric}.unexpected_rows", partial(_rows, broken)
    yield f"{metric}.unexpected_index_list", partial(_index, broken)
    yield f"{metric}.unexpected_index_query", partial(_index_query, broken)
    if several:
        yield f"{metric}.filtered_row_count", _considered


def _count(broken: Broken, domain: Domain, values: Mapping[str, Any]) -> Query:
    bad = broken(domain, values)
    return domain.ask(bad.column.sum(), mark=bad)


def _considered(domain: Domain, values: Mapping[str, Any]) -> Query:
    del values
    return domain.ask(domain.considered.sum() if domain.ignores else pl.len())


def _values(broken: Broken, domain: Domain, values: Mapping[str, Any]) -> Any:
    pair = "column_A" in domain.kwargs
    shown = partial(_shown, pair=pair)
    return _first(domain, broken(domain, values), domain.names, _examples(values), shown)


def _rows(broken: Broken, domain: Domain, values: Mapping[str, Any]) -> Any:
    return _first(domain, broken(domain, values), domain.batch.schema.names(), _examples(values), dict)


def _index(broken: Broken, domain: Domain, values: Mapping[str, Any]) -> Any:
    """The places of the bad rows in the batch, or what the user's key columns hold there."""
    wanted, bad = values["result_format"], broken(domain, values)
    limit = None if wanted["result_format"] == "COMPLETE" else wanted["partial_unexpected_count"]
    if not (keys := wanted.get("unexpected_index_column_names")):
        return _first(domain, bad, [ROW], limit, lambda row: row[ROW])
    keys = [str(key) for key in get_dbms_compatible_column_names(list(keys), domain.batch.schema.names())]
    if not wanted.get("exclude_unexpected_values"):
        return _first(domain, bad, [*dict.fromkeys([*domain.names, *keys])], limit, dict)
    return _first(domain, bad, keys, limit, dict, lambda rows: _by_key(keys, rows))


def _index_query(broken: Broken, domain: Domain, values: Mapping[str, Any]) -> Any:
    """How to get the bad rows from the frame, where GX would show it."""
    wanted = values["result_format"]
    asked = wanted.get("return_unexpected_index_query")
    if asked is False or (asked is None and wanted["result_format"] != "COMPLETE"):
        return None
    return _first(domain, broken(domain, values), [ROW], None, lambda row: row[ROW], lambda places: f"df[{places}]")


def _examples(values: Mapping[str, Any]) -> int:
    """How many examples are asked for."""
    wanted = values["result_format"]
    complete = wanted["result_format"] == "COMPLETE"
    return MAX_RESULT_RECORDS if complete else min(wanted["partial_unexpected_count"], MAX_RESULT_RECORDS)


def _first(
    domain: Domain,
    bad: Mark,
    columns: list[str],
    limit: int | None,
    shown: Callable[[dict[str, Any]], Any],
    read: Callable[[list[Any]], Any] = list,
) -> Any:
    """The first bad rows, or all, in these columns."""
    if limit == 0:
        return read([])
    places = bad.column.arg_true()
    if limit is not None:
        places = places.head(limit)
    found = pl.struct([*dict.fromkeys(columns)]).gather(places).implode()
    return domain.ask(found, lambda rows: read([shown(row) for row in rows]), bad)


def _shown(row: dict[str, Any], *, pair: bool) -> Any:
    """A value, a pair of values, or the record of them."""
    if len(row) == 1:
        return next(iter(row.values()))
    return tuple(row.values()) if pair else row


def _by_key(keys: list[str], rows: list[dict[str, Any]]) -> list[dict[str, list[Any]]]:
    return [{key: [row[key] for row in rows] for key in keys}] if rows else []

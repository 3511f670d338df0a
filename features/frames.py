"""Frames as users hand them over, as Polars frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from features.errors import InvalidInput


class _ArrowStream:
    """Any table by its Arrow stream alone: what Polars does for pandas drops time zones with a warning."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def as_frame(data: Any, what: str = "entity rows") -> pl.DataFrame:
    """Rows as a Polars frame: from Polars (lazy or not), pandas, Arrow, a dict of columns or a list of dicts.

    Raises InvalidInput, naming ``what`` they are, for anything else.

    >>> as_frame([{"card_id": 1}, {"card_id": 2}])["card_id"].to_list()
    [1, 2]
    """
    remedy = "give a Polars, pandas or Arrow table, or dicts"
    if data is None or isinstance(data, str | bytes):
        raise InvalidInput(f"{what} are a {type(data).__name__}: {remedy}")
    try:
        if isinstance(data, pl.DataFrame):
            return data
        if isinstance(data, pl.LazyFrame):
            return data.collect()
        if hasattr(data, "__arrow_c_stream__"):
            return pl.DataFrame(_ArrowStream(data))
        if isinstance(data, Sequence):
            return pl.from_dicts([dict(row) for row in data], infer_schema_length=None) if data else pl.DataFrame()
        return pl.DataFrame(data)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise InvalidInput(f"{what} are a {type(data).__name__}: {remedy} ({error})") from error

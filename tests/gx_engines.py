"""Great Expectations' pandas engine and ours side by side: frames made to trip them, and what each says of them."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pandas as pd
import polars as pl

from expectations.engine import gx_context

T0 = datetime(2026, 3, 28, 12, tzinfo=UTC)
DAYS = [T0 + timedelta(days=n) for n in range(6)]
SCHEMA = {
    "i": pl.Int64, "j": pl.Int64, "f": pl.Float64, "g": pl.Float64, "s": pl.String, "r": pl.String,
    "b": pl.Boolean, "t": pl.Datetime("us", "UTC"), "n": pl.Datetime("us"), "key": pl.Int64,
}  # fmt: skip
NAN, INF = float("nan"), float("inf")


def frame(**columns: Any) -> pl.DataFrame:
    """A frame of the columns, those not given as in the plain one."""
    plain = {
        "i": [3, 1, 4, 1, 5, 9], "j": [3, 2, 4, 0, 5, 1], "f": [0.5, 2.0, 2.0, -1.5, 7.25, 3.0],
        "g": [0.5, 1.0, 3.0, -1.5, 7.0, 2.5], "s": ["a", "bb", "a", "ccc", "d", "bb"],
        "r": ["a", "bb", "x", "y", "d", "z"], "b": [True, False, True, True, False, True], "t": DAYS,
        "n": [day.replace(tzinfo=None) for day in DAYS],
    }  # fmt: skip
    rows = len(next(iter(columns.values()))) if columns else 6
    values = {**{name: column[:rows] for name, column in plain.items()}, "key": list(range(100, 100 + rows)), **columns}
    return pl.DataFrame([pl.Series(name, values[name], dtype=dtype, strict=False) for name, dtype in SCHEMA.items()])


FRAMES = {
    "plain": frame(),
    "nan": frame(f=[NAN, 1.0, NAN, 2.0, None, 3.0], g=[NAN, NAN, 1.0, 2.0, None, None]),
    "null": frame(
        i=[1, None, 1, None, 3, 2], j=[1, None, None, 2, 3, 2], s=["a", None, "a", None, "", "b"],
        r=[None, None, "a", "x", "", "b"], b=[True, None, None, False, True, None], f=[None, 1.0, 1.0, 2.0, None, 0.0],
        t=[DAYS[0], None, DAYS[0], None, DAYS[3], DAYS[2]],
        n=[None, DAYS[0].replace(tzinfo=None), None, None, None, None],
    ),
    "inf": frame(f=[INF, 1.0, INF, 2.0, -INF, 3.0], g=[INF, -INF, 1.0, 2.0, INF, 3.0]),
    "empty": frame().clear(),
    "one_row": frame().head(1),
    "all_null": frame(**{name: [None] * 4 for name in SCHEMA if name != "key"}),
    "constant": frame(**{name: [frame()[name][1]] * 5 for name in SCHEMA if name != "key"}),
    "unicode": frame(
        s=["日本", "é", "e\u0301", "😀", "ß\n", "a b"], r=["日本", "é", "é", "😀x", "SS", "\u00a0"]
    ),
    "big_ints": frame(
        i=[2**53, 2**53 + 1, -(2**62), 2**62, 0, 2**53 + 1], j=[2**53 + 1, 2**53 + 1, 1, 2**62, -1, 5],
    ),
    "untyped": frame().head(4).with_columns(pl.lit(None, pl.Null).alias(name) for name in "ifsb"),
    "zones": frame().with_columns(pl.col("t").dt.convert_time_zone("Europe/Berlin")),
}  # fmt: skip

Batches = Callable[[str, str], Any]
"""The batch of a frame, by the engine's and the frame's name."""


@contextmanager
def both_engines() -> Iterator[Batches]:
    """Every frame as a batch of either engine; pandas gets the types that it computes fast with."""
    context, sources = gx_context(), dict[str, Any]()
    for engine in ("pandas", "polars"):
        add = context.data_sources.add_pandas if engine == "pandas" else context.data_sources.add_polars
        sources[engine] = add(f"{engine}-{uuid.uuid4().hex}")

    @cache
    def batch(engine: str, name: str) -> Any:
        rows = FRAMES[name].to_pandas() if engine == "pandas" else FRAMES[name].lazy()
        asset = sources[engine].add_dataframe_asset(name)
        return asset.add_batch_definition_whole_dataframe(name).get_batch({"dataframe": rows})

    try:
        yield batch
    finally:
        for source in sources.values():
            context.data_sources.delete(source.name)


def raised(result: Any) -> list[str]:
    """The messages of what was raised instead of a verdict."""
    info = result.exception_info or {}
    errors = [e for e in (info, *info.values()) if isinstance(e, dict) and e.get("raised_exception")]
    return [str(error["exception_message"]) for error in errors]


def said(batch: Any, expectation: Any, result_format: Any = "COMPLETE") -> dict[str, Any]:
    """An engine's verdict and all it says with it, or that it raised.

    Left out are the query for the bad rows, which is written in the engine's own language, and how often
    each bad value occurs where one is missing: pandas' NaN is equal to no other, and GX cannot sort None.
    """
    return told_by(batch.validate(expectation, result_format=result_format))


def told_by(result: Any) -> dict[str, Any]:
    """The same of a result."""
    if raised(result):
        return {"raised": True}
    told = {key: plain(value) for key, value in result.result.items() if key != "unexpected_index_query"}
    if any("None" in str(value) for value in told.get("unexpected_list") or told.get("partial_unexpected_list") or ()):
        told.pop("partial_unexpected_counts", None)
    if "partial_missing_list" in told:  # of a set, in any order and as the user wrote them or not
        told["partial_missing_list"] = len(told["partial_missing_list"])
    return {"raised": False, "success": bool(result.success), **told}


def plain(value: Any) -> Any:
    """A value as both engines can say it: NaN and NaT are missing, numbers are Python's, to nine digits."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("records")
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime()
    if hasattr(value, "item"):
        value = value.item()
    if value is None or value is pd.NaT:
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    return float(f"{value:.9e}") if isinstance(value, float) and not value.is_integer() else value

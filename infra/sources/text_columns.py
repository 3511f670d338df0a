"""Columns of files brought to their declared types, naming the first value that does not fit."""

from __future__ import annotations

import polars as pl

from features.entity import DataType
from features.errors import UnreadableFile
from features.source import RECORD_OFFSET

_DATE = "%Y-%m-%d"
_TIMES = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f", _DATE, "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M%#z")
_TRUTH = {"true": True, "t": True, "yes": True, "1": True, "false": False, "f": False, "no": False, "0": False}


def typed(rows: pl.DataFrame, column: str, dtype: DataType) -> pl.Series:
    """A column with its text parsed as ``dtype`` and its NaN as null; what is no text stays as it is.

    ``rows`` carry ``_record_offset``. Raises UnreadableFile naming the first value that does not fit.

    >>> rows = pl.DataFrame({"ok": ["1", "", "x"], RECORD_OFFSET: [0, 1, 2]})
    >>> typed(rows, "ok", pl.Boolean)
    Traceback (most recent call last):
    features.errors.UnreadableFile: column 'ok', row 2: 'x' is not Boolean
    """
    given = rows[column].fill_nan(None) if rows.schema[column].is_float() else rows[column]
    if given.dtype == pl.String and dtype != pl.String:
        given = given.str.strip_chars().replace("", None)
        result = _parsed(given, dtype)
    elif given.dtype.is_float() and dtype.is_integer():
        result = _whole(given, dtype)
    else:
        return given
    wrong = result.is_null() & given.is_not_null()
    if wrong.any():
        value, row = given.filter(wrong)[0], rows[RECORD_OFFSET].filter(wrong)[0]
        raise UnreadableFile(f"column {column!r}, row {row}: {value!r} is not {dtype}")
    return result.fill_nan(None) if result.dtype.is_float() else result


def _parsed(text: pl.Series, dtype: DataType) -> pl.Series:
    """Text as ``dtype``, null where it is none."""
    if dtype == pl.Boolean:
        return text.str.to_lowercase().replace_strict(_TRUTH, default=None, return_dtype=pl.Boolean)
    if dtype == pl.Date:
        return text.str.to_date(_DATE, strict=False)
    if isinstance(dtype, pl.Datetime):
        return _times(text)
    if dtype.is_integer():
        # Tools that know no missing integer write 5 as 5.0.
        return _filled(text.cast(dtype, strict=False), _whole(text.cast(pl.Float64, strict=False), dtype))
    return text.cast(dtype, strict=False)


def _whole(numbers: pl.Series, dtype: DataType) -> pl.Series:
    """Floats as integers, null where they are none."""
    return pl.select(pl.when(numbers == numbers.floor()).then(numbers)).to_series().cast(dtype, strict=False)


def _times(text: pl.Series) -> pl.Series:
    """ISO 8601 in its common spellings as UTC microseconds, null where it is none of them."""
    text = text.str.replace(r"^(\d{4}-\d\d-\d\d)[ t]", "${1}T").str.replace(r"[zZ]$", "+00:00")
    times = _time(text, _TIMES[0])
    for form in _TIMES[1:]:
        if times.null_count() > text.null_count():
            times = _filled(times, _time(text, form))
    return times


def _time(text: pl.Series, form: str) -> pl.Series:
    if form.endswith("z"):
        return text.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC")
    if form == _DATE:
        naive = text.str.to_date(form, strict=False).cast(pl.Datetime("us"))
    else:
        naive = text.str.to_datetime(form, strict=False, time_unit="us")
    return naive.dt.replace_time_zone("UTC")


def _filled(values: pl.Series, others: pl.Series) -> pl.Series:
    """The values, where null the others."""
    return values.zip_with(values.is_not_null(), others)

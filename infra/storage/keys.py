"""Entity keys as bytes, the same in every online store.

A key is the msgpack array of an entity's key values, typed: 1, 1.0, True, "1", a date and a datetime
make different keys, and no two tuples of values make the same one, whatever bytes the values hold.
"""

from __future__ import annotations

import hashlib
import math
import numbers
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Context, Decimal
from typing import Any

import msgspec
import numpy as np
import polars as pl

from features.errors import InvalidInput
from features.stores import Key
from features.times import as_utc, micros, to_micros
from infra.storage.column_types import check_values, stored_type

KEY_LIMIT = 480
"""Bytes a key may have (LMDB's limit is 511, prefix included); longer ones are hashed."""

_encode = msgspec.msgpack.Encoder().encode
_HASHED = b"\xc1"  # the one byte with which no msgpack value starts
_PLAIN = frozenset({int, str, bytes, bool})  # types that msgpack keeps apart and knows one form of
_EXACT = Context(prec=1000)


def encode_key(values: Key) -> bytes | None:
    """The bytes of a key; None where a part of it is null, for that is no entity.

    Values are those of Python: pass the types of the key columns, since 1 and 1.0 are different keys.
    A naive datetime counts as UTC, and equal moments in different zones are the same key. Raises
    InvalidInput for a type that no key column has.

    >>> encode_key(("L1", 7)) == encode_key(("L1", "7"))
    False
    """
    if None in values:
        return None
    return _key([v if type(v) in _PLAIN else _typed(v) for v in values])


def encode_each(keys: Sequence[Key]) -> list[bytes | None]:
    """The bytes of several keys, as ``encode_key`` makes them; of plain values in a third of the time.

    >>> encode_each([("L1", 7), ("L1", None)]) == [encode_key(("L1", 7)), None]
    True
    """
    if {type(value) for key in keys for value in key} <= _PLAIN:
        try:
            encoded = [_encode(key) for key in keys]
        except (OverflowError, UnicodeEncodeError):
            return [encode_key(key) for key in keys]
        if max(map(len, encoded), default=0) <= KEY_LIMIT:
            return list(encoded)
    return [encode_key(key) for key in keys]


def _key(values: Sequence[Any]) -> bytes:
    try:
        key = _encode(values)
    except OverflowError:  # msgpack's integers end at 64 bits
        key = _encode([_ext(6, str(v)) if isinstance(v, int) and not -(2**63) <= v < 2**64 else v for v in values])
    except UnicodeEncodeError as error:
        raise InvalidInput(f"key {values!r} is not valid text: pass strings that UTF-8 can hold") from error
    return key if len(key) <= KEY_LIMIT else _HASHED + hashlib.sha256(key).digest()


def _typed(value: Any) -> Any:
    """A key value as what msgpack keeps apart from every other type."""
    match value:
        case datetime() | date() | time() | timedelta() | Decimal():
            return _extension(value)
        case bool() | np.bool_():
            return bool(value)
        case numbers.Integral():
            return int(value)
        case numbers.Real():
            # As in every join, -0.0 equals 0.0, and there is one NaN.
            return math.nan if math.isnan(value) else float(value) + 0.0
        case str():
            return str(value)
        case bytes() | bytearray() | memoryview():
            return bytes(value)
    kind = type(value).__name__
    raise InvalidInput(f"key value {value!r} is a {kind}: pass a number, text, bytes, bool, date or time")


def _extension(value: datetime | date | time | timedelta | Decimal) -> msgspec.msgpack.Ext:
    match value:
        case datetime():
            return _ext(1, str(to_micros(as_utc(value))))
        case date():
            return _ext(2, str(value.toordinal()))
        case time():
            return _ext(3, value.isoformat())
        case timedelta():
            return _ext(4, str(micros(value)))
        case Decimal():
            return _ext(5, str(value.normalize(_EXACT)) if value else "0")


def _ext(code: int, text: str) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, text.encode())


def check_key_columns(frame: pl.DataFrame) -> None:
    """Raise InvalidInput where a column of this frame cannot be part of a key."""
    for series in frame.iter_columns():
        if series.dtype.is_nested() or series.dtype == pl.Null:
            raise InvalidInput(f"key column {series.name!r} is {series.dtype}: a key is made of scalars")
        stored_type(series.name, series.dtype)
        check_values(series.name, series)


def encode_keys(frame: pl.DataFrame) -> list[bytes]:
    """The keys of a frame of key columns without nulls, row by row as ``encode_key`` makes them."""
    columns: list[Sequence[Any]] = []
    for series in frame.iter_columns():
        values = series.to_list()
        plain = series.dtype.is_integer() or series.dtype in (pl.String, pl.Binary, pl.Boolean)
        columns.append(values if plain else [v if type(v) in _PLAIN else _typed(v) for v in values])
    return [_key(values) for values in zip(*columns, strict=True)]

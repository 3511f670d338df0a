"""Rows of the online stores as bytes, the same in every store.

A row is one msgpack array [schema, epoch, event_timestamp, created_timestamp, deleted, v1 ... vn], the
times in microseconds since the epoch, UTC. Which columns v1 ... vn are is kept once per table, under the
number ``schema``: rows stay small, and rows written before a group gained columns stay readable.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec
import polars as pl

from features.errors import InvalidInput, StorageError
from features.feature_group import EVENT_TIMESTAMP, RESERVED
from features.stores import OnlineColumns, OnlineRow
from features.times import UTC_US, from_micros, utc_column
from infra.storage.column_types import Restore, Spec, check_values, describe, restorer, stored_type
from infra.storage.keys import check_key_columns, encode_keys
from infra.storage.msgpack_block import FIXED_WIDTH, array_header, encode_block

Column = tuple[str, Spec]
"""A stored column: its name and what its type was in the frame."""

Order = tuple[int, int, int]
"""(epoch, event_timestamp, created_timestamp) in whole microseconds: of two rows the greater wins."""

_moment = lru_cache(4096)(from_micros)  # rows share times, and to make a datetime costs twice the decoding
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_HEAD = 5  # what stands in a row before its values
_UNREADABLE = (msgspec.DecodeError, ValueError, TypeError, IndexError, ArithmeticError)
_REBUILD = "an online row cannot be read: rebuild the online store by a full sync"
_ORDER = ("_epoch", EVENT_TIMESTAMP, "created_timestamp")
_BOOKKEEPING = (*_ORDER, "_deleted")
_KEY = "_encoded_key"
_FEW = 50  # rows up to which a loop is quicker than setting up NumPy records
_BATCH = 50_000  # rows encoded at a time: enough for NumPy's speed, few megabytes


class TableCodec:
    """The row formats of one table, oldest first; reads rows of all of them.

    A row that is read has the columns of every format; those that came after it was written are None.
    """

    def __init__(self, schemas: Sequence[Sequence[Column]] = ()) -> None:
        self._schemas = [list(schema) for schema in schemas]
        columns = dict.fromkeys(name for schema in self._schemas for name, _ in schema)
        self._layouts = [_Layout.of(schema, columns) for schema in self._schemas]

    @classmethod
    def unpack(cls, raw: bytes) -> TableCodec:
        """The codec that ``pack`` wrote."""
        return cls([[(name, spec) for name, spec in schema] for schema in _decode(raw)])

    def pack(self) -> bytes:
        """This codec as bytes, for the table's metadata."""
        return _encode(self._schemas)

    def including(self, columns: Sequence[Column]) -> tuple[TableCodec, int]:
        """The codec that also knows rows of these columns, and their schema number in it."""
        wanted = list(columns)
        if wanted in self._schemas:
            return self, self._schemas.index(wanted)
        return TableCodec([*self._schemas, wanted]), len(self._schemas)

    def decode(self, value: bytes) -> OnlineRow:
        """The row in these bytes; raises StorageError where they are none of this table's."""
        try:
            row = _decode(value)
            schema, epoch, event, created, deleted = row[:_HEAD]
            named = self._layouts[schema].values(row[_HEAD:])
        except _UNREADABLE as error:
            raise StorageError(_REBUILD) from error
        return OnlineRow(_moment(event), epoch, _moment(created), deleted, named)

    def decode_columns(self, stored: Sequence[bytes | None], features: Sequence[str]) -> OnlineColumns:
        """Some features of the rows in these bytes; raises StorageError where some are none of this table's."""
        try:
            rows: list[Any] = [None if value is None else _decode(value) for value in stored]
            if all(rows) and len({row[0] for row in rows}) == 1:
                # Turned as a whole, a hundred rows take a quarter of the time.
                schemas, _, events, _, deleted, *columns = zip(*rows, strict=True)
                if True not in deleted:
                    layout = self._layouts[schemas[0]]
                    return OnlineColumns([*map(_moment, events)], {f: layout.column(f, columns) for f in features})
            living = [None if row is None or row[4] else row for row in rows]
            return OnlineColumns(
                [None if row is None else _moment(row[2]) for row in living],
                {f: [None if row is None else self._layouts[row[0]].value(f, row) for row in living] for f in features},
            )
        except _UNREADABLE as error:
            raise StorageError(_REBUILD) from error


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the values of one schema's rows become a mapping."""

    names: Sequence[str]
    places: Mapping[str, int]
    restore: Mapping[int, Restore]
    absent: Mapping[str, None]

    @classmethod
    def of(cls, schema: Sequence[Column], columns: Mapping[str, None]) -> _Layout:
        names = [name for name, _ in schema]
        found = {i: restorer(spec) for i, (_, spec) in enumerate(schema)}
        restore = {i: how for i, how in found.items() if how is not None}
        return cls(names, {n: i for i, n in enumerate(names)}, restore, columns if len(columns) > len(names) else {})

    def values(self, stored: list[Any]) -> dict[str, Any]:
        for i, restore in self.restore.items():
            if stored[i] is not None:
                stored[i] = restore(stored[i])
        named = dict(zip(self.names, stored, strict=True))
        return {**self.absent, **named} if self.absent else named

    def value(self, name: str, row: Sequence[Any]) -> Any:
        """One value of a row; None where rows of this schema lack it."""
        place = self.places.get(name)
        if place is None:
            return None
        value, restore = row[_HEAD + place], self.restore.get(place)
        return value if restore is None or value is None else restore(value)

    def column(self, name: str, columns: Sequence[Sequence[Any]]) -> list[Any]:
        """One column of rows, given all of their values by column."""
        place = self.places.get(name)
        if place is None:
            return [None] * len(columns[0])
        values, restore = columns[place], self.restore.get(place)
        if restore is None:
            return list(values)
        return [None if value is None else restore(value) for value in values]


def row_order(value: bytes) -> tuple[Order, bool]:
    """The order of a stored row, and whether it is a tombstone."""
    _, epoch, event, created, deleted, *_ = _decode(value)
    return (epoch, event, created), deleted


@dataclass(frozen=True)
class Batch:
    """Some encoded rows; ``keys`` ascend and are unique."""

    keys: Sequence[bytes]
    values: Sequence[bytes]
    frame: pl.DataFrame

    @property
    def orders(self) -> Iterator[Order]:
        """The order of each row."""
        epochs, events, created = (self.frame[name].to_list() for name in _ORDER)
        return zip(epochs, events, created, strict=True)

    @property
    def deleted(self) -> list[bool]:
        """Which rows are tombstones."""
        return self.frame["_deleted"].to_list()


class Rows:
    """Rows of one group made ready for an online store: one per entity, ascending by encoded key.

    ``rows`` have ``keys``, event_timestamp, created_timestamp, _epoch, _deleted and features; other
    bookkeeping is left out, and so are rows with a null in a key: no reader could ask for them. Of
    several rows of an entity the greatest by order stays. Raises InvalidInput, naming the column, where
    rows cannot be stored. An empty frame needs no columns.
    """

    def __init__(self, rows: pl.DataFrame, keys: Sequence[str]) -> None:
        self.columns: list[Column] = []
        self._rows, self._keys = rows, []
        if rows.is_empty():
            return
        if missing := [name for name in (*keys, *_BOOKKEEPING) if name not in rows.columns]:
            raise InvalidInput(f"online rows lack the column(s) {missing}: they have {rows.columns}")
        check_key_columns(rows.select(keys))
        features = [rows[name] for name in rows.columns if name not in keys and name not in RESERVED]
        stored = {s.name: stored_type(s.name, s.dtype) for s in features}
        for series in features:
            check_values(series.name, series)
        features.sort(key=lambda s: stored[s.name] not in FIXED_WIDTH)  # those are encoded together, so side by side
        self.columns = [(s.name, describe(s.dtype)) for s in features]
        order = _nearly_encoded(rows, keys)
        try:
            kept = [pl.col(name).cast(stored[name]) for name, _ in self.columns]
            rows = rows.select(*keys, *_bookkeeping(rows), *kept)
        except pl.exceptions.PolarsError as error:
            raise InvalidInput(f"online rows have bookkeeping of the wrong type: {error}") from error
        if any(rows[key].null_count() for key in keys):
            rows = rows.filter(pl.all_horizontal(pl.col(keys).is_not_null()))
        rows = rows.sort(order) if rows.height > 1 else rows
        encoded = encode_keys(rows.select(keys))
        rows = rows.drop(keys)
        if not all(map(operator.lt, encoded, islice(encoded, 1, None))):
            rows, encoded = _one_per_key(rows, encoded)
        self._rows, self._keys = rows, encoded

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> Sequence[bytes]:
        """The encoded keys, ascending."""
        return self._keys

    @property
    def size(self) -> int:
        """About how many bytes the encoded rows take, keys included."""
        return int(self._rows.estimated_size() * 1.2) + sum(map(len, self._keys[:1000])) * (len(self) // 1000 + 1)

    def batches(self, schema: int) -> Iterator[Batch]:
        """The rows encoded under a schema number, ascending by key."""
        fixed = [name for name, dtype in self._rows.schema.items() if dtype in FIXED_WIDTH]
        others = self._rows.columns[len(fixed) :]
        head = array_header(1 + self._rows.width) + b"\xcd" + schema.to_bytes(2, "big")
        skip = len(array_header(len(others)))
        for start in range(0, len(self), _BATCH):
            frame = self._rows.slice(start, _BATCH)
            if frame.height <= _FEW:
                values = [_encode((schema, *row)) for row in frame.iter_rows()]
                yield Batch(self._keys[start : start + _BATCH], values, frame)
                continue
            values = encode_block(frame.select(fixed), head)
            if others:
                rest = zip(*(frame[name].to_list() for name in others), strict=True)
                values = [value + _encode(row)[skip:] for value, row in zip(values, rest, strict=True)]
            yield Batch(self._keys[start : start + _BATCH], values, frame)


def _bookkeeping(rows: pl.DataFrame) -> list[pl.Expr]:
    """The columns that every row has, as they are stored."""
    for name in _BOOKKEEPING:
        if rows[name].null_count():
            raise InvalidInput(f"online rows have nulls in {name!r}: every row needs one")
    times = [utc_column(name, rows.schema[name]) for name in _ORDER[1:]]
    exact = all(rows.schema[name] == UTC_US for name in _ORDER[1:])
    for moments in (rows[list(_ORDER[1:])] if exact else rows.select(times)).iter_columns():
        check_values(moments.name, moments)
    micros = [time.cast(pl.Int64) for time in times]
    return [pl.col("_epoch").cast(pl.Int32), *micros, pl.col("_deleted").cast(pl.Boolean)]


def _nearly_encoded(rows: pl.DataFrame, keys: Sequence[str]) -> list[pl.Expr]:
    """What to sort by so that encoded keys mostly ascend; msgpack puts a text's length before it.

    Sorting columns is several times as fast as sorting the encoded keys; where the two differ (negative
    numbers, hashed keys), the keys are sorted after all.
    """
    order = []
    for name in keys:
        if rows.schema[name] == pl.String:
            order.append(pl.col(name).str.len_bytes())
        elif rows.schema[name] == pl.Binary:
            order.append(pl.col(name).bin.size())
        order.append(pl.col(name))
    return order


def _one_per_key(rows: pl.DataFrame, keys: list[bytes]) -> tuple[pl.DataFrame, list[bytes]]:
    """The rows sorted by key, of each key the greatest by order."""
    order = [_KEY, *_ORDER]
    rows = rows.with_columns(pl.Series(_KEY, keys, pl.Binary)).sort(order)
    if rows.select(order).is_duplicated().any():
        raise InvalidInput("online rows hold an entity twice with the same order: pass one row an entity")
    rows = rows.unique(_KEY, keep="last", maintain_order=True)
    return rows.drop(_KEY), rows[_KEY].to_list()

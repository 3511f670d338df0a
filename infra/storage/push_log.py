"""The push log in LMDB: pushed rows on disk until they are folded into their group's table."""

from __future__ import annotations

import fcntl
import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import lmdb
import msgspec
import polars as pl

from features.entity import DataType
from features.feature_rows import CREATED
from features.stores import PushEnds
from features.times import UTC_US, from_micros, to_micros
from infra.storage.column_types import stored_type
from infra.storage.lmdb_environment import LmdbUse, Purpose

# A key is a letter, a table's id, a zero byte, and what the letter says. Stamps are µs in eight bytes, so
# that a table's pushes lie together in their order.
_NAME = b"n"  # alone → this log's name
_MARKS = b"m"  # → [newest stamp of a push, stamp known to be served, newest stamp kept for a run]
_PUSH = b"p"  # + stamp → [column names, columns]
_ID = b"i"  # + hash of a push id → stamp
_ID_OF = b"s"  # + stamp → hash of the push id

_IDS_KEPT = timedelta(days=7)
_PURPOSE = Purpose(
    "push log", "keep a copy of the folder, for its rows are in no table yet; move it away to go on with an empty log"
)

_Txn: TypeAlias = "lmdb.Transaction[bytes]"  # quoted, for it is generic to the type checker alone
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_Push = tuple[int, list[str], list[list[Any]]]


class LmdbPushLog:
    """``features.stores.PushLog`` in a folder on the local disk, for many processes at once.

    Raises StorageError where the folder cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._use = LmdbUse(path, purpose=_PURPOSE)
        environment = self._use.environment
        name = environment.read(lambda txn: txn.get(_NAME)) or environment.write(_christen)
        self.name = name.decode()

    @contextmanager
    def lock(self, table_id: str) -> Iterator[None]:
        """Held by one pusher of a table at a time, over all processes; a killed one lets go of it."""
        # Opened anew each time: a lock belongs to the open file, so that threads keep each other out as well.
        with (self._path / f"{table_id.replace('/', '.')}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._use.environment.recover()
            yield

    def reserve(self, table_id: str, floor: datetime) -> datetime:
        """A stamp, not before ``floor``, that no push has or will have."""
        return from_micros(self._use.environment.write(lambda txn: _reserve(txn, _tail(table_id), to_micros(floor))))

    def append(
        self, table_id: str, rows: pl.DataFrame, *, floor: datetime, served: datetime | None, push_id: str | None
    ) -> datetime | None:
        """Keep a push under a new stamp, on disk when this returns; None if ``push_id`` was given before."""
        tail, value = _tail(table_id), _encode([rows.columns, [_values(series) for series in rows.iter_columns()]])
        mark = None if push_id is None else hashlib.sha256(push_id.encode()).digest()[:16]

        def put(txn: _Txn) -> datetime | None:
            if mark is not None and txn.get(_ID + tail + mark) is not None:
                return None
            if served is not None:
                _serve(txn, tail, to_micros(served))
            stamp = _new_stamp(txn, tail, to_micros(floor))
            txn.put(_PUSH + tail + _bytes(stamp), value)
            if mark is not None:
                _name_push(txn, tail, stamp, mark)
            return from_micros(stamp)

        return self._use.environment.write(put, len(value))

    def restamp(self, table_id: str, after: datetime | None, floor: datetime) -> None:
        """Give the pushes after a stamp new ones, in the same order, where the first is before ``floor``."""
        tail = _tail(table_id)

        def move(txn: _Txn) -> None:
            pushes = list(_between(txn, _PUSH + tail, after))
            if not pushes or pushes[0][0] >= to_micros(floor):
                return
            for old, value in pushes:
                stamp = _new_stamp(txn, tail, to_micros(floor))
                txn.delete(_PUSH + tail + _bytes(old))
                txn.put(_PUSH + tail + _bytes(stamp), value)
                if mark := txn.pop(_ID_OF + tail + _bytes(old)):
                    _name_push(txn, tail, stamp, mark)

        self._use.environment.write(move)

    def serve(self, table_id: str, through: datetime) -> None:
        """Note that pushes up to a stamp reached the online store."""
        self._use.environment.write(lambda txn: _serve(txn, _tail(table_id), to_micros(through)))

    def ends(self, table_id: str) -> PushEnds:
        """The stamps at which the table's pushes begin and end."""
        return self._use.environment.read(lambda txn: _ends(txn, _tail(table_id)))

    def read(
        self, table_id: str, dtypes: Mapping[str, DataType], after: datetime | None, through: datetime | None
    ) -> pl.DataFrame:
        """The rows of pushes with stamps in (after, through], null where a push lacks a column."""

        def get(txn: _Txn) -> list[_Push]:
            return [(stamp, *_decode(value)) for stamp, value in _between(txn, _PUSH + _tail(table_id), after, through)]

        pushes = self._use.environment.read(get)
        schema = pl.Schema({CREATED: UTC_US, **dtypes})
        # Consecutive pushes with the same columns become one frame.
        frames = [_frame(list(alike), schema) for _, alike in groupby(pushes, itemgetter(1))]
        return pl.concat([pl.DataFrame(schema=schema), *frames], how="diagonal")

    def drop(self, table_id: str, through: datetime) -> None:
        """Forget the pushes up to a stamp; their ids are remembered for a week."""
        tail = _tail(table_id)

        def forget(txn: _Txn) -> None:
            for stamp, _ in list(_between(txn, _PUSH + tail, None, through)):
                txn.delete(_PUSH + tail + _bytes(stamp))
            for stamp, mark in list(_between(txn, _ID_OF + tail, None, through - _IDS_KEPT)):
                txn.delete(_ID_OF + tail + _bytes(stamp))
                txn.delete(_ID + tail + mark)

        self._use.environment.write(forget)

    def close(self) -> None:
        """Release the log."""
        self._use.close()


def _christen(txn: _Txn) -> bytes:
    """The log's name, made up unless another process did meanwhile."""
    if txn.get(_NAME) is None:
        txn.put(_NAME, uuid.uuid4().hex.encode())
    return txn.get(_NAME, b"")


def _tail(table_id: str) -> bytes:
    return table_id.encode() + b"\0"


def _bytes(stamp: int) -> bytes:
    return stamp.to_bytes(8, "big")


class _Marks(NamedTuple):
    """Stamps to remember of a table, in µs; -1 for none."""

    newest: int = -1
    served: int = -1
    reserved: int = -1

    @classmethod
    def of(cls, txn: _Txn, tail: bytes) -> _Marks:
        return cls(*_decode(txn.get(_MARKS + tail, b"\x90")))

    def keep(self, txn: _Txn, tail: bytes) -> None:
        txn.put(_MARKS + tail, _encode(self))


def _new_stamp(txn: _Txn, tail: bytes, floor: int) -> int:
    marks = _Marks.of(txn, tail)
    stamp = max(floor, marks.newest + 1, marks.reserved + 1)
    marks._replace(newest=stamp).keep(txn, tail)
    return stamp


def _reserve(txn: _Txn, tail: bytes, floor: int) -> int:
    """The same stamp for a run that is begun again, as long as nobody pushed in between."""
    marks = _Marks.of(txn, tail)
    stamp = max(floor, marks.newest + 1)
    marks._replace(reserved=max(stamp, marks.reserved)).keep(txn, tail)
    return stamp


def _serve(txn: _Txn, tail: bytes, through: int) -> None:
    marks = _Marks.of(txn, tail)
    if through > marks.served:
        marks._replace(served=through).keep(txn, tail)


def _name_push(txn: _Txn, tail: bytes, stamp: int, mark: bytes) -> None:
    txn.put(_ID + tail + mark, _bytes(stamp))
    txn.put(_ID_OF + tail + _bytes(stamp), mark)


def _ends(txn: _Txn, tail: bytes) -> PushEnds:
    served = _Marks.of(txn, tail).served
    prefix, cursor = _PUSH + tail, txn.cursor()
    oldest = newest = None
    if cursor.set_range(prefix) and cursor.key().startswith(prefix):
        oldest = from_micros(int.from_bytes(cursor.key()[-8:], "big"))
        # The newest lies before the first key above all stamps, or is the last of the file.
        _ = cursor.prev() if cursor.set_range(prefix + b"\xff" * 9) else cursor.last()
        newest = from_micros(int.from_bytes(cursor.key()[-8:], "big"))
    return PushEnds(oldest, newest, None if served < 0 else from_micros(served))


def _between(
    txn: _Txn, prefix: bytes, after: datetime | None, through: datetime | None = None
) -> Iterator[tuple[int, bytes]]:
    """Stamps in (after, through] below a prefix, and what is kept there."""
    first = 0 if after is None else to_micros(after) + 1
    cursor = txn.cursor()
    found = cursor.set_range(prefix + _bytes(first))
    while found and cursor.key().startswith(prefix):
        stamp = int.from_bytes(cursor.key()[-8:], "big")
        if through is not None and stamp > to_micros(through):
            return
        yield stamp, cursor.value()
        found = cursor.next()


def _values(series: pl.Series) -> list[Any]:
    """A column as values that msgpack can hold."""
    return series.cast(stored_type(series.name, series.dtype)).to_list()


def _frame(pushes: Sequence[_Push], schema: pl.Schema) -> pl.DataFrame:
    """The rows of pushes that have the same columns."""
    names = pushes[0][1]
    heights = [len(columns[0]) for _, _, columns in pushes]
    stamps = pl.Series(CREATED, [stamp for stamp, _, _ in pushes], pl.Int64).cast(UTC_US)
    series = [pl.select(pl.lit(stamps).repeat_by(pl.Series(heights)).explode().alias(CREATED)).to_series()]
    for number, name in enumerate(names):
        if name in schema:
            values = list(chain.from_iterable(columns[number] for _, _, columns in pushes))
            series.append(pl.Series(name, values, stored_type(name, schema[name])).cast(schema[name]))
    return pl.DataFrame(series)

"""The embedded online store: one LMDB folder, many reader processes, one writer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeAlias

import lmdb
import msgspec
import polars as pl

from features.errors import StorageError
from features.stores import Key, OnlineColumns, OnlineRow, Publication
from features.times import from_micros, to_micros
from infra.storage.codec import Rows, TableCodec
from infra.storage.keys import encode_each
from infra.storage.lmdb_environment import MAP_SIZE, LmdbUse
from infra.storage.merging import Progress, due, winners

# One B-tree holds everything. The first four bytes of a key are the number of a table, counted from 1 in
# the order of creation, and an entity's key follows; so no two tables can collide, a table's rows lie
# together, and the first load of a new table only ever appends. Number 0 is for what describes the store:
_ABOUT = bytes(4) + b"f"  # [format, tables there are]
_TABLE = bytes(4) + b"t"  # + table id → the table's number in four bytes, then its codec
_PROGRESS = bytes(4) + b"w"  # + number → watermark and counts
_PUBLICATION = bytes(4) + b"p"  # + number + plan in eight bytes → [after, published_at in µs]
_FORMAT = 1

_Txn: TypeAlias = "lmdb.Transaction[bytes]"  # quoted, for it is generic to the type checker alone
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class _Table(NamedTuple):
    """What a read needs to know of a table; ``raw`` is the record it was read from."""

    raw: bytes
    prefix: bytes
    codec: TableCodec


class LmdbOnlineStore:
    """``features.stores.OnlineStore`` in a folder on the local disk.

    Rows, watermark and publication are written in one transaction: whatever is killed when, all of it
    is there afterwards, or nothing. Stores of one folder share one environment within a process, and
    a forked process gets one of its own. The map grows by itself from ``map_size`` bytes. Raises
    StorageError where the folder cannot be used.
    """

    at_once = True

    def __init__(self, path: Path, target: str = "lmdb", *, map_size: int = MAP_SIZE) -> None:
        self.target = target
        self._path = path
        self._map_size = map_size
        self._tables: dict[str, _Table] = {}
        self._use = LmdbUse(path, map_size)
        try:
            self._use.environment.read(self._check_format)
        except StorageError:
            self.close()
            raise

    def write(self, table_id: str, keys: Sequence[str], rows: pl.DataFrame, publication: Publication) -> int:
        """Merge rows by their order, move the watermark and keep the publication; returns how many won."""
        ready = Rows(rows, keys)
        return self._use.environment.write(lambda txn: self._publish(txn, table_id, ready, publication), ready.size)

    def push(self, table_id: str, keys: Sequence[str], rows: pl.DataFrame, through: datetime) -> int:
        """Merge pushed rows by their order and note up to which stamp pushes are here; returns how many won."""
        ready, stamp = Rows(rows, keys), to_micros(through)

        def put(txn: _Txn) -> int:
            prefix, progress, won = self._absorb(txn, table_id, ready)
            txn.put(_PROGRESS + prefix, _encode(progress._replace(pushed=max(progress.pushed, stamp))))
            return won

        return self._use.environment.write(put, ready.size)

    def pushed(self, table_id: str) -> datetime | None:
        """The stamp up to which pushes are here; None for no push at all."""
        return self._progress(table_id).pushed_at()

    def read(self, table_id: str, keys: Sequence[Key]) -> list[OnlineRow | None]:
        """The rows of some entities, in order; None where there is none or a key value is null."""
        codec, found = self._find(table_id, keys)
        return [None if value is None else codec.decode(value) for value in found]

    def read_columns(self, table_id: str, keys: Sequence[Key], features: Sequence[str]) -> OnlineColumns:
        """Some features of some entities, in order: what ``read`` finds, without a row for each."""
        codec, found = self._find(table_id, keys)
        return codec.decode_columns(found, features)

    def at_hand(
        self, table_id: str, keys: Sequence[Key], features: Sequence[str], *, stale: bool = False
    ) -> OnlineColumns | None:
        """What ``read_columns`` says; nothing is remembered beside it."""
        return None if stale else self.read_columns(table_id, keys, features)

    def watermark(self, table_id: str) -> int:
        """The last plan that was published; 0 for none."""
        return self._progress(table_id).watermark

    def publications(self, table_id: str) -> list[Publication]:
        """Every publication kept with the data, oldest first."""

        def scan(txn: _Txn) -> list[Publication]:
            table = self._table(txn, table_id)
            if table is None:
                return []
            prefix, kept = _PUBLICATION + table.prefix, []
            cursor = txn.cursor()
            found = cursor.set_range(prefix)
            while found and cursor.key().startswith(prefix):
                after, published_at = _decode(cursor.value())
                plan = int.from_bytes(cursor.key()[len(prefix) :], "big")
                kept.append(Publication(table_id, after, plan, from_micros(published_at)))
                found = cursor.next()
            return kept

        return self._use.environment.read(scan)

    def count(self, table_id: str) -> int:
        """How many entities the group has here, deleted ones not counted."""
        return self._progress(table_id).live

    def close(self) -> None:
        """Release the folder; the environment closes with the last store of this process that uses it."""
        self._use.close()

    def _find(self, table_id: str, keys: Sequence[Key]) -> tuple[TableCodec, list[bytes | None]]:
        """The rows of some entities as they are stored, and what reads them."""
        encoded = encode_each(keys)

        def get(txn: _Txn) -> tuple[TableCodec, list[bytes | None]]:
            table = self._table(txn, table_id)
            if table is None:
                return TableCodec(), [None] * len(encoded)
            prefix, get = table.prefix, txn.get
            return table.codec, [None if key is None else get(prefix + key) for key in encoded]

        return self._use.environment.read(get)

    def _check_format(self, txn: _Txn) -> None:
        about = txn.get(_ABOUT)
        if about is None:
            if txn.stat()["entries"]:
                raise StorageError(f"online store {self._path}: another program's LMDB folder: choose a new one")
        elif _decode(about)[0] != _FORMAT:
            remedy = "update featurefab, or move the folder away and sync in full"
            raise StorageError(f"online store {self._path}: written by another version's format: {remedy}")

    def _table(self, txn: _Txn, table_id: str) -> _Table | None:
        """The table as of the transaction: read again only when its record changed."""
        raw = txn.get(_TABLE + table_id.encode())
        if raw is None:
            return None
        known = self._tables.get(table_id)
        if known is None or known.raw != raw:
            known = self._tables[table_id] = _Table(raw, raw[:4], TableCodec.unpack(raw[4:]))
        return known

    def _progress(self, table_id: str) -> Progress:
        def get(txn: _Txn) -> Progress:
            table = self._table(txn, table_id)
            return Progress() if table is None else _read_progress(txn, table.prefix)

        return self._use.environment.read(get)

    def _publish(self, txn: _Txn, table_id: str, ready: Rows, publication: Publication) -> int:
        table = self._table(txn, table_id)
        progress = Progress() if table is None else _read_progress(txn, table.prefix)
        entry = due(publication, table_id, progress.watermark, self.target)
        if entry is None:
            return 0
        prefix, progress, won = self._absorb(txn, table_id, ready)
        txn.put(_PROGRESS + prefix, _encode(progress._replace(watermark=entry.plan)))
        kept = _encode([entry.after, to_micros(entry.published_at)])
        txn.put(_PUBLICATION + prefix + entry.plan.to_bytes(8, "big"), kept)
        return won

    def _absorb(self, txn: _Txn, table_id: str, ready: Rows) -> tuple[bytes, Progress, int]:
        """Merge rows into the table, made when needed: its prefix, its progress since, how many rows won."""
        table = self._table(txn, table_id)
        prefix = _new_prefix(txn) if table is None else table.prefix
        known = TableCodec() if table is None else table.codec
        progress, codec, won = _read_progress(txn, prefix), known, 0
        if len(ready):
            codec, schema = known.including(ready.columns)
            won, progress = _merge(txn, prefix, ready, schema, progress)
        if table is None or codec is not known:
            txn.put(_TABLE + table_id.encode(), prefix + codec.pack())
        return prefix, progress, won


def _read_progress(txn: _Txn, prefix: bytes) -> Progress:
    return Progress(*_decode(txn.get(_PROGRESS + prefix, b"\x90")))


def _new_prefix(txn: _Txn) -> bytes:
    about = txn.get(_ABOUT)
    number = 1 + (_decode(about)[1] if about else 0)
    txn.put(_ABOUT, _encode([_FORMAT, number]))
    return number.to_bytes(4, "big")


def _merge(txn: _Txn, prefix: bytes, ready: Rows, schema: int, progress: Progress) -> tuple[int, Progress]:
    """Write the rows that win; returns how many, and the counts afterwards."""
    _, entities, live, _ = progress
    cursor = txn.cursor()
    first_load = entities == 0
    append = first_load and (not cursor.last() or cursor.key() < prefix)
    won = 0
    for batch in ready.batches(schema):
        keys = [prefix + key for key in batch.keys]
        found = {} if first_load else {key[4:]: value for key, value in cursor.getmulti(keys)}
        better = winners(batch, found)
        pairs = [(prefix + key, value) for key, value in better.pairs]
        _, written = cursor.putmulti(pairs, append=append)
        if append and written < len(pairs):  # LMDB passes over what does not ascend
            raise StorageError("online rows did not ascend by key: report this, nothing was written")
        won, entities, live = won + len(pairs), entities + better.new, live + better.live
    return won, progress._replace(entities=entities, live=live)

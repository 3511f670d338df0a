"""An online store in this process's memory: for tests, small projects and trials."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from features.errors import StorageError
from features.stores import Key, OnlineColumns, OnlineRow, Publication
from features.times import to_micros
from infra.storage.codec import Rows, TableCodec
from infra.storage.keys import encode_each
from infra.storage.merging import Progress, due, winners


@dataclass
class _Table:
    codec: TableCodec = field(default_factory=TableCodec)
    rows: dict[bytes, bytes] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    publications: list[Publication] = field(default_factory=list)


class MemoryOnlineStore:
    """``features.stores.OnlineStore`` in memory; it ends with the process, or with ``close``.

    Threads may share it: a read sees all of a write or nothing.
    """

    at_once = True

    def __init__(self, target: str = "memory") -> None:
        self.target = target
        self._tables: dict[str, _Table] | None = {}
        self._lock = threading.Lock()

    def write(self, table_id: str, keys: Sequence[str], rows: pl.DataFrame, publication: Publication) -> int:
        """Merge rows by their order, move the watermark and keep the publication; returns how many won."""
        ready = Rows(rows, keys)
        with self._lock:
            table = self._open().get(table_id) or _Table()
            entry = due(publication, table_id, table.progress.watermark, self.target)
            if entry is None:
                return 0
            won = _merge(table, ready) if len(ready) else 0
            table.progress = table.progress._replace(watermark=entry.plan)
            table.publications.append(entry)
            self._open()[table_id] = table
            return won

    def push(self, table_id: str, keys: Sequence[str], rows: pl.DataFrame, through: datetime) -> int:
        """Merge pushed rows by their order and note up to which stamp pushes are here; returns how many won."""
        ready = Rows(rows, keys)
        with self._lock:
            table = self._open().get(table_id) or _Table()
            won = _merge(table, ready) if len(ready) else 0
            table.progress = table.progress._replace(pushed=max(table.progress.pushed, to_micros(through)))
            self._open()[table_id] = table
            return won

    def pushed(self, table_id: str) -> datetime | None:
        """The stamp up to which pushes are here; None for no push at all."""
        return self._table(table_id).progress.pushed_at()

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
        return self._table(table_id).progress.watermark

    def publications(self, table_id: str) -> list[Publication]:
        """Every publication, oldest first."""
        return list(self._table(table_id).publications)

    def count(self, table_id: str) -> int:
        """How many entities the group has here, deleted ones not counted."""
        return self._table(table_id).progress.live

    def close(self) -> None:
        """Forget everything."""
        self._tables = None

    def _find(self, table_id: str, keys: Sequence[Key]) -> tuple[TableCodec, list[bytes | None]]:
        """The rows of some entities as they are stored, and what reads them."""
        encoded = encode_each(keys)
        with self._lock:
            table = self._open().get(table_id)
            if table is None:
                return TableCodec(), [None] * len(encoded)
            return table.codec, [None if key is None else table.rows.get(key) for key in encoded]

    def _open(self) -> dict[str, _Table]:
        if self._tables is None:
            raise StorageError(f"the online store {self.target!r} is closed: make a new one")
        return self._tables

    def _table(self, table_id: str) -> _Table:
        with self._lock:
            return self._open().get(table_id) or _Table()


def _merge(table: _Table, ready: Rows) -> int:
    table.codec, schema = table.codec.including(ready.columns)
    _, entities, live, _ = table.progress
    won = 0
    for batch in ready.batches(schema):
        found = {key: table.rows[key] for key in batch.keys if key in table.rows}
        better = winners(batch, found)
        table.rows.update(better.pairs)
        won, entities, live = won + len(better.pairs), entities + better.new, live + better.live
    table.progress = table.progress._replace(entities=entities, live=live)
    return won

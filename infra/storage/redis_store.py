"""The online store for production: Redis or Valkey, shared by many machines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

import polars as pl

from features.errors import StorageError
from features.stores import Key, OnlineColumns, OnlineRow, Publication
from features.times import Clock, from_micros, micros, to_micros, utc_now
from infra.storage import redis_layout as layout
from infra.storage.codec import Column, Rows, TableCodec
from infra.storage.keys import encode_each
from infra.storage.merging import due
from infra.storage.redis_layout import TableKeys
from infra.storage.redis_server import Command, RedisServer, Talk
from infra.storage.row_cache import RowCache, Unknown

Found = TypeVar("Found")

_FEW = 1_000  # rows that are not worth a thread
_MANY = 1_000  # keys of one MGET: other clients wait while it is answered
_NEVER = b"never"  # where rows expired once and do not any more


class _Table(NamedTuple):
    """What a client knows of a table's format; ``digest`` tells it from every other one."""

    digest: bytes
    codec: TableCodec


class _State(NamedTuple):
    """Where a table stands; ``ttl`` is the least that any of its rows was written with."""

    digest: bytes
    watermark: int
    ttl: bytes | None

    def outlived_by(self, ttl: int | None) -> bool:
        """Whether rows are gone, or will be, that a ttl (in µs) still asks for."""
        return self.ttl not in (None, _NEVER) and (ttl is None or ttl > int(self.ttl or 0))

    def shortened_by(self, ttl: int | None) -> bool:
        """Whether rows written with a ttl (in µs) end before all that are there."""
        return ttl is not None and (self.ttl in (None, _NEVER) or ttl < int(self.ttl or 0))


class RedisOnlineStore:
    """``features.stores.OnlineStore`` in a Redis or Valkey, named by ``url``; see docs/online.md for its forms.

    Each row is merged by a script in the server, so whoever syncs and pushes at once, the greatest order
    stays. A write as a whole is not one transaction: its rows become visible batch by batch (while a sync
    that is not atomic is open, either answer is right), and then the watermark moves together with the
    publication, in a script that looks at the watermark again. What is killed before that is repeated by
    the next sync, to which rows that are there already are nothing new; of two syncs at once, each plan
    is published by one. Likewise the stamp of a push moves after its rows.

    ``ttl_of`` says how long rows of a table are kept: until event_timestamp + ttl, then the server forgets
    them. Raising a ttl makes the watermark 0 until everything was synced again. ``clock`` is what lives are
    reckoned by. ``namespace`` keeps stores apart that share a server. ``cache`` remembers rows that were read; the
    server tells it of changes. Raises SettingsError for a URL that
    cannot be used, StorageError where the server cannot be asked; it connects when first asked.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "featurefab",
        ttl_of: Callable[[str], timedelta | None] = lambda _: None,
        target: str = "redis",
        clock: Clock = utc_now,
        cache: RowCache | None = None,
    ) -> None:
        self.target = target
        self._server = RedisServer(url)
        self.at_once = cache is not None
        self._cache = cache
        if cache is not None:
            self._server.follow(cache)
        self._namespace = namespace
        self._ttl_of = ttl_of
        self._clock = clock
        self._keys: dict[str, TableKeys] = {}
        self._tables: dict[str, _Table] = {}

    def __repr__(self) -> str:
        return f"RedisOnlineStore({self._server.shown!r}, namespace={self._namespace!r})"

    def write(self, table_id: str, keys: Sequence[str], rows: pl.DataFrame, publication: Publication) -> int:
        """Merge rows by their order, then move the watermark and keep the publication; returns how many won."""
        ready, ttl = Rows(rows, keys), self._ttl(table_id)
        with self._server.talk(f"a sync of {table_id!r}") as talk:
            state = self._state(table_id, talk)
            raised = state.outlived_by(ttl)
            entry = due(publication, table_id, 0 if raised else state.watermark, self.target)
            if entry is None:
                return 0
            won = self._absorb(talk, table_id, ready, state)
            self._publish(talk, entry, b"" if not raised else _NEVER if ttl is None else b"%d" % ttl)
            return won

    def push(self, table_id: str, keys: Sequence[str], rows: pl.DataFrame, through: datetime) -> int:
        """Merge pushed rows by their order, then note up to which stamp pushes are here; returns how many won."""
        ready, stamp = Rows(rows, keys), to_micros(through).to_bytes(8, "big")
        with self._server.talk(f"a push to {table_id!r}") as talk:
            won = self._absorb(talk, table_id, ready, self._state(table_id, talk))
            talk([("EVAL", layout.NOTE_PUSH, 1, self._of(table_id).about, stamp)])
            return won

    def pushed(self, table_id: str) -> datetime | None:
        """The stamp up to which pushes are here; None for no push at all."""
        (stamp,) = self._read(table_id, [("HGET", self._of(table_id).about, "pushed")])
        return None if stamp is None else from_micros(int.from_bytes(stamp, "big"))

    def read(self, table_id: str, keys: Sequence[Key]) -> list[OnlineRow | None]:
        """The rows of some entities, in order; None where there is none, it expired, or a key value is null."""
        return self._find(table_id, keys, _decoded)

    def read_columns(self, table_id: str, keys: Sequence[Key], features: Sequence[str]) -> OnlineColumns:
        """Some features of some entities, in order: what ``read`` finds, without a row for each."""
        return self._find(table_id, keys, lambda codec, rows: codec.decode_columns(rows, features))

    def at_hand(
        self, table_id: str, keys: Sequence[Key], features: Sequence[str], *, stale: bool = False
    ) -> OnlineColumns | None:
        """What ``read_columns`` finds where all of it is in the cache; ``stale`` rows may have changed since."""
        table = self._tables.get(table_id)
        if self._cache is None or table is None:
            return None
        encoded, here = encode_each(keys), self._of(table_id)
        rows = self._cache.find_all([here.row(key) for key in encoded if key is not None], stale=stale)
        if rows is None:
            return None
        try:
            found = table.codec.decode_columns(_spread(rows, encoded), features)
        except StorageError:  # rows of a newer format than is known here
            return None
        return found._replace(cached=True)

    def warm(self, keys: Sequence[bytes]) -> None:
        """Remember the rows of keys that ``RowCache.hot`` named, the hottest last: these are to stay."""
        assert self._cache is not None  # who else has such keys
        coldest_first = keys[::-1]
        for start in range(0, len(keys), _MANY):
            self._learned(self._cache, "a warm-up", coldest_first[start : start + _MANY])

    def watermark(self, table_id: str) -> int:
        """The last plan that was published; 0 for none, or where a raised ttl asks for all rows again."""
        state = self._state(table_id, lambda commands: self._read(table_id, commands))
        return 0 if state.outlived_by(self._ttl(table_id)) else state.watermark

    def publications(self, table_id: str) -> list[Publication]:
        """Every publication kept with the data, oldest first."""
        (kept,) = self._read(table_id, [("LRANGE", self._of(table_id).published, 0, -1)])
        entries = [map(int, entry.split()) for entry in kept]
        return [Publication(table_id, after, plan, from_micros(at)) for after, plan, at in entries]

    def count(self, table_id: str) -> int:
        """How many entities the group has here, deleted ones not counted.

        Exact where rows do not expire. Where they do, up to a 128th of the ttl passes (a second, if that
        is more) until a row that expired is no longer counted, and an entity that comes back within that
        time counts twice.
        """
        now = to_micros(self._clock()) // 1_000_000
        commands: list[Command] = [("EVAL", layout.COUNT, 1, key, now) for key in self._of(table_id).counts]
        return sum(self._read(table_id, commands))

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def _of(self, table_id: str) -> TableKeys:
        known = self._keys.get(table_id)
        if known is None:
            known = self._keys[table_id] = TableKeys(self._namespace, table_id)
        return known

    def _ttl(self, table_id: str) -> int | None:
        ttl = self._ttl_of(table_id)
        return None if ttl is None else micros(ttl)

    def _read(self, table_id: str, commands: Sequence[Command]) -> list[Any]:
        """What only a primary is asked: a replica may lag behind."""
        return self._server.read(f"a read of {table_id!r}", commands, newest=True)

    def _find(
        self, table_id: str, keys: Sequence[Key], decode: Callable[[TableCodec, list[bytes | None]], Found]
    ) -> Found:
        """What ``decode`` makes of the rows of some entities, as they were encoded; None for one without."""
        encoded = encode_each(keys)
        here, present = self._of(table_id), [key for key in encoded if key is not None]
        rows, digest = self._rows(table_id, [here.row(key) for key in present])
        found = rows if len(present) == len(encoded) else _spread(rows, encoded)
        if digest is None or not any(found):
            return decode(TableCodec(), [None] * len(encoded))
        table = self._tables.get(table_id)
        if table is None or table.digest != digest:
            table = self._fetch(table_id)
        try:
            return decode(table.codec, found)
        except StorageError:
            newest = self._fetch(table_id)  # a replica may have sent rows newer than what it knows of the table
            if newest.digest == table.digest:
                raise
            return decode(newest.codec, found)

    def _rows(self, table_id: str, keys: list[bytes]) -> tuple[list[bytes | None], bytes | None]:
        """The rows with some keys of the server, and the digest of their table's format."""
        if self._cache is None:
            groups = self._together(keys)
            commands = [*_reading(keys, groups), self._digest(table_id)]
            *replies, digest = self._server.read(f"a read of {table_id!r}", commands)
            return _gathered(len(keys), groups, replies), digest
        return self._rows_beside(self._cache, table_id, keys)

    def _rows_beside(
        self, cache: RowCache, table_id: str, keys: list[bytes]
    ) -> tuple[list[bytes | None], bytes | None]:
        """As ``_rows``, where a cache knows some of them; it learns the others."""
        known = cache.find(keys)
        lacking = [key for key, row in zip(keys, known, strict=True) if isinstance(row, Unknown)]
        table = self._tables.get(table_id)
        if table is not None and not lacking:
            return [row for row in known if not isinstance(row, Unknown)], table.digest
        rows, (digest,) = self._learned(cache, f"a read of {table_id!r}", lacking, self._digest(table_id))
        new = iter(rows)
        return [next(new) if isinstance(row, Unknown) else row for row in known], digest

    def _learned(
        self, cache: RowCache, doing: str, keys: Sequence[bytes], *others: Command
    ) -> tuple[list[bytes | None], list[Any]]:
        """The rows with some keys, which the cache learns, and the replies to other commands sent after them."""
        ticket, groups = cache.expect(keys), self._together(keys)
        try:
            replies, followed = self._server.read_followed(doing, [*_reading(keys, groups), *others])
            rows = _gathered(len(keys), groups, replies[: len(groups)])
            if followed:
                cache.put(ticket, keys, rows)
        finally:
            cache.forgo(ticket, keys)
        return rows, replies[len(groups) :]

    def _digest(self, table_id: str) -> Command:
        """Asks for the digest of a table's format: after its rows, for a format is kept before the first row in it."""
        return ("HGET", self._of(table_id).about, "digest")

    def _together(self, keys: Sequence[bytes]) -> list[Sequence[int]]:
        """The places of keys that one MGET may ask for: of all, but in a cluster of those of one bucket."""
        if not self._server.clustered:
            return [range(start, min(start + _MANY, len(keys))) for start in range(0, len(keys), _MANY)]
        groups: dict[bytes, list[int]] = {}
        for at, key in enumerate(keys):
            groups.setdefault(layout.tag_of(key), []).append(at)
        return list(groups.values())

    def _state(self, table_id: str, talk: Talk) -> _State:
        (found,) = talk([("HMGET", self._of(table_id).about, "digest", "watermark", "ttl")])
        digest, watermark, ttl = found
        return _State(digest or b"", int(watermark or 0), ttl)

    def _fetch(self, table_id: str, talk: Talk | None = None) -> _Table:
        """The table's format as the server has it, from now on known."""
        ask: Talk = talk or (lambda commands: self._read(table_id, commands))
        (found,) = ask([("HMGET", self._of(table_id).about, "format", "digest", "codec")])
        version, digest, raw = found
        if version is not None and int(version) != layout.FORMAT:
            remedy = "update featurefab, or choose another namespace and sync in full"
            raise StorageError(f"online store {self._server.shown}: written by another version's format: {remedy}")
        table = _Table(digest or b"", TableCodec.unpack(raw) if raw else TableCodec())
        self._tables[table_id] = table
        return table

    def _schema(self, talk: Talk, table_id: str, columns: Sequence[Column], digest: bytes) -> int:
        """The number of a row format, made known to the server first."""
        table = self._tables.get(table_id)
        while True:
            if table is None or table.digest != digest:
                table = self._fetch(table_id, talk)
            codec, number = table.codec.including(columns)
            if codec is table.codec:
                return number
            raw = codec.pack()
            new = hashlib.blake2b(raw, digest_size=8).digest()
            learn = ("EVAL", layout.LEARN, 1, self._of(table_id).about, table.digest, layout.FORMAT, new, raw)
            if talk([learn]) == [1]:
                self._tables[table_id] = _Table(new, codec)
                return number
            table = None  # another client was faster

    def _absorb(self, talk: Talk, table_id: str, ready: Rows, state: _State) -> int:
        """Merge rows in the server; returns how many won."""
        if not len(ready):
            return 0
        keys, ttl = self._of(table_id), self._ttl(table_id)
        schema = self._schema(talk, table_id, ready.columns, state.digest)
        if state.shortened_by(ttl):
            talk([("HSET", keys.about, "ttl", ttl)])
        life = layout.Life(ttl, to_micros(self._clock()))
        batches = (keys.absorb(batch, life) for batch in ready.batches(schema))
        try:
            return sum(sum(replies) for replies in _answered(talk, batches, threaded=len(ready) > _FEW))
        finally:
            if self._cache is not None:  # the server tells of them, too, but perhaps after the next read
                self._cache.forget(map(keys.row, ready.keys))

    def _publish(self, talk: Talk, entry: Publication, ttl: bytes) -> None:
        """Move the watermark and keep the publication; ``ttl`` is what every row has now, empty: as before."""
        keys = self._of(entry.table_id)
        facts = (entry.after, entry.plan, to_micros(entry.published_at), ttl)
        if talk([("EVAL", layout.PUBLISH, 2, keys.about, keys.published, *facts)]) == [-1]:
            what = f"{entry.table_id!r} was reset there while it was synced"
            raise StorageError(f"online store {self._server.shown}: {what}: sync again")


def _reading(keys: Sequence[bytes], groups: Sequence[Sequence[int]]) -> list[Command]:
    return [("MGET", *(keys[at] for at in group)) for group in groups]


def _gathered(count: int, groups: Sequence[Sequence[int]], replies: Sequence[Any]) -> list[bytes | None]:
    """The rows in order, without what stands before each."""
    found: list[bytes | None] = [None] * count
    for group, values in zip(groups, replies, strict=True):
        for at, value in zip(group, values, strict=True):
            found[at] = None if value is None else value[layout.HEADER :]
    return found


def _spread(rows: Sequence[bytes | None], encoded: Sequence[bytes | None]) -> list[bytes | None]:
    """The rows in order, None for entities with a key value that is null."""
    left = iter(rows)
    return [None if key is None else next(left) for key in encoded]


def _decoded(codec: TableCodec, stored: Sequence[bytes | None]) -> list[OnlineRow | None]:
    return [None if row is None else codec.decode(row) for row in stored]


def _answered(talk: Talk, batches: Iterable[list[Command]], *, threaded: bool) -> Iterator[list[Any]]:
    """The replies to each batch; while the server works on one, the next is made."""
    if not threaded:
        yield from map(talk, batches)
        return
    with ThreadPoolExecutor(1) as worker:
        pending = None
        for commands in batches:
            if pending is not None:
                yield pending.result()
            pending = worker.submit(talk, commands)
        if pending is not None:
            yield pending.result()

"""What every online store promises: one test body, run over each backend."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import InvalidInput, StorageError
from features.stores import OnlineStore, Publication
from features.times import UTC_US
from infra.storage.lmdb_store import LmdbOnlineStore
from infra.storage.memory_store import MemoryOnlineStore
from infra.storage.redis_store import RedisOnlineStore
from infra.storage.row_cache import RowCache
from valkey_servers import ValkeyServer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WAFER = "wafer_aggregates/v1"
KEYS = ["lot_id", "wafer"]


@contextmanager
def memory() -> Iterator[OnlineStore]:
    store = MemoryOnlineStore()
    yield store
    store.close()


@contextmanager
def lmdb() -> Iterator[OnlineStore]:
    with TemporaryDirectory() as folder:
        store = LmdbOnlineStore(Path(folder) / "online")
        yield store
        store.close()


@contextmanager
def valkey(ttl: timedelta | None, *, cached: bool) -> Iterator[Callable[[], AbstractContextManager[OnlineStore]]]:
    with ValkeyServer() as server, server.client() as client:

        @contextmanager
        def empty() -> Iterator[OnlineStore]:
            client.flushall()
            cache = RowCache(1_000_000, 3_600) if cached else None
            store = RedisOnlineStore(server.url, ttl_of=lambda _: ttl, cache=cache)
            yield store
            store.close()

        yield empty


@pytest.fixture(
    params=["memory", "lmdb", "valkey", "valkey with rows that expire", "valkey with a cache"], scope="module"
)
def backend(request):
    """What opens a store that holds nothing yet."""
    if request.param in ("memory", "lmdb"):
        yield memory if request.param == "memory" else lmdb
    else:
        ttl = timedelta(days=999_999) if "expire" in request.param else None
        with valkey(ttl, cached="cache" in request.param) as empty:
            yield empty


@pytest.fixture
def store(backend):
    with backend() as store:
        yield store


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def row(lot: str | None, wafer: int | None, yield_pct: float | None, **other: Any) -> dict[str, Any]:
    base = {"event_timestamp": NOON, "created_timestamp": NOON, "_epoch": 0, "_deleted": False}
    return {"lot_id": lot, "wafer": wafer} | base | {"yield_pct": yield_pct} | other


def frame(*rows: dict[str, Any], **schema: Any) -> pl.DataFrame:
    types = {"lot_id": pl.String, "wafer": pl.Int64, "yield_pct": pl.Float64}
    times = {"event_timestamp": UTC_US, "created_timestamp": UTC_US}
    return pl.DataFrame(list(rows), schema_overrides=types | times | schema)


def plan(number: int, after: int | None = None, table_id: str = WAFER) -> Publication:
    return Publication(table_id, number - 1 if after is None else after, number, at(number))


def columns_agree(store: OnlineStore, table_id: str, keys: list[tuple[Any, ...]], features: list[str]) -> bool:
    """Whether reading by column finds what reading by row does, of which deleted rows are none."""
    rows = [None if row is None or row.deleted else row for row in store.read(table_id, keys)]
    times = [row and row.event_timestamp for row in rows]
    values = {feature: [row and row.values.get(feature) for row in rows] for feature in features}
    found, hand = store.read_columns(table_id, keys, features), store.at_hand(table_id, keys, features)
    return found[:2] == (times, values) and (hand is None or hand[:2] == found[:2])


def yields(store: OnlineStore, *keys: tuple[Any, ...], table_id: str = WAFER) -> list[Any]:
    return [found and found.values["yield_pct"] for found in store.read(table_id, keys)]


def test_a_store_without_the_table_answers_that_there_is_nothing(store):
    assert store.read(WAFER, [("L1", 1), ("L2", 2)]) == [None, None]
    assert store.read_columns(WAFER, [("L1", 1), ("L2", 2)], ["dies"])[:2] == ([None, None], {"dies": [None, None]})
    assert store.read_columns(WAFER, [], ["dies"])[:2] == ([], {"dies": []})
    assert (store.watermark(WAFER), store.publications(WAFER), store.count(WAFER)) == (0, [], 0)


def test_rows_come_back_whole_and_in_the_order_asked(store):
    rows = frame(row("L1", 1, 91.5), row("L1", 2, None, event_timestamp=at(-5), created_timestamp=at(3), _epoch=2))
    assert store.write(WAFER, KEYS, rows, plan(1)) == 2
    second, first, nobody, again = store.read(WAFER, [("L1", 2), ("L1", 1), ("L2", 1), ("L1", 2)])
    assert nobody is None
    assert first.values == {"yield_pct": 91.5}
    assert (second.event_timestamp, second.created_timestamp, second.epoch) == (at(-5), at(3), 2)
    assert (second.deleted, second.values) == (False, {"yield_pct": None})
    assert again == second
    assert store.count(WAFER) == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"_epoch": 0, "event_timestamp": at(9), "created_timestamp": at(9)}, {"_epoch": 1}),
        ({"created_timestamp": at(9)}, {"event_timestamp": at(1)}),
        ({}, {"created_timestamp": at(1)}),
    ],
    ids=["epoch", "event_timestamp", "created_timestamp"],
)
def test_the_greater_order_wins_in_whichever_order_the_rows_come(store, old, new):
    older, newer = row("L1", 1, 1.0, **old), row("L1", 1, 2.0, **new)
    assert store.write(WAFER, KEYS, frame(older), plan(1)) == 1
    assert store.write(WAFER, KEYS, frame(newer), plan(2)) == 1
    assert store.write(WAFER, KEYS, frame(older), plan(3)) == 0
    assert yields(store, ("L1", 1)) == [2.0]
    assert store.count(WAFER) == 1


def test_a_row_of_equal_order_changes_nothing(store):
    store.write(WAFER, KEYS, frame(row("L1", 1, 1.0)), plan(1))
    assert store.write(WAFER, KEYS, frame(row("L1", 1, 2.0)), plan(2)) == 0
    assert yields(store, ("L1", 1)) == [1.0]


def test_of_two_rows_of_an_entity_in_one_frame_the_greater_stays(store):
    rows = [row("L1", 1, 2.0, event_timestamp=at(1)), row("L1", 1, 1.0), row("L1", 2, 3.0)]
    assert store.write(WAFER, KEYS, frame(*rows), plan(1)) == 2
    assert yields(store, ("L1", 1), ("L1", 2)) == [2.0, 3.0]


def test_two_rows_of_an_entity_with_the_same_order_are_refused(store):
    with pytest.raises(InvalidInput, match="one row an entity"):
        store.write(WAFER, KEYS, frame(row("L1", 1, 1.0), row("L1", 1, 2.0)), plan(1))


def test_a_repeated_sync_changes_nothing(store):
    store.write(WAFER, KEYS, frame(row("L1", 1, 1.0)), plan(2, after=0))
    later = frame(row("L1", 1, 9.0, event_timestamp=at(9)), row("L9", 9, 9.0))
    for number in (1, 2):
        assert store.write(WAFER, KEYS, later, plan(number)) == 0
    assert yields(store, ("L1", 1), ("L9", 9)) == [1.0, None]
    assert store.publications(WAFER) == [plan(2, after=0)]
    assert store.watermark(WAFER) == 2


def test_plans_published_by_another_sync_meanwhile_are_not_published_again(store):
    store.write(WAFER, KEYS, frame(row("L1", 1, 1.0)), plan(2, after=0))
    assert store.write(WAFER, KEYS, frame(row("L1", 1, 1.0), row("L1", 2, 2.0)), plan(3, after=0)) == 1
    assert store.publications(WAFER) == [plan(2, after=0), plan(3, after=2)]


def test_a_publication_that_would_skip_plans_is_refused(store):
    with pytest.raises(InvalidInput, match="plans 1 to 4 of 'wafer_aggregates/v1' never reached"):
        store.write(WAFER, KEYS, frame(row("L1", 1, 1.0)), plan(5))
    assert store.count(WAFER) == 0


def test_the_publication_of_another_group_is_refused(store):
    with pytest.raises(InvalidInput, match="pass its own"):
        store.write(WAFER, KEYS, frame(row("L1", 1, 1.0)), plan(1, table_id="lots/v1"))


@pytest.mark.parametrize("rows", [frame(row("L1", 1, 1.0)).clear(), pl.DataFrame()], ids=["columns", "bare"])
def test_no_rows_still_move_the_watermark_and_keep_the_publication(store, rows):
    assert store.write(WAFER, KEYS, rows, plan(1)) == 0
    assert (store.watermark(WAFER), store.publications(WAFER), store.count(WAFER)) == (1, [plan(1)], 0)
    store.write(WAFER, KEYS, frame(row("L1", 1, 1.0)), plan(2))
    assert yields(store, ("L1", 1)) == [1.0]


def test_tombstones_are_read_back_and_not_counted(store):
    store.write(WAFER, KEYS, frame(row("L1", 1, 1.0), row("L1", 2, 2.0)), plan(1))
    gone = row("L1", 1, None, created_timestamp=at(1), _deleted=True)
    never = row("L7", 7, None, _deleted=True)
    assert store.write(WAFER, KEYS, frame(gone, never), plan(2)) == 2
    first, second, third = store.read(WAFER, [("L1", 1), ("L1", 2), ("L7", 7)])
    assert (first.deleted, second.deleted, third.deleted) == (True, False, True)
    assert store.count(WAFER) == 1
    store.write(WAFER, KEYS, frame(row("L1", 1, 3.0, created_timestamp=at(2))), plan(3))
    assert store.count(WAFER) == 2


def test_rows_with_a_null_in_their_key_are_left_out(store):
    rows = frame(row(None, 1, 1.0), row("L1", None, 2.0), row("L1", 1, 3.0))
    assert store.write(WAFER, KEYS, rows, plan(1)) == 1
    assert yields(store, (None, 1), ("L1", None), ("L1", 1)) == [None, None, 3.0]


def test_a_group_that_gains_columns_keeps_its_old_rows(store):
    store.write(WAFER, KEYS, frame(row("L1", 1, 1.0)), plan(1))
    assert store.read(WAFER, [("L1", 1)])[0].values == {"yield_pct": 1.0}
    store.write(WAFER, KEYS, frame(row("L1", 2, 2.0, lot_yield=5, tester="T1")), plan(2))
    old, new = store.read(WAFER, [("L1", 1), ("L1", 2)])
    assert old.values == {"yield_pct": 1.0, "lot_yield": None, "tester": None}
    assert new.values == {"yield_pct": 2.0, "lot_yield": 5, "tester": "T1"}
    # A group that is held at its older version writes rows without them again.
    store.write(WAFER, KEYS, frame(row("L1", 2, 3.0, _epoch=1)), plan(3))
    assert store.read(WAFER, [("L1", 2)])[0].values == {"yield_pct": 3.0, "lot_yield": None, "tester": None}


def test_columns_may_come_in_another_order(store):
    rows = frame(row("L1", 1, 1.0, tester="T1", dies=3))
    store.write(WAFER, KEYS, rows, plan(1))
    store.write(WAFER, KEYS, rows.select(reversed(rows.columns)).with_columns(lot_id=pl.lit("L2")), plan(2))
    first, second = store.read(WAFER, [("L1", 1), ("L2", 1)])
    assert first.values == second.values == {"yield_pct": 1.0, "tester": "T1", "dies": 3}


def test_durations_and_times_of_day_come_back_alike(store):
    spans = {
        "span": timedelta(days=-1, microseconds=1),
        "spans": [timedelta(0), None],
        "hour": time(23, 59, 59, 999999),
    }
    types = {"span": pl.Duration("us"), "spans": pl.List(pl.Duration("us")), "hour": pl.Time}
    store.write(WAFER, KEYS, frame(row("L1", 1, 1.0, **spans), **types), plan(1))
    store.write(WAFER, KEYS, frame(row("L1", 2, 1.0, **dict.fromkeys(spans)), **types), plan(2))
    first, second = store.read(WAFER, [("L1", 1), ("L1", 2)])
    assert first.values == {"yield_pct": 1.0} | spans
    assert second.values == {"yield_pct": 1.0} | dict.fromkeys(spans)
    assert columns_agree(store, WAFER, [("L1", 1), ("L1", 2)], [*spans, "yield_pct"])
    assert columns_agree(store, WAFER, [("L1", 1), ("L9", 9)], [*spans])


def test_groups_do_not_see_each_other(store):
    tables = ["a/v1", "a/v11", "a/v1\0", "a", "a/v2"]
    for i, table_id in enumerate(tables):
        store.write(table_id, ["lot_id"], frame(row("L1", 1, float(i))).drop("wafer"), plan(1, table_id=table_id))
    assert [yields(store, ("L1",), table_id=t) for t in tables] == [[0.0], [1.0], [2.0], [3.0], [4.0]]
    assert [store.count(t) for t in tables] == [1] * 5


def test_entities_whose_values_look_alike_are_kept_apart(store):
    texts = ["a", "ab", "b", "", "\0", "a\0", "a\0b", "ü", "u\u0308", "1", "x" * 479, "x" * 480, "x" * 5000, "x" * 5001]
    pairs = [(a, b) for a in texts for b in texts]
    rows = pl.DataFrame([row(a, 0, float(i)) | {"wafer": b} for i, (a, b) in enumerate(pairs)])
    assert store.write(WAFER, KEYS, rows, plan(1)) == len(pairs)
    assert yields(store, *pairs) == [float(i) for i in range(len(pairs))]


@pytest.mark.parametrize(
    ("dtype", "keys"),
    [
        (pl.Int64, [0, 1, -1, 127, 128, -33, 2**63 - 1, -(2**63)]),
        (pl.UInt64, [0, 2**63, 2**64 - 1]),
        (pl.Int128, [0, 2**64, -(2**100)]),
        (pl.Binary, [b"", b"\0", b"\xc1", b"a"]),
        (pl.Boolean, [True, False]),
        (pl.Float64, [0.5, 1.0, float("inf"), float("nan")]),
        (pl.Date, [date(2026, 1, 1), date(1, 1, 1), date(9999, 12, 31)]),
        (pl.Datetime("us", "UTC"), [NOON, datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)]),
        (pl.Datetime("ns", "Asia/Tokyo"), [NOON, at(1)]),
        (pl.Time, [time(1, 2, 3, 4), time(0)]),
        (pl.Duration("us"), [timedelta(0), timedelta(days=-1, microseconds=1)]),
        (pl.Decimal(38, 3), [Decimal("1.500"), Decimal("-0.001"), Decimal("10000000000000000000000000000000000.001")]),
        (pl.Enum(["new", "old"]), ["new", "old"]),
    ],
    ids=str,
)
def test_an_entity_is_found_by_keys_of_any_scalar_type(store, dtype, keys):
    rows = frame(*(row("L1", 1, float(i)) for i in range(len(keys)))).with_columns(k=pl.Series(keys, dtype=dtype))
    assert store.write(WAFER, ["lot_id", "k"], rows, plan(1)) == len(keys)
    assert yields(store, *(("L1", key) for key in keys)) == [float(i) for i in range(len(keys))]


def test_a_frame_that_cannot_be_stored_changes_nothing(store):
    store.write(WAFER, KEYS, frame(row("L1", 1, 1.0)), plan(1))
    good = row("L2", 2, 2.0)
    refused = [
        (frame(good | {"die": {"x": 1}}), "'die' is Struct"),
        (frame(good).drop("_epoch"), r"lack the column\(s\) \['_epoch'\]"),
        (frame(good | {"event_timestamp": None}), "nulls in 'event_timestamp'"),
        (frame(good).with_columns(_epoch=pl.lit("one")), "bookkeeping"),
        (frame(good).with_columns(lot_id=pl.lit(pl.Series([["L2"]]))), "key column 'lot_id' is List"),
        (frame(good).with_columns(pl.Series("lot_id", [object()], dtype=pl.Object)), "column 'lot_id' is Object"),
    ]
    for rows, message in refused:
        with pytest.raises(InvalidInput, match=message):
            store.write(WAFER, KEYS, rows, plan(2))
    assert (store.watermark(WAFER), store.count(WAFER), store.read(WAFER, [("L2", 2)])) == (1, 1, [None])


def test_bookkeeping_that_online_readers_do_not_need_is_left_out(store):
    store.write(WAFER, KEYS, frame(row("L1", 1, 1.0, _plan=1, _as_if=None)), plan(1))
    assert store.read(WAFER, [("L1", 1)])[0].values == {"yield_pct": 1.0}


def test_many_rows_in_several_batches(store):
    n = 120_000
    rows = frame(row("L1", 0, 0.5)).select(pl.all().repeat_by(n).list.explode())
    rows = rows.with_columns(wafer=pl.int_range(n).shuffle(seed=1) - n // 2).with_columns(yield_pct=pl.col("wafer") / 2)
    assert store.write(WAFER, KEYS, rows, plan(1)) == n
    again = rows.with_columns(pl.col("created_timestamp") + pl.duration(seconds=1 - pl.col("wafer") % 2))
    assert store.write(WAFER, KEYS, again.with_columns(pl.col("yield_pct") + 1), plan(2)) == n // 2
    assert store.count(WAFER) == n
    assert yields(store, ("L1", 7), ("L1", 8), ("L1", -n // 2)) == [3.5, 5.0, 1 - n / 4]


def test_a_closed_store_says_so(store):
    store.write(WAFER, KEYS, frame(row("L1", 1, 1.0)), plan(1))
    store.close()
    store.close()
    calls: list[Callable[[], object]] = [
        lambda: store.read(WAFER, [("L1", 1)]),
        lambda: store.read_columns(WAFER, [("L1", 1)], ["yield_pct"]),
        lambda: store.watermark(WAFER),
        lambda: store.publications(WAFER),
        lambda: store.count(WAFER),
        lambda: store.write(WAFER, KEYS, frame(row("L1", 1, 1.0)), plan(2)),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="is closed"):
            call()


# ----------------------------------------------------------------- any history agrees with a naive model

_TABLES = ["a/v1", "a/v2", "ab/v1"]
_LOTS = ["", "a", "a\0", "ü", "x" * 600]
_COLUMNS = {"yield_pct": pl.Float64, "tester": pl.String, "dies": pl.Int16}


class NaiveStore:
    """The contract as a dictionary and a loop."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, int], dict[str, Any]] = {}
        self.columns: dict[str, set[str]] = {t: set() for t in _TABLES}
        self.published: dict[str, list[Publication]] = {t: [] for t in _TABLES}

    def watermark(self, table_id: str) -> int:
        return self.published[table_id][-1].plan if self.published[table_id] else 0

    def write(self, table_id: str, rows: list[dict[str, Any]], columns: list[str], publication: Publication) -> int:
        before = self.watermark(table_id)
        if publication.plan <= before:
            return 0
        self.published[table_id].append(Publication(table_id, before, publication.plan, publication.published_at))
        if rows:
            self.columns[table_id] |= set(columns)
        won = 0
        for new in rows:
            key = (table_id, new["lot_id"], new["wafer"])
            old = self.rows.get(key)
            if old is None or _order(old) < _order(new):
                self.rows[key] = new
                won += 1
        return won

    def count(self, table_id: str) -> int:
        return sum(key[0] == table_id and not kept["_deleted"] for key, kept in self.rows.items())

    def values(self, table_id: str, lot: str, wafer: int) -> dict[str, Any] | None:
        kept = self.rows.get((table_id, lot, wafer))
        return None if kept is None else {name: kept.get(name) for name in self.columns[table_id]}


def _order(kept: dict[str, Any]) -> tuple[Any, ...]:
    return kept["_epoch"], kept["event_timestamp"], kept["created_timestamp"]


_small = st.integers(0, 3)
_rows = st.fixed_dictionaries(
    {
        "lot_id": st.sampled_from(_LOTS),
        "wafer": st.integers(-1, 1),
        "event_timestamp": _small.map(at),
        "created_timestamp": _small.map(at),
        "_epoch": st.integers(0, 1),
        "_deleted": st.booleans(),
        "yield_pct": st.none() | st.floats(allow_nan=False),
        "tester": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
        "dies": st.none() | st.integers(-(2**15), 2**15 - 1),
    }
)
_writes = st.tuples(
    st.sampled_from(_TABLES),
    st.lists(_rows, max_size=6, unique_by=lambda r: (r["lot_id"], r["wafer"])),
    st.integers(1, 3),  # how many of the columns the group has by then
    st.integers(-1, 2),  # how far the publication moves the watermark
)


@settings(max_examples=60, deadline=None)
@given(writes=st.lists(_writes, max_size=8))
def test_any_history_agrees_with_a_naive_store(backend, writes):
    naive = NaiveStore()
    with backend() as store:
        for table_id, rows, width, step in writes:
            columns = list(_COLUMNS)[:width]
            before = naive.watermark(table_id)
            publication = Publication(table_id, before, max(before + step, 0), at(before))
            kept = [{k: v for k, v in r.items() if k not in _COLUMNS or k in columns} for r in rows]
            written = store.write(table_id, KEYS, frame(*kept, **{c: _COLUMNS[c] for c in columns}), publication)
            assert written == naive.write(table_id, kept, columns, publication)
        for table_id in _TABLES:
            assert store.watermark(table_id) == naive.watermark(table_id)
            assert store.publications(table_id) == naive.published[table_id]
            assert store.count(table_id) == naive.count(table_id)
            keys = [(lot, wafer) for lot in _LOTS for wafer in (-1, 0, 1)]
            for key, found in zip(keys, store.read(table_id, keys), strict=True):
                assert (found and dict(found.values)) == naive.values(table_id, *key)
                if found:
                    kept_row = naive.rows[(table_id, *key)]
                    assert (found.epoch, found.event_timestamp, found.created_timestamp) == _order(kept_row)
                    assert found.deleted == kept_row["_deleted"]
            there = [key for key in keys if (row := naive.rows.get((table_id, *key))) and not row["_deleted"]]
            for asked in (keys, there, there[:1]):
                assert columns_agree(store, table_id, asked, [*_COLUMNS, "unheard_of"])

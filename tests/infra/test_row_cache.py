"""What a process remembers of a Redis is what is there: told of every change, stale where nobody can be asked."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from card_payments import T0
from features.errors import SettingsError, StorageError
from features.stores import Publication
from features.times import UTC_US
from infra.serving.workers import Worker, wish
from infra.storage.redis_store import RedisOnlineStore
from infra.storage.row_cache import RowCache, Unknown
from valkey_servers import ValkeyServer, until

TABLE, KEYS = "cards/v1", ["card"]


def rows(values, version):
    """Rows of cards, each with its value in two features, newer with every version."""
    moments = [T0 + timedelta(seconds=version)] * len(values)
    frame = pl.DataFrame({"card": list(values), "a": list(values.values()), "b": list(values.values())})
    times = [pl.Series(name, moments, UTC_US) for name in ("event_timestamp", "created_timestamp")]
    return frame.with_columns(*times, pl.lit(0).alias("_epoch"), pl.lit(value=False).alias("_deleted"))


class Home:
    """A Valkey, who writes to it, and who reads it with a cache."""

    def __init__(self, server):
        self.cache = RowCache(1_000_000, 3_600)
        self.reader = RedisOnlineStore(server.url, cache=self.cache)
        self.writer = RedisOnlineStore(server.url)
        self.version = 0

    def write(self, values):
        self.version += 1
        publication = Publication(TABLE, self.version - 1, self.version, T0)
        self.writer.write(TABLE, KEYS, rows(values, self.version), publication)

    def read(self, *cards):
        return self.reader.read_columns(TABLE, [(card,) for card in cards], ["a"]).values["a"]

    def at_hand(self, *cards, stale=False):
        found = self.reader.at_hand(TABLE, [(card,) for card in cards], ["a"], stale=stale)
        return found and found.values["a"]

    def learns(self, *cards):
        """Read until the rows are remembered."""
        until(lambda: self.read(*cards) and self.at_hand(*cards))

    def close(self):
        self.reader.close()
        self.writer.close()


@pytest.fixture(scope="module")
def server():
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def home(server):
    with server.client() as client:
        client.flushall()
    home = Home(server)
    yield home
    home.close()


def test_a_row_is_asked_for_once_until_it_changes(home):
    home.write({1: 1, 2: 2})
    home.learns(1, 2)
    before = home.cache.stats.misses
    assert (home.read(1, 2), home.at_hand(2)) == ([1, 2], [2])
    assert home.cache.stats.misses == before
    home.write({1: 10})
    until(lambda: home.at_hand(1) is None)
    assert home.at_hand(2) == [2]
    assert home.read(1, 2) == [10, 2]
    assert home.cache.stats.changed == 1


def test_that_there_is_no_row_is_remembered_until_there_is(home):
    home.write({1: 1})
    home.learns(1, 7)
    assert home.at_hand(7) == [None]
    home.write({7: 70})
    until(lambda: home.at_hand(7) is None)
    assert home.read(7) == [70]


def test_ones_own_writes_are_seen_at_once(home):
    home.write({1: 1})
    for amount in range(50):
        home.learns(1)
        pushed = rows({1: amount}, 1_000 + amount)
        home.reader.push(TABLE, KEYS, pushed, T0 + timedelta(seconds=amount))
        assert home.read(1) == [amount]


def test_a_server_that_is_emptied_is_believed(home, server):
    home.write({1: 1})
    home.learns(1)
    with server.client() as client:
        client.flushall()
    until(lambda: home.at_hand(1) is None)
    assert home.read(1) == [None]


def test_a_reader_beside_a_writer_never_goes_back_and_ends_with_what_was_written_last(home):
    cards, draw = list(range(40)), random.Random(1)
    home.write(dict.fromkeys(cards, 0))
    home.learns(*cards)

    def write_on():
        for version in range(1, 31):
            home.write(dict.fromkeys(cards, version))

    seen = dict.fromkeys(cards, 0)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_on)
        while min(seen.values()) < 30:
            asked = draw.sample(cards, 8)
            for card, value in zip(asked, home.read(*asked), strict=True):
                assert value >= seen[card]
                seen[card] = value
        writing.result(60)
    assert home.cache.stats.hits > 0


def test_a_server_that_is_gone_leaves_what_is_remembered_and_one_that_is_back_is_asked():
    with ValkeyServer() as server:
        home = Home(server)
        home.write({1: 1, 2: 2})
        home.learns(1)
        server.kill()
        until(lambda: not home.cache.trusted)
        assert (home.at_hand(1), home.at_hand(1, stale=True), home.at_hand(2, stale=True)) == (None, [1], None)
        with pytest.raises(StorageError):
            home.read(1)
        server.start()
        home.version = 0
        home.write({1: 100, 2: 200})
        until(lambda: home.cache.trusted)
        assert home.read(1, 2) == [100, 200]
        home.learns(1, 2)
        home.close()


def test_what_is_asked_for_often_is_brought_back(home, server, tmp_path):
    home.write({card: card for card in range(100)})
    home.learns(7)
    for _ in range(40):
        home.read(1, 2, 3)
    for card in range(4, 100):
        home.read(card)
    before = Worker(tmp_path, home.cache, home.reader.warm)
    for _ in range(60):  # a minute
        before.beat(before.own())
    again = Home(server)
    after = Worker(tmp_path, again.cache, again.reader.warm)
    until(lambda: again.cache.trusted)
    after.beat(after.own())
    rows = again.cache.find(home.cache.hot(3))
    assert len(rows) == 3
    assert not any(isinstance(row, Unknown) or row is None for row in rows)
    again.cache.forget(None)
    after.beat(after.own())
    assert len(again.cache) == 0
    wish(tmp_path, "warm")
    after.beat(after.own())
    assert len(again.cache) > 0
    again.close()


def test_a_cluster_is_not_cached():
    with pytest.raises(SettingsError, match="set online_cache_mb to 0"):
        RedisOnlineStore("redis+cluster://127.0.0.1:1", cache=RowCache(1, 1))


class Model:
    """The plainest cache that keeps the promise: two lists, of rows asked for once and again, least used first."""

    def __init__(self, size, seconds):
        self.size, self.seconds, self.once, self.again = size, seconds, [], []

    def weight(self, rows=None):
        return sum(
            200 + len(key) + len(row or b"") for key, row, _ in (self.once + self.again if rows is None else rows)
        )

    def find(self, keys, now):
        found = []
        for key in keys:
            entry = next((e for e in self.once + self.again if e[0] == key and e[2] >= now - self.seconds), None)
            found.append("unknown" if entry is None else entry[1])
            if entry is not None:
                self.drop(key)
                self.again.append(entry)
                while self.weight(self.again) > 0.8 * self.size:
                    self.once.append(self.again.pop(0))
        return found

    def put(self, keys, rows, now):
        for key, row in zip(keys, rows, strict=True):
            self.drop(key)
            self.once.append((key, row, now))
            while self.weight() > self.size:
                (self.once or self.again).pop(0)

    def drop(self, key):
        self.once, self.again = ([e for e in part if e[0] != key] for part in (self.once, self.again))


some_keys = st.lists(st.sampled_from([b"a", b"bb", b"c", b"dddd", b"e"]), min_size=1, max_size=4, unique=True)
steps = st.lists(
    st.tuples(st.sampled_from(["find", "put", "forget", "wait", "late"]), some_keys, st.integers(0, 300)), max_size=40
)


@settings(max_examples=200, deadline=None)
@given(steps=steps)
def test_it_holds_what_was_used_last_within_its_size_and_age(steps):
    now = [0.0]
    cache, model = RowCache(1_000, 10, lambda: now[0]), Model(1_000, 10)
    cache.trust()
    for step, keys, size in steps:
        new = [None if size % 5 == 0 else bytes(size)] * len(keys)
        if step == "find":
            found = ["unknown" if isinstance(row, Unknown) else row for row in cache.find(keys)]
            assert found == model.find(keys, now[0])
        elif step == "put":
            cache.put(cache.expect(keys), keys, new)
            model.put(keys, new, now[0])
        elif step == "late":  # it changes while it is on its way
            ticket = cache.expect(keys)
            cache.forget(keys)
            cache.put(ticket, keys, new)
            for key in keys:
                model.drop(key)
        elif step == "forget":
            cache.forget(keys)
            for key in keys:
                model.drop(key)
        else:
            now[0] += size / 60
        assert (len(cache), cache.weight) == (len(model.once + model.again), model.weight())
        assert cache.weight <= 1_000
